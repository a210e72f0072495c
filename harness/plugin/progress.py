"""What a person sees: a line per host while it works, and a summary one can act on."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from harness.results import Cell, CellPlan, Run
from harness.verdicts import Verdict

#: Seconds between two redraws of the live lines.
REDRAW = 0.1
#: Without a terminal a line is written for every so many percent of a host's cells.
STEP_PERCENT = 25
#: Cells listed by name for each code in the summary.
LISTED = 6

_COLOR = {
    Verdict.PASS: "32", Verdict.SKIP: "2", Verdict.XFAIL: "33", Verdict.FLAKY: "33", Verdict.NOT_RUN: "35",
    Verdict.INFRA: "35", Verdict.ERROR: "35", Verdict.XPASS: "31", Verdict.FAIL: "31", Verdict.PANIC: "31;1",
}  # fmt: skip


class Progress:
    """One line per host, drawn by the controller only."""

    def __init__(self, headings: Mapping[str, str], stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._color = self._live and "NO_COLOR" not in os.environ
        self._planned: Counter[str] = Counter()
        self._done: dict[str, Counter[Verdict]] = {alias: Counter() for alias in headings}
        self._current: dict[str, str] = {}
        self._said: Counter[str] = Counter()
        self._drawn = 0
        self._last = 0.0
        self._began = time.monotonic()

    def planned(self, plans: Iterable[CellPlan]) -> None:
        self._planned = Counter(plan.host for plan in plans)
        self._draw(force=True)

    def started(self, plan: CellPlan) -> None:
        self._current[plan.host] = f"{plan.case} {plan.test.rpartition('::')[2]}"
        self._draw()

    def finished(self, cell: Cell) -> None:
        done = self._done[cell.plan.host]
        done[cell.verdict] += 1
        if self._live:
            self._draw()
            return
        share = 100 * done.total() // max(1, self._planned[cell.plan.host]) // STEP_PERCENT
        bad = cell.verdict.is_product_failure or cell.verdict.is_unanswered
        if bad or share > self._said[cell.plan.host]:
            self._said[cell.plan.host] = share
            detail = f"  {cell.verdict} {cell.plan.case} {cell.code} {cell.plan.test}" if bad else ""
            self._stream.write(self._line(cell.plan.host, brief=True) + detail + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Draw the last state and leave it standing."""
        self._current.clear()
        self._draw(force=True)
        self._live = False

    def _draw(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if not self._live or (not force and now - self._last < REDRAW):
            return
        self._last = now
        width = os.get_terminal_size(self._stream.fileno()).columns
        up = f"\x1b[{self._drawn}F" if self._drawn else ""
        lines = [self._line(alias, width=width - 1) for alias in self._done]
        self._stream.write(up + "".join(f"\x1b[2K{line}\n" for line in lines))
        self._stream.flush()
        self._drawn = len(lines)

    def _line(self, alias: str, *, brief: bool = False, width: int = 0) -> str:
        """One host's line. What does not fit into ``width`` is cut: a line that wraps cannot be redrawn."""
        done = self._done[alias]
        head = f"[{alias} {done.total()}/{self._planned[alias]}] {time.monotonic() - self._began:5.1f} s"
        pieces: list[tuple[Verdict | None, str]] = [(None, head)]
        pieces += [(verdict, f"  {done[verdict]} {verdict}") for verdict in Verdict if done[verdict]]
        if not brief:
            pieces.append((None, f"  {self._current.get(alias, '')[:60]}".rstrip()))
        left = width or sum(len(text) for _, text in pieces)
        line = ""
        for verdict, text in pieces:
            shown = text[:left]
            left -= len(shown)
            line += self._paint(verdict, shown) if verdict is not None and shown else shown
        return line

    def _paint(self, verdict: Verdict, text: str) -> str:
        return f"\x1b[{_COLOR[verdict]}m{text}\x1b[0m" if self._color else text


def summarize(run: Run, reporter: Any, selection: str = "") -> None:
    """The closing summary: what needs somebody, why, and where its evidence is; ``selection``: what a sample drew."""
    groups: dict[tuple[Verdict, str], list[Cell]] = defaultdict(list)
    for cell in run.ordered():
        if cell.verdict not in (Verdict.PASS, Verdict.SKIP):
            groups[cell.verdict, cell.code].append(cell)
    reporter.section("vmmcheck", sep="=")
    for (verdict, code), cells in sorted(groups.items(), key=lambda group: (group[0][0].severity, group[0][1])):
        reporter.write_line(f"{verdict} {code} ({len(cells)})", **_markup(verdict))
        for cell in cells[:LISTED]:
            reporter.write_line(f"  {cell.plan.host:10} {cell.plan.case}  {cell.plan.test}")
            detail = cell.expectation if verdict is Verdict.XFAIL else cell.message
            reporter.write_line(f"             {detail.splitlines()[0] if detail else ''}")
        if len(cells) > LISTED:
            reporter.write_line(f"  ... and {len(cells) - LISTED} more; all are in the report")
        if verdict is not Verdict.XFAIL:
            reporter.write_line(f"  next: {cells[0].help}")
            if cells[0].evidence:
                reporter.write_line(f"  evidence: {run.folder / cells[0].evidence}")
    skips = Counter(cell.message for cell in run.ordered() if cell.verdict is Verdict.SKIP)
    for reason, count in skips.most_common():
        reporter.write_line(f"SKIP ({count}) {reason}")
    for alias, facts in run.hosts.items():
        if facts.get("down_while_restored"):
            reporter.write_line(f"'{alias}' went down as it was given back: {facts['down_while_restored']}", red=True)
        if facts.get("not_restored"):
            reporter.write_line(f"'{alias}' is not as it was found: {facts['not_restored']}", yellow=True, bold=True)
    answered = sum(not cell.verdict.is_unanswered for cell in run.cells.values())
    totals = ", ".join(f"{count} {verdict}" for verdict in Verdict if (count := run.totals()[verdict]))
    if selection:
        reporter.write_line(f"{selection}; all other variants were not selected and have no cell")
    reporter.write_line(f"{answered} of {len(run.plan)} cells answered: {totals}")
    reporter.write_line(f"report: {run.folder / 'report.html'}")


def _markup(verdict: Verdict) -> dict[str, bool]:
    if verdict.is_product_failure:
        return {"red": True, "bold": True}
    return {"yellow": True} if verdict is Verdict.XFAIL else {"purple": True}
