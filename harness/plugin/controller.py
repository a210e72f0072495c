"""The controller's side: hosts started and handed out, verdicts collected, reports written, exit code decided."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.errors import VmmcheckError, WorkerDied
from harness.inventory.load import dump_host
from harness.lab import Launcher, platform_of
from harness.plugin.collection import PLAN
from harness.plugin.items import ItemRunner
from harness.plugin.options import LAB, worker_input
from harness.plugin.progress import Progress, summarize
from harness.plugin.scheduler import HostScheduler
from harness.report import write_reports
from harness.results import Cell, CellPlan, Run
from harness.results.run import exit_code
from harness.verdicts import Verdict

#: pytest's own exit codes that must not be replaced by a verdict.
_KEPT = (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR)


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
        lab = self._config.stash[LAB]
        option = self._config.option
        # Our own summary names what failed and where its evidence is; pytest's would say it again, at length.
        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        reporter.reportchars = ""
        if option.tbstyle == "auto" and not option.verbose:
            option.tbstyle = "no"
        try:
            self._run = Run.create(
                Path(option.run_dir),
                lab=lab.name,
                arguments=list(self._config.invocation_params.args),
                hosts={alias: dump_host(host) for alias, host in lab.hosts.items()},
            )
            reach = self._launcher.start(lab.hosts, self.run.folder)
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

    # --- while it runs -------------------------------------------------------------------------------------

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        plan = self.run.plan.get(nodeid)
        if plan is not None:
            self._running[plan.host] = (nodeid, time.time())
            self._progress.started(plan)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data: dict[str, Any] | None = getattr(report, "vmmcheck_cell", None)
        plan = self.run.plan.get(report.nodeid)
        if data is None or plan is None:
            return
        self._add(
            Cell(
                plan,
                Verdict(data["verdict"]),
                Verdict(data["raw"]),
                data["code"],
                data["message"],
                data["help"],
                data["expectation"],
                data["started"],
                data["duration"],
                data["evidence"],
            )
        )

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
        self._add(
            Cell(
                plan, Verdict.INFRA, Verdict.INFRA, WorkerDied.code, message, WorkerDied.help, "",
                started, time.time() - started,
            )
        )  # fmt: skip

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object | None) -> None:
        facts = getattr(node, "workeroutput", {}).get("vmmcheck_facts")
        if facts:
            self.run.hosts.update(json.loads(facts))

    def pytest_keyboard_interrupt(self) -> None:
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
        self.run.complete(self._stop_reason)
        if exitstatus not in _KEPT:
            session.exitstatus = exit_code(self.run.totals())
        self.run.finish(int(session.exitstatus))
        write_reports(self.run)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._run is not None:
            summarize(self.run, terminalreporter)
