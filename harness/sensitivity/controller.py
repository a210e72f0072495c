"""Deals defects out to workers, checks what they caught on the correct hypervisor, and adds it all up."""

from __future__ import annotations

import os
import resource
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import ConfigError
from harness.sensitivity.catalogue import Defect, load_catalogue, missing_defects
from harness.sensitivity.matrix import Finding, Matrix, TaskResult
from harness.sensitivity.pool import Pool
from harness.sensitivity.sample import Effort
from harness.sensitivity.worker import Task

#: How often killing cells that the correct hypervisor fails as well are set aside, and their defects run again.
_ROUNDS = 3
#: The correct hypervisor's cells are dealt out in so many parts per vendor.
_PARTS = 4
#: Seconds that a guest has before it counts as hung; the cases themselves say 30, for slow hosts.
PATIENCE = 0.6
_GUEST_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured and how.

    ``own`` and ``others`` are the variants of a test function that stand for it, where it belongs to the requirement
    of the defect and where not. ``words`` go to pytest (paths of suites, ``-k``, ``--case``).
    """

    defects: tuple[Defect, ...]
    vendors: tuple[str, ...] = ("intel", "amd")
    full: bool = False
    own: int = 4
    others: int = 1
    jobs: int = 0
    words: tuple[str, ...] = ("suites",)
    run_dir: Path = Path("runs")


@dataclass(slots=True)
class Sensitivity:
    """One measurement. :meth:`measure` fills :attr:`matrix`, also when it is interrupted."""

    settings: Settings
    say: Callable[[str], None]
    folder: Path = field(init=False)
    matrix: Matrix = field(init=False)

    def __post_init__(self) -> None:
        settings = self.settings
        if not settings.defects:
            raise ConfigError("No defect is selected.", help="'vmmcheck sensitivity --list' shows their names.")
        self.folder = _make_folder(settings.run_dir)
        self.matrix = Matrix(
            settings.defects,
            settings.vendors,
            settings.full,
            tuple(missing_defects(load_catalogue(), settings.vendors)),
            hang_seconds=PATIENCE * _GUEST_SECONDS,
        )

    def measure(self) -> Matrix:
        """Run everything; returns the matrix with facts about time filled in."""
        began, cpu = time.monotonic(), _cpu_seconds()
        jobs = self.settings.jobs or len(os.sched_getaffinity(0))
        pool = Pool(jobs, self.folder, self.settings.words, PATIENCE)
        try:
            self._run(pool)
        finally:
            # Processes count only when they have ended.
            pool.close()
            self.matrix.cases = pool.cases
            wall, used = time.monotonic() - began, _cpu_seconds() - cpu
            cells = sum(len(result.findings) for result in self.matrix.results.values())
            self.matrix.facts = {
                "run": self.folder.name,
                "at": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
                "effort": {"own": self.settings.own, "others": self.settings.others},
                "jobs": jobs,
                "cores": len(os.sched_getaffinity(0)),
                "wall_seconds": round(wall, 1),
                "cpu_seconds": round(used, 1),
                "cells": {"defects": cells, "clean": len(self.matrix.clean)},
                "workers_lost": pool.lost,
            }
        return self.matrix

    # --- what is run --------------------------------------------------------------------------------------------

    def _run(self, pool: Pool) -> None:
        settings = self.settings
        pairs = [
            (defect, vendor) for defect in settings.defects for vendor in defect.vendors if vendor in settings.vendors
        ]
        tasks = [self._task(defect, vendor) for defect, vendor in pairs]
        if settings.full:
            effort = Effort(settings.own, settings.others)
            clean = [
                Task(None, vendor, effort, False, part=(part, _PARTS))
                for vendor in settings.vendors
                for part in range(_PARTS)
            ]
            self._deal(pool, [*clean, *tasks])
            return
        excluded: dict[tuple[str, str], frozenset[str]] = {}
        for _ in range(_ROUNDS):
            self._deal(pool, tasks)
            self._deal(pool, list(self._to_be_checked()))
            tasks = list(self._again(pairs, excluded))
            if not tasks:
                break

    def _task(self, defect: Defect, vendor: str, exclude: frozenset[str] = frozenset()) -> Task:
        effort = Effort(self.settings.own, self.settings.others)
        return Task(defect, vendor, effort, not self.settings.full, exclude=exclude)

    def _to_be_checked(self) -> Iterable[Task]:
        """With early stop only cells that failed under a defect are run on the correct hypervisor."""
        for vendor in self.settings.vendors:
            cells = {
                finding.nodeid
                for (_, where), result in self.matrix.results.items()
                for finding in result.findings
                if where == vendor and finding.accuses and (vendor, finding.nodeid) not in self.matrix.clean
            }
            if cells:
                yield Task(None, vendor, Effort(0, 0), False, only=tuple(sorted(cells)))

    def _again(
        self, pairs: Sequence[tuple[Defect, str]], excluded: dict[tuple[str, str], frozenset[str]]
    ) -> Iterable[Task]:
        """Defects that stopped at cells which the correct hypervisor fails as well: once more, without those."""
        for defect, vendor in pairs:
            result = self.matrix.results.get((defect.id, vendor))
            if result is None or not result.stopped.startswith("caught"):
                continue
            void = {
                finding.nodeid
                for finding in result.findings
                if finding.accuses and not self.matrix.counts(vendor, finding)
            }
            last: Finding = result.findings[-1]
            if last.nodeid in void:
                known = excluded[defect.id, vendor] = excluded.get((defect.id, vendor), frozenset()) | void
                yield self._task(defect, vendor, known)

    def _deal(self, pool: Pool, tasks: Sequence[Task]) -> None:
        left = deque(tasks)
        total = len(left)
        for done, (task, result) in enumerate(pool.run(left), 1):
            self._take(task, result)
            self.say(f"[{done}/{total}] {self._told(task, result)}")

    def _take(self, task: Task, result: TaskResult) -> None:
        if task.defect is not None:
            self.matrix.results[task.defect.id, task.vendor] = result
            return
        for finding in result.findings:
            self.matrix.clean[task.vendor, finding.nodeid] = finding

    def _told(self, task: Task, result: TaskResult) -> str:
        cells = f"{len(result.findings):3} of {result.planned} cells"
        head = f"{task.vendor:5} {task.name:32} {cells} {result.seconds:5.1f} s"
        if task.defect is None:
            failed = [finding for finding in result.findings if finding.verdict.is_product_failure]
            return f"{head}  {f'{len(failed)} FAIL on the correct hypervisor' if failed else 'as expected'}"
        defect = task.defect
        own = [cell for cell in result.findings if cell.accuses and defect.requirement in cell.requirements]
        right = next((cell for cell in own if defect.shows(cell.reason)), None)
        if right is not None:
            return f"{head}  caught by {right.case}: {right.code} {right.what}".rstrip()
        if own:
            return f"{head}  for another reason: {own[0].case} {own[0].reason}"
        others = next((cell for cell in result.findings if cell.accuses), None)
        if others is not None:
            return f"{head}  by others only: {others.case} {others.code} {others.what}".rstrip()
        return f"{head}  {result.stopped or 'SURVIVED'}"


def _make_folder(parent: Path) -> Path:
    folder = parent.resolve() / f"sensitivity-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"The folder '{folder}' cannot be made: {error.strerror}.") from None
    return folder


def _cpu_seconds() -> float:
    """CPU time of this process and of every process below it that has ended."""
    uses = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)
