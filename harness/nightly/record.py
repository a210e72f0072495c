"""What the history keeps of a run: every cell's verdict, and everything that can explain a change of it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from harness.errors import ConfigError
from harness.matrix.build import column_of, load_results, started_of
from harness.matrix.model import Realm
from harness.verdicts import Verdict

SCHEMA = 1
#: Characters of a message that are kept: the whole of it is in the evidence.
_MESSAGE = 300


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Machine(_Model):
    """One host as the run found it. A fact that the host did not tell is an empty string.

    ``title`` is its class of CPU, ``kind`` that of the inventory; ``module`` the SHA-256 of the vmm.ko that was loaded,
    ``origin`` where that came from, ``defects`` the seeded ones.
    """

    host: str
    kind: str
    realm: Realm
    title: str
    vendor: str
    module: str = ""
    origin: str = ""
    defects: tuple[str, ...] = ()
    release: str = ""
    microcode: str = ""
    model: str = ""

    @property
    def column(self) -> str:
        """The heading of its trend. Machines of two kinds never share one, whatever they are called."""
        return f"{self.title} [{self.realm}{'' if self.kind in (self.realm, 'freebsd') else ', ' + self.kind}]"


class CellRecord(_Model):
    """One cell: the fields of results.json that a history needs. ``evidence`` is a path inside of the run folder."""

    host: str
    test: str
    case: str
    verdict: Verdict
    raw: Verdict
    code: str = ""
    message: str = ""
    evidence: str = ""


class Night(_Model):
    """One run. ``folder`` is the run folder relative to the history's, ``started`` seconds since 1970, ``revision``
    that of vmmcheck (empty: the run did not record it), ``selection`` what a sample drew (empty: no sample)."""

    schema_version: int
    run: str
    lab: str
    started: float
    exit_code: int
    planned: int
    revision: str
    selection: str = ""
    folder: str
    machines: tuple[Machine, ...]
    cells: tuple[CellRecord, ...]

    def machine(self, host: str) -> Machine:
        return next(machine for machine in self.machines if machine.host == host)

    @property
    def when(self) -> str:
        """Start of the run, in UTC."""
        return time.strftime("%Y-%m-%d %H:%M", time.gmtime(self.started))


def night_of_run(folder: Path, history: Path) -> Night:
    """The record of a finished run for the history in ``history``.

    Raises :class:`ConfigError` for a folder that is not a finished run, or a run that planned nothing.
    """
    results, recipe = load_results(folder), _recipe(folder)
    try:
        if not results["cells"]:
            raise ConfigError(
                f"The run '{results['run']}' planned no cells: it is not added to the history.",
                help="Check which hosts and cases the run selects.",
            )
        return Night(
            schema_version=SCHEMA,
            run=str(results["run"]),
            lab=str(results["lab"]),
            started=started_of(folder),
            exit_code=int(results["exit_code"]),
            planned=int(results["planned"]),
            revision=str(recipe.get("controller", {}).get("revision", "")),
            selection=str(recipe.get("selection", "")),
            folder=os.path.relpath(folder, history).replace(os.sep, "/"),
            machines=_machines(results),
            cells=tuple(_cell(cell) for cell in results["cells"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"'{folder / 'results.json'}' is damaged ({type(error).__name__}: {error}).") from None


def _machines(results: dict[str, Any]) -> tuple[Machine, ...]:
    found: dict[str, Machine] = {}
    for cell in results["cells"]:
        host = str(cell["host"])
        if host in found:
            continue
        facts = results["hosts"].get(host, {})
        column = column_of(cell, facts)
        found[host] = Machine(
            host=host,
            kind=cell["kind"],
            realm=column.realm,
            title=column.title,
            vendor=cell["vendor"],
            module=str(facts.get("vmm_sha256", "")),
            origin=str(facts.get("module_origin", "")),
            defects=tuple(sorted(facts.get("defects", ()))),
            release=str(facts.get("release", "")),
            microcode=str(facts.get("microcode", "")),
            model=str(facts.get("model", "")),
        )
    return tuple(found[host] for host in sorted(found))


def _cell(cell: dict[str, Any]) -> CellRecord:
    verdict = Verdict(cell["verdict"])
    message = "" if verdict in (Verdict.PASS, Verdict.SKIP) else " ".join(str(cell["message"]).split())
    return CellRecord(
        host=cell["host"],
        test=cell["test"],
        case=cell["case"],
        verdict=verdict,
        raw=Verdict(cell["raw"]),
        code=cell["code"],
        message=message if len(message) <= _MESSAGE else message[: _MESSAGE - 3] + "...",
        evidence="" if verdict is Verdict.PASS else cell["evidence"],
    )


def _recipe(folder: Path) -> dict[str, Any]:
    """What run.json says; empty where it cannot be read: it explains a run, and judges none."""
    try:
        recipe = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return recipe if isinstance(recipe, dict) else {}
