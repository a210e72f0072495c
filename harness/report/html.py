"""The page a person opens after a run: one file, no scripts from elsewhere, light and dark."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from harness.results import Cell, Run
from harness.verdicts import Verdict, worst

_SYMBOL = {
    Verdict.PASS: "✓", Verdict.SKIP: "–", Verdict.XFAIL: "≈", Verdict.FLAKY: "~", Verdict.NOT_RUN: "◌",
    Verdict.INFRA: "⚠", Verdict.ERROR: "!", Verdict.XPASS: "✗", Verdict.FAIL: "✗", Verdict.PANIC: "☠",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Folded:
    """All variants of one case on one host."""

    verdict: Verdict
    counts: tuple[tuple[Verdict, int], ...]

    @property
    def symbol(self) -> str:
        return _SYMBOL[self.verdict]

    @property
    def total(self) -> int:
        return sum(count for _, count in self.counts)


def write_html(run: Run) -> None:
    """Write ``report.html`` next to the evidence it links to."""
    environment = Environment(
        loader=PackageLoader("harness.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("report.html").render(**_view(run))
    (run.folder / "report.html").write_text(page, encoding="utf-8")


def _view(run: Run) -> dict[str, Any]:
    cells = run.ordered()
    # In the order of the lab file, whoever was first to report.
    seen = {cell.plan.host for cell in cells}
    hosts = [alias for alias in run.recipe["hosts"] if alias in seen]
    headings = {cell.plan.host: cell.plan.platform for cell in cells}
    cases: dict[str, list[Cell]] = {}
    for cell in cells:
        cases.setdefault(cell.plan.case, []).append(cell)
    rows = [_row(case, cases[case], hosts) for case in sorted(cases)]
    totals = [(verdict, count) for verdict in Verdict if (count := run.totals()[verdict])]
    attention = [cell for cell in cells if cell.verdict not in (Verdict.PASS, Verdict.SKIP, Verdict.XFAIL)]
    return {
        "run": run.recipe["run"],
        "lab": run.recipe["lab"],
        "started": time.strftime("%Y-%m-%d %H:%M", time.gmtime(run.recipe["started"])),
        "hosts": [(host, headings[host]) for host in hosts],
        "rows": rows,
        "totals": totals,
        "symbol": _SYMBOL,
        "attention": sorted(attention, key=lambda cell: cell.verdict.severity),
        "answered": sum(not cell.verdict.is_unanswered for cell in cells),
        "planned": len(run.plan),
        "overall": worst(cell.verdict for cell in cells),
        "skips": _skips(cells, hosts, run.skips),
        "reviews": run.reviews,
    }


def _skips(cells: list[Cell], hosts: list[str], budgets: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How much each host skipped of what was planned, what it was allowed, and why, the most frequent reason first."""
    skipped = [cell for cell in cells if cell.verdict is Verdict.SKIP]
    by_host = Counter(cell.plan.host for cell in skipped)
    planned = Counter(cell.plan.host for cell in cells)
    reasons = Counter(cell.message for cell in skipped)
    return {
        "total": len(skipped),
        "hosts": [(host, by_host[host], planned[host], budgets.get(host, {})) for host in hosts],
        "reasons": sorted(reasons.items(), key=lambda reason: (-reason[1], reason[0])),
    }


def _row(case: str, cells: list[Cell], hosts: list[str]) -> dict[str, Any]:
    by_host = {host: [cell for cell in cells if cell.plan.host == host] for host in hosts}
    variants: dict[str, dict[str, Cell]] = {}
    for cell in cells:
        variants.setdefault(cell.plan.test.rpartition("::")[2], {})[cell.plan.host] = cell
    return {
        "case": case,
        "rules": list(dict.fromkeys(cell.plan.rule for cell in cells)),
        "requirements": sorted({name for cell in cells for name in cell.plan.requirements}),
        "references": list(dict.fromkeys(name for cell in cells for name in cell.plan.references)),
        "folded": [_fold(by_host[host]) for host in hosts],
        "variants": [(name, [found.get(host) for host in hosts]) for name, found in variants.items()],
        # What the filter finds beside the rule: functions, verdicts and codes, each once.
        "found": " ".join(sorted(_words(cells))),
    }


def _words(cells: list[Cell]) -> set[str]:
    return {
        word
        for cell in cells
        for word in (cell.plan.test.rpartition("::")[2].partition("[")[0], cell.verdict.value, cell.code)
        if word
    }


def _fold(cells: list[Cell]) -> Folded | None:
    if not cells:
        return None
    counts = Counter(cell.verdict for cell in cells)
    return Folded(worst(counts), tuple((verdict, counts[verdict]) for verdict in Verdict if counts[verdict]))
