"""What a history says: what is new, since when a cell is red and what changed then, which cells come and go.

A cell without an answer (host lost, run killed, case broken) is neither good nor bad: it is passed over when a cell is
held against its past, and told as what it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from harness.nightly.record import CellRecord, Machine, Night
from harness.verdicts import Verdict


class News(StrEnum):
    """What became of a cell since the night before."""

    RED = "newly red"
    FIXED = "newly fixed"
    UNANSWERED = "newly unanswered"
    SKIPPED = "newly skipped"
    FLAKY = "newly flaky"
    PREDICTED = "newly predicted to fail"
    GONE = "no longer planned"


@dataclass(frozen=True, slots=True)
class Point:
    """What one night says about one cell."""

    night: Night
    machine: Machine
    cell: CellRecord

    @property
    def verdict(self) -> Verdict:
        return self.cell.verdict

    @property
    def red(self) -> bool:
        return self.verdict.is_product_failure

    @property
    def code_under_test(self) -> tuple[str, ...] | None:
        """What a verdict can depend on, as far as it was recorded; ``None`` when the module is not known."""
        machine = self.machine
        if not machine.module and machine.kind != "bare":
            return None
        return (machine.module, *machine.defects, machine.release, machine.microcode, self.night.revision)


@dataclass(frozen=True, slots=True)
class Track:
    """One cell through all nights of a lab; ``None`` where a night did not plan it."""

    column: str
    host: str
    test: str
    case: str
    points: tuple[Point | None, ...]

    @property
    def variant(self) -> str:
        return self.test.rpartition("::")[2]

    @property
    def answers(self) -> list[Point]:
        """The nights that answered, SKIP among them."""
        return [point for point in self.points if point and not point.verdict.is_unanswered]


@dataclass(frozen=True, slots=True)
class Item:
    """A piece of news: ``before`` is the last answer, of whichever night; ``None`` for the first one."""

    news: News
    track: Track
    before: Point | None
    after: Point | None
    why: str


@dataclass(frozen=True, slots=True)
class RedSince:
    """A cell whose last answer is red. ``first_bad`` begins the unbroken row of red answers; ``last_good`` is the last
    answer before it (``None``: red as far back as the history goes), ``between`` nights in between have no answer.

    ``changed`` are (what, before, after) from the one to the other; ``tonight`` is false when the last night did not
    answer.
    """

    track: Track
    last: Point
    first_bad: Point
    last_good: Point | None
    between: int
    nights: int
    changed: tuple[tuple[str, str, str], ...]
    tonight: bool


@dataclass(frozen=True, slots=True)
class Flake:
    """``changes`` of verdict in ``pairs`` of successive answers for the same code under test, and ``disagreed`` nights
    whose own attempts disagreed."""

    track: Track
    changes: int
    pairs: int
    disagreed: int

    @property
    def rate(self) -> float:
        return self.changes / self.pairs if self.pairs else 0.0


@dataclass(frozen=True, slots=True)
class Tally:
    """Verdicts of one column in one night, worst first; empty where the night did not have the column."""

    night: Night
    counts: tuple[tuple[Verdict, int], ...]

    @property
    def total(self) -> int:
        return sum(count for _, count in self.counts)


@dataclass(frozen=True, slots=True)
class LabReport:
    """Everything about one lab. ``nights`` oldest first; ``trends`` by column, in the order of realm and name."""

    lab: str
    nights: tuple[Night, ...]
    items: tuple[Item, ...]
    red: tuple[RedSince, ...]
    flakes: tuple[Flake, ...]
    trends: tuple[tuple[str, tuple[Tally, ...]], ...]
    first_seen: int

    @property
    def last(self) -> Night:
        return self.nights[-1]

    def of(self, news: News) -> tuple[Item, ...]:
        return tuple(item for item in self.items if item.news is news)


def reports(nights: Sequence[Night]) -> list[LabReport]:
    """One report a lab, by name: labs are not compared with each other. ``nights`` are in the order of their start."""
    labs = sorted({night.lab for night in nights})
    return [_report(lab, [night for night in nights if night.lab == lab]) for lab in labs]


def _report(lab: str, nights: list[Night]) -> LabReport:
    tracks = _tracks(nights)
    items = [item for track in tracks if (item := _news(track))] if len(nights) > 1 else []
    order = list(News)
    reds = [red for track in tracks if (red := _red_since(track))]
    flakes = [flake for track in tracks if (flake := _flake(track))]
    return LabReport(
        lab=lab,
        nights=tuple(nights),
        items=tuple(sorted(items, key=lambda item: order.index(item.news))),
        red=tuple(sorted(reds, key=lambda red: (-red.first_bad.night.started, red.last.verdict.severity))),
        flakes=tuple(sorted(flakes, key=lambda flake: (-flake.rate, -flake.disagreed))),
        trends=_trends(nights),
        first_seen=sum(bool(track.points[-1]) and not any(track.points[:-1]) for track in tracks),
    )


def _tracks(nights: Sequence[Night]) -> list[Track]:
    """By column, host and test. A host that became another machine begins a new track: its column is another one."""
    found: dict[tuple[str, str, str], dict[int, Point]] = {}
    for at, night in enumerate(nights):
        machines = {machine.host: machine for machine in night.machines}
        for cell in night.cells:
            machine = machines[cell.host]
            found.setdefault((machine.column, cell.host, cell.test), {})[at] = Point(night, machine, cell)
    return [
        Track(column, host, test, points[max(points)].cell.case, tuple(points.get(at) for at in range(len(nights))))
        for (column, host, test), points in sorted(found.items())
    ]


def _news(track: Track) -> Item | None:
    last, previous = track.points[-1], track.points[-2]
    if last is None:
        return Item(News.GONE, track, previous, None, f"was {_told(previous)}") if previous else None
    answers = track.answers
    if last.verdict.is_unanswered:
        before = answers[-1] if answers else None
        if previous and previous.verdict.is_unanswered:
            return None
        return Item(News.UNANSWERED, track, before, last, _told(last))
    before = answers[-2] if len(answers) > 1 else None
    news = _kind(before, last)
    if news is None:
        return None
    was = f"was {_told(before, short=True)}" if before else "its first answer"
    if before and before.night is not _previous(track):
        was += f" in {before.night.run}, without an answer since"
    return Item(news, track, before, last, f"{_told(last)} ({was})")


def _previous(track: Track) -> Night | None:
    """The night before the last one, where it has the cell."""
    return track.points[-2].night if track.points[-2] else None


def _kind(before: Point | None, last: Point) -> News | None:
    old, new = (before.verdict if before else None), last.verdict
    if last.red:
        same = before is not None and before.red and before.cell.code == last.cell.code
        return None if same else News.RED
    if old is None or old is new:
        return None
    if new is Verdict.PASS:
        return News.FIXED if before and (before.red or old is Verdict.XFAIL) else None
    return {Verdict.SKIP: News.SKIPPED, Verdict.FLAKY: News.FLAKY, Verdict.XFAIL: News.PREDICTED}.get(new)


def _told(point: Point | None, *, short: bool = False) -> str:
    if point is None:
        return ""
    cell = point.cell
    head = f"{cell.verdict} {cell.code}".rstrip()
    return head if short or not cell.message else f"{head}: {cell.message}"


def _red_since(track: Track) -> RedSince | None:
    # A skip says nothing about the product: it neither ends nor begins a row of failures.
    answers = [point for point in track.answers if point.verdict is not Verdict.SKIP]
    # A cell that the last night did not plan is told as news once, and not carried along for ever.
    if not answers or not answers[-1].red or track.points[-1] is None:
        return None
    row: list[Point] = []
    for point in reversed(answers):
        if not point.red:
            break
        row.append(point)
    first, good = row[-1], answers[-len(row) - 1] if len(answers) > len(row) else None
    return RedSince(
        track=track,
        last=answers[-1],
        first_bad=first,
        last_good=good,
        between=track.points.index(first) - track.points.index(good) - 1 if good else 0,
        nights=len(row),
        changed=what_changed(good, first) if good else (),
        tonight=track.points[-1] is answers[-1],
    )


def what_changed(before: Point, after: Point) -> tuple[tuple[str, str, str], ...]:
    """(what, before, after) of everything that was recorded and differs; 'not recorded' where a night does not say."""

    def facts(point: Point) -> dict[str, str]:
        machine = point.machine
        return {
            "vmm.ko": machine.module[:12],
            "origin of vmm.ko": machine.origin,
            "seeded defects": ", ".join(machine.defects) or "none",
            "FreeBSD": machine.release,
            "microcode": machine.microcode,
            "CPU model": machine.model,
            "vmmcheck": point.night.revision,
        }

    old, new = facts(before), facts(after)
    return tuple(
        (name, old[name] or "not recorded", new[name] or "not recorded") for name in old if old[name] != new[name]
    )


def _flake(track: Track) -> Flake | None:
    answers = [point for point in track.answers if point.verdict is not Verdict.SKIP]
    pairs = [
        (one, two)
        for one, two in itertools.pairwise(answers)
        if one.code_under_test is not None and one.code_under_test == two.code_under_test
    ]
    changes = sum(one.verdict is not two.verdict for one, two in pairs)
    disagreed = sum(point.verdict is Verdict.FLAKY for point in answers)
    return Flake(track, changes, len(pairs), disagreed) if changes or disagreed else None


def _trends(nights: Sequence[Night]) -> tuple[tuple[str, tuple[Tally, ...]], ...]:
    columns = sorted({(machine.realm, machine.column) for night in nights for machine in night.machines})
    realms = list(type(columns[0][0])) if columns else []
    columns.sort(key=lambda entry: (realms.index(entry[0]), entry[1]))
    return tuple((column, tuple(Tally(night, _counts(night, column)) for night in nights)) for _, column in columns)


def _counts(night: Night, column: str) -> tuple[tuple[Verdict, int], ...]:
    hosts = {machine.host for machine in night.machines if machine.column == column}
    found = [cell.verdict for cell in night.cells if cell.host in hosts]
    return tuple((verdict, count) for verdict in Verdict if (count := _count(found, verdict)))


def _count(found: Iterable[Verdict], verdict: Verdict) -> int:
    return sum(one is verdict for one in found)
