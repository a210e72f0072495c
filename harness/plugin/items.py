"""Runs items on the one host of this process and says what came of each."""

from __future__ import annotations

import contextlib
import hashlib
import json
import marshal
import time
from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from harness.cases import Expected
from harness.errors import EvidenceLost, HostLost, NotStarted, VmmcheckError
from harness.expect import recording
from harness.garbage import search_seldom
from harness.inventory import Host
from harness.lab import HostSession, open_session
from harness.lab.replay import ReplaySession
from harness.plugin.collection import DECLARED, PLAN, is_hazard
from harness.plugin.hazards import Guard
from harness.plugin.options import LAB, LabConfig
from harness.plugin.predictions import Predictions, decide
from harness.redaction import clean_bytes
from harness.results import CellPlan, CellRecorder, judge, outcome_of
from harness.results.cells import Outcome
from harness.results.evidence import facts_reference
from harness.results.run import cell_folder
from harness.subjects import Subject
from harness.verdicts import Verdict

_RECORDER = pytest.StashKey[CellRecorder]()
_OUTCOMES = pytest.StashKey[list[Outcome]]()
_STARTED = pytest.StashKey[float]()
#: What was declared of the item, decided before it was called.
_PREDICTED = pytest.StashKey[Predictions]()
#: Of a packed report, which only another process of this very interpreter reads.
PACKED = "vmmcheck_report"


class ItemRunner:
    """Registered where items run: in each worker, or in the only process."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._sessions: dict[str, HostSession] = {}
        self._broken: dict[str, Exception] = {}
        self._kept: dict[str, tuple[bytes, dict[str, str]]] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self._journal: Guard | None = None

    @pytest.fixture
    def subject(self, request: pytest.FixtureRequest) -> Generator[Subject]:
        """Where the guest programs of this item run."""
        session = self.session(str(request.param))
        recorder = request.node.stash[_RECORDER]
        subject = session.begin(recorder)
        plan = request.node.stash[PLAN]
        # Before anything is known of the answer: what comes out must not decide what was predicted.
        declared: tuple[Expected, ...] = request.node.stash[DECLARED]
        request.node.stash[_PREDICTED] = decide(declared, plan.kind, session.facts)
        if self._guard is not None and is_hazard(request.node):
            self._guard.begin(request.node.stash[PLAN], session)
        with recording(recorder):
            yield subject
        session.end()

    @pytest.hookimpl(wrapper=True)
    def pytest_report_to_serializable(self) -> Generator[None, dict[str, Any] | None, dict[str, Any] | None]:
        """A report travels to the controller as one piece: execnet takes every value of it apart in Python."""
        data = yield
        return {PACKED: marshal.dumps(data)} if data is not None else None

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Tell the controller what is planned, before anything runs."""
        search_seldom()
        plans = [item.stash[PLAN].as_dict() for item in session.items if PLAN in item.stash]
        output = getattr(self._config, "workeroutput", None)
        run_dir = self._lab.run_dir
        if output is not None and run_dir is not None:
            alias = next(iter(self._lab.hosts))
            folder = run_dir / "hosts" / alias
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / "plan.partial"
            partial.write_text(json.dumps(plans), encoding="utf-8")
            partial.replace(folder / "plan.json")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        plan = item.stash.get(PLAN, None)
        run_dir = self._lab.run_dir
        if plan is not None and run_dir is not None:
            item.stash[_RECORDER] = CellRecorder(run_dir / cell_folder(plan.test, plan.host))
        item.stash[_OUTCOMES] = []
        item.stash[_STARTED] = time.time()
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        if call.excinfo is not None and isinstance(call.excinfo.value, Exception):
            self._explain(item, call)
        report = yield
        plan = item.stash.get(PLAN, None)
        if plan is None:
            return report
        outcomes = item.stash[_OUTCOMES]
        outcome = _outcome(report, call)
        outcomes.append(outcome)
        _show_expectation(report, _predictions(item).narrow(plan), outcome)
        if report.when == "teardown":
            report.__dict__["vmmcheck_cell"] = self._finish(item, outcomes)
        return report

    def pytest_sessionfinish(self) -> None:
        # All of it is done, whatever one of them raises.
        with contextlib.ExitStack() as closing:
            closing.callback(self._tell_facts)
            for alias, session in self._sessions.items():
                closing.callback(self._close, alias, session)

    def _close(self, alias: str, session: HostSession) -> None:
        facts = self.facts.setdefault(alias, {})
        try:
            facts.update(session.close())
        except VmmcheckError as error:
            facts["not_restored"] = f"giving it back ended with: {error.message}"

    def _tell_facts(self) -> None:
        output = getattr(self._config, "workeroutput", None)
        if output is not None:
            output["vmmcheck_facts"] = json.dumps(self.facts)

    @property
    def _guard(self) -> Guard | None:
        """The journal of hazards; nothing is done to a host by judging stored records."""
        run_dir = self._lab.run_dir
        if self._journal is None and run_dir is not None and self._lab.replay is None:
            self._journal = Guard(run_dir)
        return self._journal

    @property
    def _lab(self) -> LabConfig:
        """Read anew each time: the controller fills in the run folder when the session starts."""
        return self._config.stash[LAB]

    def is_lost(self, alias: str) -> bool:
        """Whether a host was given up: nothing can be asked of it any more."""
        return alias in self._broken

    def session(self, alias: str) -> HostSession:
        """The open session of a host. A host that was lost stays lost: one cell tells of it, the rest is not run."""
        if alias in self._broken:
            first = self._broken[alias]
            cause = first.message if isinstance(first, VmmcheckError) else str(first)
            raise NotStarted(f"Host '{alias}' was lost before: {cause}", help=getattr(first, "help", None))
        if alias not in self._sessions:
            try:
                host, reach = self._lab.hosts[alias], self._lab.reach.get(alias, {})
                session = self._open(alias, host, reach)
                self._sessions[alias] = session
                self.facts[alias] = session.open()
                if self._guard is not None:
                    self.facts[alias].update(self._guard.opened(alias, session))
                self._keep_facts(alias, session)
            except VmmcheckError as error:
                told = self._guard.unopened(alias, error) if self._guard is not None else error
                self._broken[alias] = told
                raise told from error
            except pytest.fail.Exception as limit:
                # The net under all limits: half an opening is none.
                self._broken[alias] = HostLost(f"'{alias}' could not be opened in time: {limit}")
                raise
        return self._sessions[alias]

    def _open(self, alias: str, host: Host, reach: Mapping[str, str]) -> HostSession:
        lab = self._lab
        if lab.replay is not None and lab.run_dir is not None:
            return ReplaySession(alias, host, lab.replay, lab.run_dir)
        return open_session(alias, host, reach, lab.run_dir, lab.defects)

    def _explain(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        """Let the session say what an error was: a dead link may be a panic, a hang may be the lab's."""
        plan = item.stash.get(PLAN, None)
        session = self._sessions.get(plan.host) if plan is not None else None
        error = call.excinfo.value if call.excinfo is not None else None
        if session is None or not isinstance(error, Exception) or plan is None or plan.host in self._broken:
            return
        explained = session.explain(error)
        if isinstance(explained, HostLost):
            self._broken[plan.host] = explained
        if explained is not error:
            explained.__cause__ = error
            call.excinfo = pytest.ExceptionInfo.from_exception(explained.with_traceback(error.__traceback__))

    def _keep_facts(self, alias: str, session: HostSession) -> dict[str, str]:
        """Where the facts of a host are kept for all of its cells on one boot: path in the run, and SHA-256."""
        data = (json.dumps(session.facts, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
        data = clean_bytes(data)
        if self._lab.run_dir is None:
            return {}
        known = self._kept.get(alias)
        if known is None or known[0] != data:
            target = self._lab.run_dir / "hosts" / alias / f"facts-{hashlib.sha256(data).hexdigest()[:8]}.json"
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
            except OSError:
                return {}  # the cell's own evidence tells that there is no room
            known = self._kept[alias] = (data, facts_reference(self._lab.run_dir, target))
        return known[1]

    def _finish(self, item: pytest.Item, outcomes: list[Outcome]) -> dict[str, Any]:
        predictions, started = _predictions(item), item.stash[_STARTED]
        plan = predictions.narrow(item.stash[PLAN])
        recorder = item.stash.get(_RECORDER, None)
        evidence = cell_folder(plan.test, plan.host) if recorder is not None else ""
        cell = judge(plan, outcomes, started=started, duration=time.time() - started, evidence=evidence)
        cell = replace(predictions.note(cell), predictions=predictions.told)
        data = cell.as_dict()
        if self._guard is not None:
            session = self._sessions.get(plan.host)
            self._guard.settle(plan, session, cell.verdict.name, lost=self.is_lost(plan.host))
        if recorder is not None and cell.verdict is not Verdict.SKIP:
            session = self._sessions.get(plan.host)
            told = self._keep_facts(plan.host, session) if session is not None else {}
            more = {"rule": plan.rule, "references": list(plan.references)}
            try:
                recorder.finish({**data, **more, "host_facts": told})
            except EvidenceLost as lost:
                if not cell.verdict.is_product_failure:
                    # An answer that nobody can look into is none.
                    phases = [*outcomes, outcome_of(lost)]
                    cell = judge(plan, phases, started=started, duration=cell.duration, evidence=evidence)
                    data = replace(cell, predictions=predictions.told).as_dict()
        else:
            data["evidence"] = ""
            if recorder is not None:
                recorder.close()
        return data


def _predictions(item: pytest.Item) -> Predictions:
    """What holds for an item. One that never met its host failed by nothing that was predicted of the host."""
    found = item.stash.get(_PREDICTED, None)
    if found is not None:
        return found
    declared: tuple[Expected, ...] = item.stash[DECLARED]
    return decide(declared, item.stash[PLAN].kind, {})


def _show_expectation(report: pytest.TestReport, plan: CellPlan, outcome: Outcome) -> None:
    """Tell pytest of a predicted failure (xfail) or of its absence (failed), as our verdict will."""
    if report.when != "call" or not plan.expected:
        return
    for id, code, reason in plan.expected:
        if outcome.verdict is Verdict.FAIL and outcome.code == code:
            report.outcome = "skipped"
            report.wasxfail = f"{id}: {reason}"
            return
    if outcome.verdict is Verdict.PASS:
        report.outcome = "failed"
        report.longrepr = "[XPASS] a predicted failure did not show: " + "; ".join(id for id, _, _ in plan.expected)


def _outcome(report: pytest.TestReport, call: pytest.CallInfo[None]) -> Outcome:
    if hasattr(report, "wasxfail") and call.excinfo is not None:
        # pytest's own xfail knows no codes: what is predicted is declared with the case.
        return outcome_of(call.excinfo.value)
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        return Outcome(Verdict.SKIP, "", reason.removeprefix("Skipped: "))
    if call.excinfo is None:
        return Outcome(Verdict.PASS)
    error = call.excinfo.value
    if isinstance(error, pytest.fail.Exception) and str(error).startswith("Timeout (>"):
        message = f"The item did not end within its limit: {str(error).splitlines()[0]}."
        return Outcome(Verdict.INFRA, "INFRA-ITEM-TIMEOUT", message, "See the last command in commands.jsonl.")
    return outcome_of(error)
