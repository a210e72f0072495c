"""Allure results, one for every cell, written by the controller from the cells themselves.

The adapter's own pytest hooks leave no result for an item whose worker died; writing all of them here, with the
adapter's model, is what keeps Allure's totals equal to ours.
"""

from __future__ import annotations

import json
import uuid

from allure_commons.logger import AllureFileLogger
from allure_commons.model2 import Label, Link, Parameter, Status, StatusDetails, TestResult
from allure_commons.types import LabelType, LinkType
from allure_commons.utils import md5

from harness.results import Cell, Run
from harness.verdicts import Verdict

_STATUS = {
    Verdict.PASS: Status.PASSED,
    Verdict.SKIP: Status.SKIPPED,
    Verdict.XFAIL: Status.SKIPPED,
    Verdict.PANIC: Status.FAILED,
    Verdict.FAIL: Status.FAILED,
    Verdict.XPASS: Status.FAILED,
}


def write_allure(run: Run) -> None:
    """Write ``allure-results/`` with environment and executor."""
    folder = run.folder / "allure-results"
    logger = AllureFileLogger(str(folder))
    for cell in run.ordered():
        logger.report_result(_result(run, cell))
    environment = {"lab": run.recipe["lab"], "run": run.recipe["run"]}
    environment |= {f"host.{plan.host}": plan.platform for plan in run.plan.values()}
    text = "".join(f"{key}={value}\n" for key, value in environment.items())
    (folder / "environment.properties").write_text(text, encoding="utf-8")
    executor = {"name": "vmmcheck", "type": "vmmcheck", "buildName": run.recipe["run"]}
    (folder / "executor.json").write_text(json.dumps(executor) + "\n", encoding="utf-8")


def _result(run: Run, cell: Cell) -> TestResult:
    plan = cell.plan
    # Built by name from what identifies the cell, so that history finds it again in the next run.
    identity = f"{plan.test}@{plan.host}"
    result = TestResult(
        uuid=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{run.recipe['run']}/{identity}")),
        name=f"{plan.case} {plan.test.rpartition('::')[2]} [{plan.host}]",
        fullName=plan.nodeid,
        historyId=md5(identity),
        testCaseId=md5(plan.test),
        description=plan.rule,
        status=_STATUS.get(cell.verdict, Status.BROKEN),
        start=int(cell.started * 1000),
        stop=int((cell.started + cell.duration) * 1000),
    )
    if cell.verdict is not Verdict.PASS:
        result.statusDetails = StatusDetails(
            message=f"{cell.verdict} {cell.code}: {cell.expectation or cell.message}".strip(), trace=cell.help
        )
    result.parameters = [Parameter(name="host", value=plan.host), Parameter(name="platform", value=plan.platform)]
    result.labels = [
        Label(name=LabelType.EPIC, value=plan.case.partition("-")[0]),
        Label(name=LabelType.FEATURE, value=plan.case),
        *(Label(name=LabelType.STORY, value=requirement) for requirement in plan.requirements),
        Label(name="cpu", value=plan.vendor),
        Label(name="sut", value=plan.host),
        Label(name="verdict", value=cell.verdict.value),
    ]
    if cell.evidence:
        result.links = [Link(type=LinkType.LINK, url=f"../{cell.evidence}", name="evidence")]
    return result
