"""From run folders to a matrix."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import ConfigError
from harness.matrix.model import SCHEMA, Column, Entry, HostEntry, Matrix, Realm, Row
from harness.verdicts import Verdict

_REALMS = {
    "freebsd": Realm.HARDWARE,
    "bochs": Realm.EMULATED,
    "qemu": Realm.NESTED,
    "emulated": Realm.EMULATED,
    "bare": Realm.BARE,
}
#: Facts of a host that tell columns of one class apart, in the order that they are shown in.
_FACTS = ("release", "model", "microcode", "vmm_sha256")
#: Characters of a hash that are enough to tell two modules apart.
_HASH = 12


def matrix_of_runs(
    folders: Sequence[Path], out: Path, rows: Mapping[str, Row], *, planned: Iterable[str] = ()
) -> Matrix:
    """Fold runs into a matrix whose files will stand in ``out``.

    ``rows`` describes the known cases; a run's case that is not among them gets a row without a description.
    ``planned`` are cases that get a row although no run has them, so that holes show. Of two runs on one host the
    later one counts, case by case. Raises :class:`ConfigError` for a folder that is not a finished run.
    """
    columns: dict[str, Column] = {}
    entries: dict[tuple[str, str], dict[str, HostEntry]] = {}
    names: list[str] = []
    for folder in folders:
        results, started = load_results(folder), started_of(folder)
        names.append(str(results["run"]))
        seen: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        for cell in results["cells"]:
            column = column_of(cell, results["hosts"].get(cell["host"], {}))
            columns[column.id] = _joined(columns.get(column.id), column)
            seen.setdefault((cell["case"], column.id, cell["host"]), []).append(cell)
        for (case, id, host), cells in seen.items():
            entry = _host_entry(host, str(results["run"]), started, cells, folder, out)
            known = entries.setdefault((case, id), {}).get(host)
            if known is None or known.started <= started:
                entries[case, id][host] = entry
    cases = sorted({*planned, *(case for case, _ in entries)})
    order = list(Realm)
    return Matrix(
        schema_version=SCHEMA,
        runs=tuple(sorted(set(names))),
        columns=tuple(
            sorted(columns.values(), key=lambda column: (order.index(column.realm), column.vendor, column.id))
        ),
        rows=tuple(rows.get(case, Row(case=case, rule="", requirements=(), priority=0)) for case in cases),
        entries=tuple(
            Entry(case=case, column=id, hosts=tuple(hosts[name] for name in sorted(hosts)))
            for (case, id), hosts in sorted(entries.items())
        ),
    )


def load_results(folder: Path) -> dict[str, Any]:
    """The results.json of a run folder; raises :class:`ConfigError` for a folder that is not a finished run."""
    path = folder / "results.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if {"run", "hosts", "cells"} <= data.keys():
            return dict(data)
        raise ConfigError(f"'{path}' is not the result of a run: it has no cells.")
    except OSError as error:
        raise ConfigError(
            f"'{folder}' is not a finished run: '{path.name}' cannot be read ({error.strerror})."
        ) from None
    except (ValueError, AttributeError) as error:
        raise ConfigError(f"'{path}' is damaged: {error}.") from None


def started_of(folder: Path) -> float:
    """Start of a run in seconds since 1970; 0 where the run does not say."""
    try:
        return round(float(json.loads((folder / "run.json").read_text(encoding="utf-8"))["started"]), 3)
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def column_of(cell: Mapping[str, Any], facts: Mapping[str, Any]) -> Column:
    """The class of CPU that an entry of results.json belongs to, with ``facts`` of its host."""
    realm = _REALMS.get(cell["kind"], Realm.HARDWARE)
    # A heading of a single machine carries its alias behind the class.
    title = re.sub(rf" ?\({re.escape(cell['host'])}\)$", "", cell["platform"])
    shown = [
        str(facts[name])[:_HASH] if name.endswith("sha256") else str(facts[name]) for name in _FACTS if facts.get(name)
    ]
    if facts.get("defects"):
        shown.append("seeded defects: " + ", ".join(facts["defects"]))
    return Column(
        id=re.sub(r"[^a-z0-9]+", "-", f"{realm} {title}".lower()).strip("-"),
        realm=realm,
        title=title,
        vendor=cell["vendor"],
        hosts=(cell["host"],),
        facts=tuple(shown),
    )


def _joined(known: Column | None, column: Column) -> Column:
    if known is None:
        return column
    return known.model_copy(
        update={
            "hosts": tuple(sorted({*known.hosts, *column.hosts})),
            "facts": tuple(dict.fromkeys((*known.facts, *column.facts))),
        }
    )


def _host_entry(host: str, run: str, started: float, cells: list[dict[str, Any]], folder: Path, out: Path) -> HostEntry:
    verdicts = {cell["test"]: Verdict(cell["verdict"]) for cell in cells}
    worst_first = sorted(cells, key=lambda cell: (Verdict(cell["verdict"]).severity, cell["test"]))
    evidence = next((cell["evidence"] for cell in worst_first if cell["evidence"]), "")
    return HostEntry(
        host=host,
        run=run,
        started=started,
        variants=len(verdicts),
        others={name: verdicts[name] for name in sorted(verdicts) if verdicts[name] is not Verdict.PASS},
        codes=tuple(sorted({cell["code"] for cell in cells if cell["code"] and cell["verdict"] != "SKIP"})),
        evidence=os.path.relpath(folder / evidence, out).replace(os.sep, "/") if evidence else "",
    )
