"""JUnit XML: what continuous-integration servers read."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from harness.results import Cell, Run
from harness.verdicts import Verdict

_CONTROL = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd]")


def write_junit(run: Run) -> None:
    """One suite per host. Product failures are ``failure``, unanswered cells ``error``, SKIP and XFAIL ``skipped``."""
    root = ElementTree.Element("testsuites", name="vmmcheck")
    for host in dict.fromkeys(cell.plan.host for cell in run.ordered()):
        cells = [cell for cell in run.ordered() if cell.plan.host == host]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=host,
            tests=str(len(cells)),
            failures=str(sum(cell.verdict.is_product_failure for cell in cells)),
            errors=str(sum(_is_error(cell) for cell in cells)),
            skipped=str(sum(_is_skipped(cell) for cell in cells)),
            time=f"{sum(cell.duration for cell in cells):.3f}",
        )
        for cell in cells:
            _add(suite, cell)
    ElementTree.ElementTree(root).write(run.folder / "junit.xml", encoding="utf-8", xml_declaration=True)


def _is_error(cell: Cell) -> bool:
    return cell.verdict.is_unanswered or cell.verdict is Verdict.FLAKY


def _is_skipped(cell: Cell) -> bool:
    return cell.verdict in (Verdict.SKIP, Verdict.XFAIL)


def _add(suite: ElementTree.Element, cell: Cell) -> None:
    module, _, name = cell.plan.test.partition("::")
    item = ElementTree.SubElement(
        suite, "testcase", classname=f"{cell.plan.host}.{module}", name=name, time=f"{cell.duration:.3f}"
    )
    properties = ElementTree.SubElement(item, "properties")
    for key, value in (("case", cell.plan.case), ("verdict", cell.verdict.value), ("raw", cell.raw.value)):
        ElementTree.SubElement(properties, "property", name=key, value=value)
    message = _CONTROL.sub("?", cell.expectation or cell.message)
    if _is_skipped(cell):
        ElementTree.SubElement(item, "skipped", message=message)
    elif cell.verdict is not Verdict.PASS:
        tag = "error" if _is_error(cell) else "failure"
        note = ElementTree.SubElement(item, tag, message=message, type=f"{cell.verdict} {cell.code}")
        note.text = _CONTROL.sub("?", f"{cell.message}\n{cell.help}\nevidence: {cell.evidence}")
