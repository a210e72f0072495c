"""The run in the Common Test Report Format (CTRF, https://ctrf.io), which several CI systems show directly."""

from __future__ import annotations

import json
from typing import Any

from harness.results import Cell, Run
from harness.verdicts import Verdict

_STATUS = {
    Verdict.PASS: "passed",
    Verdict.SKIP: "skipped",
    Verdict.XFAIL: "skipped",
    Verdict.PANIC: "failed",
    Verdict.FAIL: "failed",
    Verdict.XPASS: "failed",
    Verdict.NOT_RUN: "pending",
}


def write_ctrf(run: Run) -> None:
    """Write ``ctrf.json``: one test for each cell; what gave no answer is ``other``, or ``pending`` if it never ran."""
    cells = run.ordered()
    tests = [_test(cell) for cell in cells]
    statuses = [test["status"] for test in tests]
    start = int(run.recipe["started"] * 1000)
    summary: dict[str, Any] = {"tests": len(tests)}
    summary |= {status: statuses.count(status) for status in ("passed", "failed", "pending", "skipped", "other")}
    summary |= {"start": start, "stop": max([start, *(test["stop"] for test in tests)])}
    report = {
        "reportFormat": "CTRF",
        "specVersion": "0.0.0",
        "results": {
            "tool": {"name": "vmmcheck"},
            "summary": summary,
            "tests": tests,
            "environment": {"testEnvironment": run.recipe["lab"], "buildName": run.recipe["run"]},
        },
    }
    text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    (run.folder / "ctrf.json").write_text(text, encoding="utf-8")


def _test(cell: Cell) -> dict[str, Any]:
    plan = cell.plan
    test: dict[str, Any] = {
        "name": plan.test,
        "status": _STATUS.get(cell.verdict, "other"),
        "rawStatus": cell.verdict.value,
        "duration": round(cell.duration * 1000),
        "start": round(cell.started * 1000),
        "stop": round((cell.started + cell.duration) * 1000),
        "suite": [plan.host, plan.case],
        "tags": [plan.case, *plan.requirements, plan.vendor, plan.kind],
        "extra": {"host": plan.host, "case": plan.case, "verdict": cell.verdict.value, "code": cell.code},
    }
    if cell.message or cell.expectation:
        test["message"] = cell.expectation or cell.message
    if cell.evidence:
        test["extra"]["evidence"] = cell.evidence
    return test
