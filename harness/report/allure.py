"""Allure results, one for every cell, written by the controller from the cells themselves.

The adapter's own pytest hooks leave no result for an item whose worker died; writing all of them here, with the
adapter's model, is what keeps Allure's totals equal to ours.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attr
from allure_commons.model2 import Attachment, Label, Link, Parameter, Status, StatusDetails, TestResult, TestStepResult
from allure_commons.types import LabelType, LinkType
from allure_commons.utils import md5

from harness.errors import VmmcheckError
from harness.jsontext import one_line
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
_SEVERITY = {1: "critical", 2: "normal", 3: "minor"}
#: First word of a reference -> what it is called, and where its maker keeps the manual (sections have no addresses).
_MANUALS = {
    "SDM3": ("Intel SDM vol. 3", "https://www.intel.com/content/www/us/en/developer/articles/technical/intel-sdm.html"),
    "APM2": ("AMD APM vol. 2", "https://docs.amd.com/v/u/en-US/24593_3.43"),
}
#: Verdicts whose evidence is copied into the result: what passed or was skipped has a link to its folder.
_ATTACHED = frozenset(Verdict) - {Verdict.PASS, Verdict.SKIP, Verdict.NOT_RUN}
_TYPES = {".json": "application/json", ".jsonl": "text/plain", ".txt": "text/plain", ".log": "text/plain"}
#: Bytes; a larger file is to be looked at where it is.
_LARGEST = 256 * 1024
#: Characters of a command that name its step.
_STEP = 160


def write_allure(run: Run) -> None:
    """Write ``allure-results/``: a result for every cell, categories, environment and executor."""
    folder = run.folder / "allure-results"
    folder.mkdir(exist_ok=True)
    for cell in run.ordered():
        result = _result(run, cell, folder)
        # The adapter's logger would give the file a new name each time.
        data = attr.asdict(result, filter=lambda _, value: bool(value) or value is False)
        (folder / f"{result.uuid}-result.json").write_text(one_line(data), encoding="utf-8")
    text = "".join(f"{key}={value}\n" for key, value in _environment(run).items())
    (folder / "environment.properties").write_text(text, encoding="utf-8")
    executor = {
        "name": "vmmcheck", "type": "vmmcheck", "buildName": run.recipe["run"], "reportName": run.recipe["lab"],
        # Allure's trends are drawn in this order; seconds since 1970 grow from run to run on any controller.
        "buildOrder": int(run.recipe["started"]),
    }  # fmt: skip
    (folder / "executor.json").write_text(json.dumps(executor) + "\n", encoding="utf-8")
    (folder / "categories.json").write_text(json.dumps(categories(), indent=1) + "\n", encoding="utf-8")


def categories() -> list[dict[str, Any]]:
    """Allure's categories, one for every code that a cell can have, and for what has none; the first match counts."""
    expected = {"name": "Predicted gap or erratum, seen as declared", "messageRegex": "^XFAIL .*"}
    unexpected = {"name": "A predicted failure did not show", "messageRegex": "^XPASS .*"}
    found = [{**expected, "matchedStatuses": ["skipped"]}, {**unexpected, "matchedStatuses": ["failed"]}]
    for error in sorted(_errors(VmmcheckError), key=lambda error: error.code):
        family = error.code.partition("-")[0]
        status = "failed" if family == "PRODUCT" else "broken"
        about = (error.__doc__ or error.__name__).partition("\n")[0].rstrip(".")
        pattern = rf"^\S+ {error.code}:.*"
        found.append({"name": f"{error.code}: {about}", "messageRegex": pattern, "matchedStatuses": [status]})
    found.append({"name": "Never answered", "messageRegex": "^NOT_RUN .*", "matchedStatuses": ["broken"]})
    found.append({"name": "Not applicable here", "messageRegex": "^SKIP .*", "matchedStatuses": ["skipped"]})
    return found


def _errors(base: type[VmmcheckError]) -> Iterator[type[VmmcheckError]]:
    for error in base.__subclasses__():
        if "code" in vars(error):
            yield error
        yield from _errors(error)


def _environment(run: Run) -> dict[str, str]:
    environment = {"lab": str(run.recipe["lab"]), "run": str(run.recipe["run"])}
    environment |= {f"host.{plan.host}": plan.platform for plan in run.plan.values()}
    for alias, facts in sorted(run.hosts.items()):
        for fact in ("release", "model", "origin", "microcode", "vmm_path", "vmm_sha256", "module_origin"):
            if facts.get(fact):
                environment[f"host.{alias}.{fact}"] = " ".join(str(facts[fact]).split())
    return environment


def _result(run: Run, cell: Cell, folder: Path) -> TestResult:
    plan = cell.plan
    # Built by name from what identifies the cell, so that history finds it again in the next run.
    identity = f"{plan.test}@{plan.host}"
    result = TestResult(
        uuid=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{run.recipe['run']}/{identity}")),
        name=f"{plan.case} {plan.test.rpartition('::')[2]} [{plan.host}]",
        fullName=plan.nodeid,
        historyId=md5(identity),
        testCaseId=md5(plan.test),
        description=plan.rule + (f" ({'; '.join(plan.references)})" if plan.references else ""),
        status=_STATUS.get(cell.verdict, Status.BROKEN),
        start=int(cell.started * 1000),
        stop=int((cell.started + cell.duration) * 1000),
    )
    if cell.verdict is not Verdict.PASS:
        message = f"{cell.verdict} {cell.code}: {cell.expectation or cell.message}".strip()
        result.statusDetails = StatusDetails(message=message, trace=cell.help, known=cell.verdict is Verdict.XFAIL)
    result.parameters = [Parameter(name="host", value=plan.host), Parameter(name="platform", value=plan.platform)]
    variant = plan.test.partition("[")[2].removesuffix("]")
    if variant:
        result.parameters.append(Parameter(name="variant", value=variant))
    result.labels = _labels(cell)
    result.links = list(links_of(cell))
    if cell.verdict in _ATTACHED and cell.evidence:
        evidence = run.folder / cell.evidence
        result.attachments = list(_attachments(evidence, folder, result.uuid))
        result.steps = list(_steps(evidence))
    return result


def links_of(cell: Cell) -> Iterator[Link]:
    """Case, evidence and manuals. The first two lead into the run folder, beside the one of Allure's page."""
    plan = cell.plan
    yield Link(type=LinkType.TEST_CASE, url=f"../report.html#{plan.case}", name=f"{plan.case} on all hosts")
    if cell.evidence:
        yield Link(type=LinkType.LINK, url=f"../{cell.evidence}/verdict.json", name="evidence")
    for reference in plan.references:
        name, url = _MANUALS.get(reference.partition(" ")[0], ("", ""))
        if url:
            unverified = " (section unverified)" if reference.endswith("?") else ""
            section = reference.partition(" ")[2].removesuffix("?")
            yield Link(type=LinkType.LINK, url=url, name=f"{name}, {section}{unverified}")


def _labels(cell: Cell) -> list[Label]:
    plan = cell.plan
    group = plan.case.partition("-")[0]
    return [
        Label(name=LabelType.EPIC, value=group),
        Label(name=LabelType.FEATURE, value=plan.case),
        *(Label(name=LabelType.STORY, value=requirement) for requirement in plan.requirements),
        Label(name=LabelType.PARENT_SUITE, value=plan.platform),
        Label(name=LabelType.SUITE, value=group),
        Label(name=LabelType.SUB_SUITE, value=f"{plan.case}: {plan.rule}"),
        Label(name=LabelType.SEVERITY, value=_SEVERITY.get(plan.priority, "minor")),
        Label(name=LabelType.HOST, value=plan.host),
        Label(name=LabelType.TAG, value=plan.kind),
        Label(name=LabelType.FRAMEWORK, value="vmmcheck"),
        *(Label(name="gap", value=name) for name, _, _ in plan.expected),
        Label(name="cpu", value=plan.vendor),
        Label(name="sut", value=plan.host),
        Label(name="verdict", value=cell.verdict.value),
    ]


def _attachments(evidence: Path, folder: Path, name: str) -> Iterator[Attachment]:
    """Copies of a cell's evidence beside the result: whoever changes them has not changed the evidence."""
    for number, path in enumerate(sorted(evidence.glob("*"))):
        if not path.is_file() or path.stat().st_size > _LARGEST:
            continue
        target = folder / f"{name}-{number}-attachment{path.suffix or '.txt'}"
        shutil.copyfile(path, target)
        kind = _TYPES.get(path.suffix, "application/octet-stream")
        yield Attachment(name=path.name, source=target.name, type=kind)


def _steps(evidence: Path) -> Iterator[TestStepResult]:
    """What the host was told, in order. A nonzero status is an answer; whether it is wrong, the verdict says."""
    try:
        lines = (evidence / "commands.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        entry = json.loads(line)
        start = int(float(entry["started"]) * 1000)
        status = Status.PASSED if entry["status"] is not None else Status.BROKEN
        parameters = [Parameter(name="status", value=str(entry["status"]))]
        yield TestStepResult(
            name=str(entry["command"])[:_STEP], status=status, start=start,
            stop=start + int(float(entry["seconds"] or 0) * 1000), parameters=parameters,
        )  # fmt: skip
