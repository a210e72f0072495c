"""The controller's side: hosts started and handed out, verdicts collected, reports written, exit code decided."""

from __future__ import annotations

import json
import marshal
import signal
import sys
import threading
import time
from collections import Counter, deque
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from harness.errors import CollectionFailed, EvidenceLost, NoCase, NotStarted, TestDefect, VmmcheckError, WorkerDied
from harness.inventory.load import dump_host
from harness.lab import Launcher, platform_of
from harness.plugin.budget import NEXT, Spending, spendings
from harness.plugin.collection import PLAN
from harness.plugin.items import PACKED, ItemRunner
from harness.plugin.options import LAB, worker_input
from harness.plugin.progress import Progress, summarize
from harness.plugin.sampling import told
from harness.plugin.scheduler import HostScheduler
from harness.plugin.wanted import nothing_left, reviews_due
from harness.report import write_reports
from harness.results import Cell, CellPlan, CellRecorder, Outcome, Run, judge
from harness.results.evidence import facts_reference
from harness.results.run import UNANSWERED, cell_folder, exit_code
from harness.verdicts import Verdict

#: pytest's own exit codes that must not be replaced by a verdict.
_KEPT = (pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR)


class Controller:
    """Registered in the process that the user started."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        lab = config.stash[LAB]
        self._free = deque(lab.hosts)
        self._by_spec: dict[int, str] = {}
        self._launcher = Launcher()
        self._stop_reason = "The run ended before this cell was started."
        self._progress = Progress(
            {alias: platform_of(alias, host).heading for alias, host in lab.hosts.items()}, sys.stderr
        )
        self._interrupted = False
        self._overspent: list[Spending] = []
        self._run: Run | None = None
        #: alias -> (nodeid, wall-clock start) of the item that runs now.
        self._running: dict[str, tuple[str, float]] = {}

    @property
    def run(self) -> Run:
        assert self._run is not None, "the run exists from pytest_sessionstart on"
        return self._run

    # --- start ---------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Before xdist starts its workers: the run folder, and the hosts that we start ourselves."""
        # A job that is cancelled gets SIGTERM: it ends as with Ctrl-C, with reports.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        lab = self._config.stash[LAB]
        option = self._config.option
        # Our own summary names what failed and where its evidence is; pytest's would say it again, at length.
        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        reporter.reportchars = ""
        if option.tbstyle == "auto" and option.verbose <= 0:
            option.tbstyle = "no"
        try:
            self._run = Run.create(
                Path(option.run_dir),
                lab=lab.name,
                arguments=list(self._config.invocation_params.args),
                hosts={alias: dump_host(host) for alias, host in lab.hosts.items()},
                selection=told(self._config),
                chance={"seed": option.seed, "stress": option.stress},
            )
            reach = self._launcher.start(lab.hosts, self.run.folder) if lab.replay is None else {}
        except VmmcheckError as error:
            self._launcher.stop()
            raise pytest.UsageError(str(error)) from None
        self._config.stash[LAB] = replace(lab, run_dir=self.run.folder.resolve(), reach=reach)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """A replacement of a crashed worker reuses the spec object of the first: so it finds its host."""
        key = id(node.gateway.spec)
        if key not in self._by_spec:
            self._by_spec[key] = self._free.popleft()
        lab = self._config.stash[LAB]
        alias = self._by_spec[key]
        node.workerinput["vmmcheck_host"] = alias
        node.workerinput["vmmcheck"] = worker_input(lab, alias, self.run.folder.resolve())

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> HostScheduler:
        return HostScheduler(config, len(config.stash[LAB].hosts))

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_from_serializable(self, config: pytest.Config, data: dict[str, Any]) -> Any:
        """A report as a worker packed it."""
        if PACKED not in data:
            return None
        return config.hook.pytest_report_from_serializable(config=config, data=marshal.loads(data[PACKED]))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        alias = node.workerinput["vmmcheck_host"]
        path = self.run.folder / "hosts" / alias / "plan.json"
        self._planned(CellPlan.from_dict(entry) for entry in json.loads(path.read_text(encoding="utf-8")))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Without xdist the plan is in this very process."""
        self._planned(item.stash[PLAN] for item in getattr(session, "items", ()) if PLAN in item.stash)

    def _planned(self, plans: Any) -> None:
        self.run.add_plan(plans)
        self._progress.planned(self.run.plan.values())

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module that cannot be collected plans nothing, so that nothing else would miss it."""
        if report.failed:
            # xdist tells an error once, whichever workers met it.
            for alias in self._config.stash[LAB].hosts:
                self._unplanned(report, alias, CollectionFailed)

    def _unplanned(self, report: pytest.CollectReport | pytest.TestReport, alias: str, error: type[TestDefect]) -> None:
        """Give a failure that belongs to no planned cell a cell of its own: it must not be lost, nor be green."""
        platform = platform_of(alias, self._config.stash[LAB].hosts[alias])
        said = [line for line in report.longreprtext.splitlines() if line.strip()] or ["it said nothing"]
        message = next((line for line in reversed(said) if line.startswith("E ")), said[-1]).removeprefix("E ").strip()
        plan = CellPlan(
            f"{report.nodeid}@{alias}", report.nodeid, "(no case)",
            "Every test of the suites can be run and belongs to a case.",
            alias, platform.heading, platform.vendor, platform.kind,
        )  # fmt: skip
        self._planned([plan])
        broken = Outcome(Verdict.ERROR, error.code, message, error.help)
        self._add(judge(plan, [broken], started=time.time(), duration=0, evidence=""))

    # --- while it runs -------------------------------------------------------------------------------------

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        plan = self.run.plan.get(nodeid)
        if plan is not None:
            self._running[plan.host] = (nodeid, time.time())
            self._progress.started(plan)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data: dict[str, Any] | None = getattr(report, "vmmcheck_cell", None)
        plan = self.run.plan.get(report.nodeid)
        if plan is None and report.failed:
            # A test without a case has no host in its id; xdist tells which worker ran it.
            node = getattr(report, "node", None)
            alias = node.workerinput["vmmcheck_host"] if node is not None else next(iter(self._config.stash[LAB].hosts))
            self._unplanned(report, alias, NoCase)
        if data is None or plan is None:
            return
        self._add(Cell.from_dict(plan, data))

    def _add(self, cell: Cell) -> None:
        self.run.add(cell)
        self._progress.finished(cell)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """No dots: the progress lines are ours."""
        if not hasattr(report, "nodeid") or report.nodeid not in self.run.plan:
            return None
        if report.when != "call" and report.passed:
            return "", "", ""
        return ("xfailed" if hasattr(report, "wasxfail") else report.outcome), "", ""

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: Any, sched: Any) -> None:
        """A worker died in an item: what the hypervisor did is unknown."""
        plan = self.run.plan.get(crashitem)
        if plan is None:
            return
        started = self._running.get(plan.host, ("", time.time()))[1]
        message = f"The worker process of host '{plan.host}' died while this item ran."
        self.run.event("worker_died", host=plan.host, nodeid=crashitem)
        died = Outcome(Verdict.INFRA, WorkerDied.code, message, WorkerDied.help)
        self._add(self._close_evidence(plan, died, started))

    def _collect_what_was_cut(self) -> None:
        """Cells whose report did not reach us before the end: the workers are gone, their evidence says how far.

        An item that was judged has its verdict in the evidence; one with evidence only had been running.
        """
        started = dict(self._running.values())
        for plan in [plan for nodeid, plan in self.run.plan.items() if nodeid not in self.run.cells]:
            folder = self.run.folder / cell_folder(plan.test, plan.host)
            verdict = folder / "verdict.json"
            if verdict.exists() and (folder / "manifest.json").exists():
                self._add(Cell.from_dict(plan, json.loads(verdict.read_text(encoding="utf-8"))))
            elif plan.nodeid in started or folder.is_dir():
                message = "The run ended while this cell ran: it has no answer."
                cut = Outcome(Verdict.NOT_RUN, NotStarted.code, message, NotStarted.help)
                self._add(self._close_evidence(plan, cut, started.get(plan.nodeid, time.time())))

    def _close_evidence(self, plan: CellPlan, outcome: Outcome, started: float) -> Cell:
        """The cell of an item that nobody else can finish, with verdict and checksums for what it wrote so far."""
        name = cell_folder(plan.test, plan.host)
        folder = self.run.folder / name
        evidence = name if folder.is_dir() else ""
        # No expectation applies: it speaks of what the hypervisor did, which is not known.
        known = replace(plan, expected=())
        cell = replace(
            judge(known, [outcome], started=started, duration=time.time() - started, evidence=evidence), plan=plan
        )
        if evidence:
            more = {"rule": plan.rule, "references": list(plan.references), "host_facts": self._facts_of(plan.host)}
            try:
                CellRecorder(folder).finish({**cell.as_dict(), **more})
            except EvidenceLost as lost:
                self.run.unwritten = self.run.unwritten or lost.message
        return cell

    def _facts_of(self, alias: str) -> dict[str, str]:
        """Where the worker that is gone kept the facts of its host, those of its last boot."""
        files = list((self.run.folder / "hosts" / alias).glob("facts-*.json"))
        newest = max(files, key=lambda path: path.stat().st_mtime, default=None)
        return facts_reference(self.run.folder, newest) if newest is not None else {}

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object | None) -> None:
        facts = getattr(node, "workeroutput", {}).get("vmmcheck_facts")
        if facts:
            self.run.hosts.update(json.loads(facts))

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """By a person, or by pytest itself (-x, a module that cannot be collected): that is a verdict's to tell."""
        self._interrupted = excinfo.type in (KeyboardInterrupt, pytest.exit.Exception) or (
            "keyboard-interrupt" in str(excinfo.value)
        )
        if self._interrupted:
            self._stop_reason = "The run was interrupted before this cell was started."

    # --- end ---------------------------------------------------------------------------------------------------

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self._run is None:
            return
        self._progress.close()
        runner = self._config.pluginmanager.get_plugin("vmmcheck-items")
        if isinstance(runner, ItemRunner):
            self.run.hosts.update(runner.facts)
        for alias, facts in self._launcher.stop().items():
            self.run.hosts.setdefault(alias, {}).update(facts)
        self._collect_what_was_cut()
        self.run.complete(self._stop_reason)
        spent = spendings(self._config, self._config.stash[LAB].hosts, self.run)
        self.run.skips = {one.host: one.as_dict() for one in spent}
        self._overspent = [one for one in spent if one.over]
        self.run.reviews = reviews_due(self._config, date.today())
        if exitstatus not in _KEPT:
            code = exit_code(self.run.totals())
            if code == 0 and self._overspent:
                code = UNANSWERED
            if any(facts.get("down_while_restored") for facts in self.run.hosts.values()):
                # It is the module that took it down, as it was unloaded; no cell can tell that.
                code = exit_code(Counter({Verdict.PANIC: 1}))
            if self._interrupted:
                code = int(pytest.ExitCode.INTERRUPTED)
            elif code == 0 and exitstatus == pytest.ExitCode.MAX_WARNINGS_ERROR:
                code = int(exitstatus)
            session.exitstatus = code
        self._write(session)

    def _write(self, session: pytest.Session) -> None:
        self.run.finish(int(session.exitstatus))
        with self.run.writing("a report"):
            write_reports(self.run)
        if self.run.unwritten and session.exitstatus in (0, 5, 11):
            # Nobody else will see what was found out.
            session.exitstatus = exit_code(Counter({Verdict.INFRA: 1}))

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._run is not None:
            summarize(self.run, terminalreporter, told(self._config))
            for spending in self._overspent:
                terminalreporter.write_line(str(spending), red=True)
                terminalreporter.write_line(f"  next: {NEXT}")
            for line in self.run.reviews:
                terminalreporter.write_line(f"review: {line}", yellow=True)
            # Nobody is told that a selection was empty when the run broke off before anything was planned.
            if self.run.unwritten:
                where = f"The folder '{self.run.folder}' is not whole: {self.run.unwritten}"
                terminalreporter.write_line(f"{where} {EvidenceLost.help}", red=True, bold=True)
            nothing = nothing_left(self._config, [plan.case for plan in self.run.plan.values()])
            if nothing and not self._interrupted:
                terminalreporter.write_line(nothing, yellow=True, bold=True)
