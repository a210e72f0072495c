"""A history for the terminal, for a mail or a chat, and as one page. The same history gives the same bytes."""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from harness.matrix.render import SYMBOL
from harness.nightly.analysis import Item, LabReport, News, Point, RedSince, Tally, Track, reports
from harness.nightly.record import Night
from harness.nightly.store import Loaded
from harness.verdicts import Verdict

#: Cells of one kind that the terminal and the Markdown list; the page has all of them.
_LISTED = 20
#: Nights whose verdicts stand beside a cell, and whose totals stand in the terminal's table.
_STRIP = 14
#: Cases that are named of many cells with the same news.
_CASES = 12
#: What stands where a night did not plan a cell.
_NOTHING = "·"


@dataclass(frozen=True, slots=True)
class Group:
    """Red cells of one host that became red in the same run."""

    column: str
    host: str
    reds: tuple[RedSince, ...]

    @property
    def since(self) -> str:
        """One sentence: first bad run, last good one, what differs."""
        red = self.reds[0]
        first = f"Red since run {red.first_bad.night.run} ({red.first_bad.night.when} UTC)"
        if red.last_good is None:
            return f"{first}, the first answer in this history."
        gap = f"; {red.between} {_nights(red.between)} without an answer in between" if red.between else ""
        good = f"last good run {red.last_good.night.run}{gap}"
        if not red.changed:
            return f"{first}; {good}. Nothing that is recorded changed between them."
        changed = "; ".join(f"{name} {before} -> {after}" for name, before, after in red.changed)
        return f"{first}; {good}. Changed: {changed}."


@dataclass(frozen=True, slots=True)
class Bundle:
    """Cells of one host of which there is the same to say: a lost host is one piece of news, not a thousand."""

    items: tuple[Item, ...]

    @property
    def first(self) -> Item:
        return self.items[0]

    @property
    def what(self) -> str:
        """The variant of a single cell; how many of which cases otherwise."""
        if len(self.items) == 1:
            return self.first.track.variant
        return f"{len(self.items)} {_cells(len(self.items))} of {self.cases}"

    @property
    def cases(self) -> str:
        found = sorted({item.track.case for item in self.items})
        more = f" and {len(found) - _CASES} more cases" if len(found) > _CASES else ""
        return ", ".join(found[:_CASES]) + more


def write_history(loaded: Loaded, history: Path, out: Path) -> list[Path]:
    """Write ``nightly.html`` and ``nightly.md`` into ``out``; the paths written. ``history`` has the records."""
    out.mkdir(parents=True, exist_ok=True)
    made = reports(loaded.nights)
    page = _html(made, loaded, history.resolve(), out.resolve())
    texts = {"nightly.html": page, "nightly.md": markdown(made, loaded)}
    for name, text in texts.items():
        # Two runs that end together both write the page: each reader sees one of them, whole.
        partial = out / f".{name}.{secrets.token_hex(4)}.partial"
        partial.write_text(text, encoding="utf-8", newline="\n")
        partial.replace(out / name)
    return [out / name for name in texts]


# --- terminal ------------------------------------------------------------------------------------------------------


def terminal(made: Sequence[LabReport], loaded: Loaded) -> str:
    """What an operator reads first thing in the morning."""
    lines = [f"! {warning}" for warning in loaded.warnings]
    for report in made:
        lines += ["", *_terminal_lab(report)]
    return "\n".join(lines).strip("\n") + "\n"


def _terminal_lab(report: LabReport) -> Iterator[str]:
    yield f"=== {_headline(report)}"
    yield f"New since last night: {_news_line(report)}"
    for news in News:
        items = report.of(news)
        if items:
            yield f"{news.upper()} ({len(items)})"
        found = bundles(items)
        for bundle in found[:_LISTED]:
            one = f"{bundle.first.track.case}  " if len(bundle.items) == 1 else ""
            yield f"  {bundle.first.track.host:<10} {one}{bundle.what}"
            yield f"             {bundle.first.why}"
        if len(found) > _LISTED:
            yield f"  ... {sum(len(bundle.items) for bundle in found[_LISTED:])} more cells on the page"
    for group in groups(report):
        yield f"RED on {group.host}, {group.column}: {len(group.reds)} {_cells(len(group.reds))}"
        yield f"  {group.since}"
        for red in group.reds[:_LISTED]:
            tonight = "" if red.tonight else "  (no answer tonight)"
            yield f"  {strip(red.track)}  {red.track.case}  {red.track.variant}{tonight}"
        if len(group.reds) > _LISTED:
            yield f"  ... {len(group.reds) - _LISTED} more on the page"
    if report.flakes:
        yield f"CHANGED with the same code under test ({len(report.flakes)})"
    for flake in report.flakes[:_LISTED]:
        yield f"  {strip(flake.track)}  {_rate(flake.changes, flake.pairs, flake.disagreed)}"
        yield f"  {flake.track.host:<10} {flake.track.case}  {flake.track.variant}"
    for column, tallies in report.trends:
        yield f"TREND {column}"
        for tally in tallies[-_STRIP:]:
            yield f"  {tally.night.when}  {tally.night.run:<22} {counts(tally)}"


# --- Markdown ------------------------------------------------------------------------------------------------------


def markdown(made: Sequence[LabReport], loaded: Loaded) -> str:
    """For a mail, a chat or a build's summary."""
    lines = ["# vmmcheck: nightly history", ""]
    lines += [f"> {_escaped(warning)}" for warning in loaded.warnings]
    lines += [""] if loaded.warnings else []
    for report in made:
        lines += _markdown_lab(report)
    return "\n".join(lines)


def _markdown_lab(report: LabReport) -> Iterator[str]:
    yield from (f"## {_escaped(_headline(report))}", "", f"**New since last night:** {_news_line(report)}", "")
    for news in News:
        items = report.of(news)
        if not items:
            continue
        yield from (f"### {news.capitalize()} ({len(items)})", "")
        yield from ("| host | cells | what |", "|---|---|---|")
        found = bundles(items)
        for bundle in found[:_LISTED]:
            track = bundle.first.track
            one = f"{track.case} `{_escaped(track.variant)}`" if len(bundle.items) == 1 else bundle.what
            yield f"| {track.host} | {one} | {_escaped(bundle.first.why)} |"
        if len(found) > _LISTED:
            yield f"| | {sum(len(bundle.items) for bundle in found[_LISTED:])} more cells | see the page |"
        yield ""
    if report.red:
        yield from (f"### Red, and since when ({len(report.red)})", "")
    for group in groups(report):
        yield from (f"**{group.host}**, {_escaped(group.column)}: {_escaped(group.since)}", "")
        for red in group.reds[:_LISTED]:
            tonight = "" if red.tonight else " (no answer tonight)"
            yield f"- {strip(red.track)} {red.track.case} `{red.track.variant}` {_escaped(red.last.cell.code)}{tonight}"
        if len(group.reds) > _LISTED:
            yield f"- {len(group.reds) - _LISTED} more: see the page"
        yield ""
    if report.flakes:
        yield from ("### Changed with the same code under test", "")
        yield from ("| host | case | variant | rate | nights |", "|---|---|---|---|---|")
        for flake in report.flakes[:_LISTED]:
            rate, track = _rate(flake.changes, flake.pairs, flake.disagreed), flake.track
            yield f"| {track.host} | {track.case} | `{_escaped(track.variant)}` | {rate} | {strip(track)} |"
        yield ""
    for column, tallies in report.trends:
        yield from (f"### Trend: {_escaped(column)}", "", "| night | run | verdicts |", "|---|---|---|")
        for tally in tallies[-_STRIP:]:
            yield f"| {tally.night.when} | {tally.night.run} | {counts(tally)} |"
        yield ""


# --- page ----------------------------------------------------------------------------------------------------------


def _html(made: Sequence[LabReport], loaded: Loaded, history: Path, out: Path) -> str:
    environment = Environment(
        loader=PackageLoader("harness.nightly"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip

    def place(night: Night, name: str) -> str:
        return os.path.relpath(history / night.folder / name, out).replace(os.sep, "/")

    def evidence(point: Point | None) -> str:
        return place(point.night, point.cell.evidence) + "/" if point and point.cell.evidence else ""

    def links(item: Item) -> list[tuple[str, str]]:
        return [("evidence", evidence(item.after)), ("before", evidence(item.before))]

    return environment.get_template("nightly.html.jinja").render(
        warnings=loaded.warnings,
        labs=[{"report": report, **_lab_view(report)} for report in made],
        place=place, evidence=evidence, links=links, strip=strip, counts=counts, symbol=SYMBOL, nothing=_NOTHING,
        rate=_rate, kind=_kind, News=News, listed=_STRIP,
    )  # fmt: skip


def _lab_view(report: LabReport) -> dict[str, Any]:
    return {
        "headline": _headline(report),
        "news_line": _news_line(report),
        "totals": _totals(report.last),
        "news": [(news, report.of(news), bundles(report.of(news))) for news in News if report.of(news)],
        "groups": groups(report),
        "nights": [(night, _totals(night)) for night in reversed(report.nights)],
    }


def _kind(verdict: Verdict) -> str:
    """The part of a bar that a verdict belongs to."""
    if verdict.is_product_failure:
        return "bad"
    return "lab" if verdict.is_unanswered else {"PASS": "good", "SKIP": "skip"}.get(verdict, "known")


# --- shared --------------------------------------------------------------------------------------------------------


def groups(report: LabReport) -> list[Group]:
    """Red cells by host, first bad run and what changed there, the latest first."""
    found: dict[tuple[Any, ...], list[RedSince]] = {}
    for red in report.red:
        good = red.last_good.night.run if red.last_good else ""
        found.setdefault((red.track.column, red.track.host, red.first_bad.night.run, good), []).append(red)
    return [Group(key[0], key[1], tuple(reds)) for key, reds in found.items()]


def bundles(items: Sequence[Item]) -> list[Bundle]:
    """Items of one kind, put together where host, column and text are the same; in the order of their first."""
    found: dict[tuple[str, str, str], list[Item]] = {}
    for item in items:
        found.setdefault((item.track.host, item.track.column, item.why), []).append(item)
    return [Bundle(tuple(same)) for same in found.values()]


def strip(track: Track, nights: int = _STRIP) -> str:
    """One sign a night, the last one to the right."""
    return "".join(SYMBOL[point.verdict] if point else _NOTHING for point in track.points[-nights:])


def counts(tally: Tally) -> str:
    """The verdicts of one column in one night, as words."""
    return ", ".join(f"{count} {verdict}" for verdict, count in tally.counts) or "not planned"


def _totals(night: Night) -> list[tuple[Verdict, int]]:
    found = Counter(cell.verdict for cell in night.cells)
    return [(verdict, found[verdict]) for verdict in Verdict if found[verdict]]


def _headline(report: LabReport) -> str:
    last = report.last
    selection = f" ({last.selection})" if last.selection else ""
    return f"Lab '{report.lab}': run {last.run}, {last.when} UTC, exit status {last.exit_code}{selection}"


def _news_line(report: LabReport) -> str:
    if len(report.nights) == 1:
        return "this is the first night of the history, there is nothing to hold it against."
    parts = [f"{len(items)} {news}" for news in News if (items := report.of(news))]
    parts += [f"{report.first_seen} planned for the first time"] if report.first_seen else []
    told = ", ".join(parts) or "nothing"
    if report.last.selection != report.nights[-2].selection:
        told += "; the two nights selected different variants"
    return f"{told} (held against run {report.nights[-2].run})."


def _rate(changes: int, pairs: int, disagreed: int) -> str:
    told = f"{changes} of {pairs} ({changes / pairs:.0%})" if pairs else "no two nights to compare"
    return told + (f", {disagreed} {_nights(disagreed)} FLAKY" if disagreed else "")


def _cells(number: int) -> str:
    return "cell" if number == 1 else "cells"


def _nights(number: int) -> str:
    return "night" if number == 1 else "nights"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


__all__ = ["Bundle", "Group", "Item", "bundles", "groups", "markdown", "terminal", "write_history"]
