"""What must be so of every run, whatever happened to it: read from its folder, never from its own summary."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from harness.results.run import exit_code
from harness.verdicts import Verdict

#: Verdicts that say nothing about the product.
UNANSWERED = frozenset({"INFRA", "NOT_RUN"})
#: Elements that a test case of ``junit.xml`` has for a verdict.
_TAGS = {
    "PASS": [], "XFAIL": ["skipped"], "SKIP": ["skipped"], "FAIL": ["failure"], "PANIC": ["failure"],
    "XPASS": ["failure"], "INFRA": ["error"], "NOT_RUN": ["error"], "ERROR": ["error"], "FLAKY": ["error"],
}  # fmt: skip
_ALLURE = {
    "PASS": "passed", "SKIP": "skipped", "XFAIL": "skipped", "FAIL": "failed", "XPASS": "failed", "PANIC": "failed",
    "INFRA": "broken", "NOT_RUN": "broken", "ERROR": "broken", "FLAKY": "broken",
}  # fmt: skip

Key = tuple[str, str]
Cells = Mapping[Key, Mapping[str, Any]]


def read_cells(folder: Path) -> dict[Key, dict[str, Any]]:
    """(host, test) -> entry of ``results.json``."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return {(cell["host"], cell["test"]): cell for cell in results["cells"]}


def complete(folder: Path, status: int) -> list[str]:
    """Every planned cell has one verdict, with a code where it needs one, and the exit status is that of the cells."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    cells, wrong = results["cells"], []
    planned = 0
    for path in folder.glob("hosts/*/plan.json"):
        planned += len(json.loads(path.read_text(encoding="utf-8")))
    if not results["planned"] == len(cells) == planned:
        wrong.append(f"{planned} cells were planned, {results['planned']} told as planned, {len(cells)} have a verdict")
    wrong += [
        f"{cell['test']} on {cell['host']} is {cell['verdict']} and says neither code nor message"
        for cell in cells
        if cell["verdict"] not in ("PASS", "SKIP", "XFAIL") and not (cell["code"] and cell["message"])
    ]
    totals = Counter(cell["verdict"] for cell in cells)
    if dict(totals) != results["totals"]:
        wrong.append(f"results.json has totals {results['totals']}, its cells are {dict(totals)}")
    expected = exit_code(Counter({Verdict(name): count for name, count in totals.items()}))
    if any(facts.get("down_while_restored") for facts in results["hosts"].values()):
        expected = 1
    if status != results["exit_code"] or status not in (expected, 2):
        wrong.append(f"exit status {status}, {results['exit_code']} in results.json, {expected} by its cells")
    return wrong


def same_everywhere(folder: Path) -> list[str]:
    """JUnit, CTRF and Allure say of each cell what ``results.json`` says, and nothing else."""
    cells = read_cells(folder)
    expected = {key: cell["verdict"] for key, cell in cells.items()}
    wrong: list[str] = []

    junit: dict[Key, list[str]] = {}
    for suite in ElementTree.parse(folder / "junit.xml").getroot():
        host = str(suite.get("name"))
        for case in suite:
            module = str(case.get("classname")).removeprefix(f"{host}.")
            junit[host, f"{module}::{case.get('name')}"] = [child.tag for child in case if child.tag != "properties"]
        for count, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            if int(str(suite.get(count))) != len(suite.findall(f"testcase/{tag}")):
                wrong.append(f"junit.xml counts {suite.get(count)} {count} of {host}")
    wrong += _differences("junit.xml", {key: _TAGS[verdict] for key, verdict in expected.items()}, junit)

    ctrf = json.loads((folder / "ctrf.json").read_text(encoding="utf-8"))["results"]
    told = {(test["extra"]["host"], test["name"]): test["rawStatus"] for test in ctrf["tests"]}
    wrong += _differences("ctrf.json", expected, told)
    statuses = Counter(test["status"] for test in ctrf["tests"])
    summary = {name: count for name, count in ctrf["summary"].items() if name in statuses}
    if summary != dict(statuses) or ctrf["summary"]["tests"] != len(expected):
        wrong.append(f"ctrf.json sums up {ctrf['summary']}, its tests are {dict(statuses)}")

    results = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("allure-results/*-result.json")]
    names = {cell["nodeid"]: key for key, cell in cells.items()}
    shown = {names.get(one["fullName"], ("nobody", one["fullName"])): (one["status"], _verdict(one)) for one in results}
    if len(shown) != len(results):
        wrong.append(f"allure-results has {len(results)} results for {len(shown)} cells")
    wrong += _differences("allure-results", {key: (_ALLURE[said], said) for key, said in expected.items()}, shown)
    return wrong


def _verdict(result: Mapping[str, Any]) -> str:
    return next((label["value"] for label in result["labels"] if label["name"] == "verdict"), "")


def untouched(cells: Cells, reference: Cells, host: str) -> list[str]:
    """The cells of ``host``, to which nothing was done, are what they are without a fault."""
    return [
        f"{test} on {host}, to which nothing was done, is {cell['verdict']} {cell['code']} instead of"
        f" {reference[key]['verdict']}: {cell['message']}"
        for key, cell in cells.items()
        if (test := key[1]) and key[0] == host and cell["verdict"] != reference[key]["verdict"]
    ]


def explained(cells: Cells, reference: Cells, host: str, panics: int, codes: Iterable[str]) -> list[str]:
    """The cells of ``host``, which was hit: as without a fault, or unanswered, or at most ``panics`` of them a PANIC.

    ``codes`` are those that a PANIC may have.
    """
    wrong, found = [], []
    for key, cell in cells.items():
        if key[0] != host or cell["verdict"] == reference[key]["verdict"]:
            continue
        if cell["verdict"] == "PANIC":
            found.append(cell)
            if cell["code"] not in codes:
                wrong.append(f"{key[1]} on {host} is PANIC {cell['code']}: {cell['message']}")
        elif cell["verdict"] not in UNANSWERED:
            was = reference[key]["verdict"]
            wrong.append(
                f"{key[1]} on {host} is {cell['verdict']} {cell['code']} instead of {was}: {cell['message']}"
            )
    if len(found) > panics:
        names = ", ".join(f"{cell['test']} {cell['code']}" for cell in found)
        wrong.append(f"{len(found)} cells of {host} are PANIC, {panics} may be: {names}")
    return wrong


def _differences(name: str, expected: Mapping[Key, Any], told: Mapping[Key, Any]) -> list[str]:
    return [
        f"{name} has {told.get(key)} for {key[1]} on {key[0]}, results.json {expected.get(key)}"
        for key in sorted(expected.keys() | told.keys())
        if expected.get(key) != told.get(key)
    ]
