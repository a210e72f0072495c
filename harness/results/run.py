"""The run folder: recipe, event stream, results. Only the controller writes here; workers write cell folders."""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from io import FileIO
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, NotStarted
from harness.jsontext import listed, one_line
from harness.redaction import clean
from harness.results.cells import Cell, CellPlan
from harness.results.evidence import write_all
from harness.results.revision import revision
from harness.verdicts import Verdict

SCHEMA = 1
#: Bytes that must be free where a run is written.
SPACE = 64 << 20

_UNSAFE = re.compile(r"[^A-Za-z0-9_.=+-]+")


#: Exit status of a run that did not answer what it was asked.
UNANSWERED = 10


def cell_folder(test: str, host: str) -> str:
    """Path of a cell's evidence inside the run folder: one folder a test, one below it a host."""
    return f"cells/{_UNSAFE.sub('_', test.removeprefix('suites/')).strip('_')}/{host}"


@dataclass(slots=True)
class Run:
    """One run of the suites; ``cells`` grows as verdicts come in, ``plan`` is what must be answered."""

    folder: Path
    recipe: dict[str, Any]
    plan: dict[str, CellPlan] = field(default_factory=dict)
    cells: dict[str, Cell] = field(default_factory=dict)
    #: alias -> facts of the host, told by its session.
    hosts: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: alias -> what it may skip and did skip, where it has a budget.
    skips: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: A line for every prediction whose day of review had passed.
    reviews: list[str] = field(default_factory=list)
    #: Why something of the folder could not be written, empty as long as everything could.
    unwritten: str = ""
    #: The event stream, open from the first event to the last.
    _events: FileIO | None = field(default=None, repr=False)

    @classmethod
    def create(cls, parent: Path, *, lab: str, arguments: list[str], hosts: dict[str, Any], selection: str = "",
               chance: dict[str, int] | None = None) -> Run:  # fmt: skip
        """Make a new run folder below ``parent``; ``selection`` says which variants were left out by a sample,
        ``chance`` has seed and scale of the stress cases.

        Raises :class:`ConfigError` when the folder cannot be written.
        """
        _require_space(parent)
        name = time.strftime("%Y%m%d-%H%M%S") + "-" + secrets.token_hex(2)
        folder = parent / name
        try:
            (folder / "cells").mkdir(parents=True)
        except OSError as error:
            raise ConfigError(f"The run folder '{folder}' cannot be made: {error.strerror}.") from None
        recipe = {
            "schema": SCHEMA,
            "run": name,
            "lab": lab,
            "arguments": [clean(word) for word in arguments],
            **({"selection": selection} if selection else {}),
            **(chance or {}),
            "hosts": hosts,
            "started": time.time(),
            "controller": {
                "pid": os.getpid(),
                "revision": revision(),
                "python": sys.version.split()[0],
                "system": platform.platform(),
                "cpus": os.cpu_count(),
                "packages": {
                    package: version(package)
                    for package in ("pytest", "pytest-xdist", "paramiko", "allure-pytest", "ziglang")
                },
            },
        }
        run = cls(folder, recipe)
        run._write("run.json", recipe)
        run.event("run_started", run=name, lab=lab)
        return run

    def event(self, kind: str, /, **data: Any) -> None:
        """Append one line to ``events.jsonl``, unbuffered: a killed controller loses nothing."""
        line = one_line({"at": round(time.time(), 3), "event": kind, **data}) + "\n"
        with self.writing("events.jsonl"):
            if self._events is None:
                self._events = (self.folder / "events.jsonl").open("ab", buffering=0)
            write_all(self._events.fileno(), line.encode())

    @contextmanager
    def writing(self, name: str) -> Iterator[None]:
        """What cannot be written is told at the end (:attr:`unwritten`): the hosts are given back first."""
        try:
            yield
        except OSError as error:
            self.unwritten = self.unwritten or f"'{name}' cannot be written: {error.strerror}."

    def add_plan(self, plans: Iterable[CellPlan]) -> None:
        """Add planned cells; a replacement worker plans the same ones again."""
        new = [plan for plan in plans if plan.nodeid not in self.plan]
        self.plan.update((plan.nodeid, plan) for plan in new)
        if new:
            self.event("planned", host=new[0].host, cells=len(new))

    def add(self, cell: Cell) -> None:
        """Take a verdict. The first one stands, unless a worse one comes for the same cell."""
        known = self.cells.get(cell.plan.nodeid)
        if known is not None and known.verdict.severity <= cell.verdict.severity:
            return
        self.cells[cell.plan.nodeid] = cell
        self.event("cell_finished", **cell.as_dict())

    def complete(self, why: str) -> int:
        """Give every planned cell without a verdict NOT_RUN; return how many there were."""
        missing = [plan for nodeid, plan in self.plan.items() if nodeid not in self.cells]
        for plan in missing:
            self.add(Cell(plan, Verdict.NOT_RUN, Verdict.NOT_RUN, NotStarted.code, why, NotStarted.help))
        return len(missing)

    def ordered(self) -> list[Cell]:
        """Cells in the order of the plan."""
        return [self.cells[nodeid] for nodeid in self.plan if nodeid in self.cells]

    def totals(self) -> Counter[Verdict]:
        return Counter(cell.verdict for cell in self.cells.values())

    def finish(self, exit_code: int) -> None:
        """Write ``results.json`` and close the event stream."""
        cells = self.ordered()
        totals = {verdict.value: self.totals()[verdict] for verdict in Verdict if self.totals()[verdict]}
        self._write(
            "results.json",
            {
                "schema": SCHEMA,
                "run": self.recipe["run"],
                "lab": self.recipe["lab"],
                **({"selection": self.recipe["selection"]} if "selection" in self.recipe else {}),
                "exit_code": exit_code,
                "planned": len(self.plan),
                "totals": totals,
                **({"skips": self.skips} if self.skips else {}),
                **({"reviews": self.reviews} if self.reviews else {}),
                "hosts": self.hosts,
                "cells": [cell.as_dict() for cell in cells],
            },
        )
        self.event("run_finished", exit_code=exit_code, totals=totals)
        if self._events is not None:
            self._events.close()
            self._events = None

    def _write(self, name: str, data: Any) -> None:
        target = self.folder / name
        partial = target.with_suffix(".partial")
        with self.writing(name):
            partial.write_text(listed(data), encoding="utf-8")
            partial.replace(target)


def _require_space(parent: Path) -> None:
    """Raises :class:`ConfigError` where a run could not even write its results."""
    there = next((path for path in (parent, *parent.absolute().parents) if path.is_dir()), Path("/"))
    found = os.statvfs(there)
    free = found.f_bavail * found.f_frsize
    if free < SPACE:
        raise ConfigError(
            f"Only {free >> 20} MiB are free for runs in '{there}'; a run may need {SPACE >> 20} MiB and more.",
            help="Make room there, or choose another folder with --run-dir.",
        )


def read_run(folder: Path) -> Run:
    """A finished run from its folder; raises :class:`ConfigError` when that is none, or an older vmmcheck's."""
    try:
        recipe = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        cells = [Cell.from_entry(entry) for entry in results["cells"]]
        run = Run(
            folder, recipe, hosts=results["hosts"], skips=results.get("skips", {}), reviews=results.get("reviews", [])
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"'{folder}' is not the folder of a finished run: run.json and results.json cannot be read ({reason})."
        ) from None
    run.plan = {cell.plan.nodeid: cell.plan for cell in cells}
    run.cells = {cell.plan.nodeid: cell for cell in cells}
    return run


def exit_code(totals: Counter[Verdict]) -> int:
    """The exit code for these verdicts (single numbers, 0 to 6 keep pytest's meaning).

    1 product failure, 10 unanswered cells, 11 flaky cells, 5 nothing but skips, 0 all answered as expected.
    """
    if any(totals[verdict] for verdict in Verdict if verdict.is_product_failure):
        return 1
    if any(totals[verdict] for verdict in Verdict if verdict.is_unanswered):
        return UNANSWERED
    if totals[Verdict.FLAKY]:
        return 11
    if not sum(totals.values()) - totals[Verdict.SKIP]:
        return 5
    return 0
