"""A process that holds one emulated host and one collection of the suites, and runs defects on them one by one.

It is pytest with our own plugin: cells get their verdicts where they get them in every run. Only the loop over the
items is another one: it is told which defect to load and which cells to run, and may run them again and again.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from harness.errors import GuestHang, VmmcheckError
from harness.inventory import EmulatedHost
from harness.lab.ssh_session import SshSession
from harness.plugin.collection import PLAN
from harness.plugin.items import ItemRunner
from harness.plugin.options import LAB, LabConfig, worker_input
from harness.results import CellPlan
from harness.sensitivity.catalogue import Defect
from harness.sensitivity.matrix import CaseRow, Finding, TaskResult, case_rows, is_catch
from harness.sensitivity.sample import Effort, Sample
from harness.verdicts import Verdict

ROOT = Path(__file__).resolve().parents[2]
#: Cells under one defect that may take the host down, or hang their guest, before the rest is left out.
MAX_DOWN = 3


@dataclass(frozen=True, slots=True)
class Task:
    """Cells to run with a defect loaded, or with none.

    Without ``only`` (node ids) the sample of the defect's requirement is run, without a defect the whole sample;
    ``part`` (index, count) takes a share of that. ``exclude`` are node ids that say nothing here.
    """

    defect: Defect | None
    vendor: str
    effort: Effort
    early: bool
    only: tuple[str, ...] = ()
    exclude: frozenset[str] = frozenset()
    part: tuple[int, int] = (0, 1)

    @property
    def name(self) -> str:
        return self.defect.id if self.defect is not None else "clean"


@dataclass(frozen=True, slots=True)
class Planned:
    """What the host of a worker can run."""

    cases: tuple[CaseRow, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """The worker cannot go on: why, and what its task had found by then."""

    message: str
    result: TaskResult | None = None


Message = Planned | TaskResult | Failed


def alias_of(vendor: str) -> str:
    """The host's name, the same in every worker of a vendor: node ids must be."""
    return f"emu{vendor}"


def work(
    connection: Connection, vendor: str, reach: dict[str, str], folder: Path, run: Path, words: Sequence[str],
    patience: float,
) -> None:  # fmt: skip
    """The process: collect, then do tasks until ``None`` comes. What pytest prints goes to ``worker.log``."""
    # Whether and how a run ends early is the controller's to decide.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    log = os.open(folder / "worker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(ROOT)
    loop = Loop(connection, vendor, reach, folder, run, patience)
    pytest.main(["-q", "-p", "no:cacheprovider", "--tb=short", *words], plugins=[loop])
    connection.close()


class Loop:
    """The pytest plugin that replaces the loop over the items."""

    def __init__(
        self, connection: Connection, vendor: str, reach: dict[str, str], folder: Path, run: Path, patience: float
    ) -> None:
        self._connection = connection
        self._vendor = vendor
        self._alias = alias_of(vendor)
        host = EmulatedHost.model_validate({"kind": "emulated", "vendor": vendor})
        self._lab = LabConfig("sensitivity", {self._alias: host}, folder, {self._alias: reach})
        self._run = run
        self._patience = patience
        self._cell: dict[str, Any] | None = None
        self._errors: list[str] = []

    # --- instead of a controller --------------------------------------------------------------------------------

    def pytest_load_initial_conftests(self, early_config: pytest.Config) -> None:
        """As a worker of xdist: the host is given, and nobody here starts hosts or writes reports."""
        early_config.__dict__["workerinput"] = {"vmmcheck": worker_input(self._lab, self._alias, self._run)}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._errors.append(f"{report.nodeid}: {report.longreprtext.splitlines()[-1]}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if hasattr(report, "vmmcheck_cell"):
            self._cell = report.vmmcheck_cell

    # --- the loop -------------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if self._errors:
            self._connection.send(Failed(f"The suites cannot be collected: {'; '.join(self._errors)}"))
            return True
        runner = session.config.pluginmanager.get_plugin("vmmcheck-items")
        assert isinstance(runner, ItemRunner)
        items = {
            item.nodeid: item
            for item in session.items
            if PLAN in item.stash and item.get_closest_marker("skip") is None
        }
        plans = {nodeid: item.stash[PLAN] for nodeid, item in items.items()}
        self._connection.send(Planned(tuple(case_rows(plans.values()))))
        sample = Sample(plans.values())
        while (task := self._connection.recv()) is not None:
            chosen = [items[plan.nodeid] for plan in cells_of(task, sample, plans)]
            message = self._task(session.config, runner, task, chosen)
            self._connection.send(message)
            if isinstance(message, Failed):
                break
        return True

    def _task(self, config: pytest.Config, runner: ItemRunner, task: Task, items: list[pytest.Item]) -> Message:
        started, findings, stopped = time.monotonic(), list[Finding](), ""

        def result() -> TaskResult:
            seconds = time.monotonic() - started
            return TaskResult(task.name, task.vendor, tuple(findings), len(items), seconds, stopped)

        config.stash[LAB] = replace(self._lab, run_dir=self._run / "defects" / f"{task.name}.{task.vendor}")
        try:
            session = runner.session(self._alias)
            assert isinstance(session, SshSession)
            # Without a defect a guest has all the time that its case gives it: a loaded machine must accuse nobody.
            patience = self._patience if task.defect is not None else 1.0
            session.renew([task.defect.id] if task.defect is not None else [], patience=patience)
        except VmmcheckError as error:
            return Failed(f"The host could not be made ready for {task.name}: {error.message}", result())
        for item in items:
            self._cell = None
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            findings.append(self._finding(item, task))
            stopped = why_stop(task, findings)
            if stopped or runner.is_lost(self._alias):
                break
        if runner.is_lost(self._alias):
            stopped = "the host was lost"
            return Failed(f"The host was lost while {task.name} was loaded.", result())
        return result()

    def _finding(self, item: pytest.Item, task: Task) -> Finding:
        plan, cell = item.stash[PLAN], self._cell
        if cell is None:
            return Finding(plan.nodeid, plan.test, plan.case, plan.requirements, Verdict.ERROR, "HARNESS-INTERNAL")
        folder = self._run / "defects" / f"{task.name}.{task.vendor}" / cell["evidence"] if cell["evidence"] else None
        verdict = Verdict(cell["verdict"])
        evidence = what = ""
        if folder is not None and verdict in (Verdict.PASS, Verdict.SKIP, Verdict.XFAIL):
            shutil.rmtree(folder, ignore_errors=True)  # thousands of cells that show nothing
        elif folder is not None:
            evidence, what = str(folder.relative_to(self._run)), _failed_judgement(folder)
        return Finding(
            plan.nodeid, plan.test, plan.case, plan.requirements, verdict, cell["code"], what, cell["message"],
            cell["duration"], evidence,
        )  # fmt: skip


def cells_of(task: Task, sample: Sample, plans: dict[str, CellPlan]) -> list[CellPlan]:
    """The cells of a task, in the order in which they are run."""
    if task.only:
        chosen = [plans[nodeid] for nodeid in task.only]
    elif task.defect is not None:
        chosen = sample.for_requirement(task.defect.requirement, task.effort)
    else:
        chosen = sample.everything(task.effort)
    index, count = task.part
    return [plan for plan in chosen if plan.nodeid not in task.exclude][index::count]


def why_stop(task: Task, findings: Sequence[Finding]) -> str:
    """Why the rest of a defect's cells is left out after the last finding, or an empty string."""
    defect, last = task.defect, findings[-1]
    if defect is None:
        return ""
    if task.early and is_catch(defect, last):
        return "caught"
    if task.early and last.accuses and defect.requirement not in last.requirements:
        # All cells of its requirement came before: only others see it.
        return "caught by another case"
    down = sum(finding.verdict is Verdict.PANIC or finding.code == GuestHang.code for finding in findings)
    return f"{down} cells took the host down or hung" if down >= MAX_DOWN else ""


def _failed_judgement(folder: Path) -> str:
    """What was judged last and not met, from the evidence of a cell."""
    path = folder / "registers.json"
    if not path.exists():
        return ""
    failed = [entry["what"] for entry in json.loads(path.read_text(encoding="utf-8")) if not entry["ok"]]
    return str(failed[-1]) if failed else ""
