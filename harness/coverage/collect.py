"""What the suites ask, and where: pytest's own collection, taken as data and without its output."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.cases import Case
from harness.catalogue import SUITES, Entry
from harness.errors import ConfigError
from harness.inventory import load_inventory
from harness.lab import platform_of
from harness.plugin.collection import PLAN, case_of
from harness.results import CellPlan
from harness.subjects import Platform


@dataclass(frozen=True, slots=True)
class Planned:
    """One cell as it would be planned; ``skip`` says why its host cannot show it."""

    case: Case
    plan: CellPlan
    skip: str


@dataclass(frozen=True, slots=True)
class Collected:
    """All cells of the suites on the hosts of a lab (alias -> column)."""

    columns: Mapping[str, Platform]
    cells: tuple[Planned, ...]

    def of(self, case: str) -> list[Planned]:
        return [cell for cell in self.cells if cell.plan.case == case]

    def cases(self) -> set[str]:
        """Ids of the cases that a suite asks, somewhere or not."""
        return {cell.plan.case for cell in self.cells}


class _Collector:
    def __init__(self) -> None:
        self.cells: list[Planned] = []

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            metadata = case_of(item)
            if metadata is None or PLAN not in item.stash:
                continue
            skips = [str(mark.kwargs.get("reason", "")) for mark in item.iter_markers("skip")]
            self.cells.append(Planned(metadata, item.stash[PLAN], next(iter(skips), "")))


def collect(lab: Path, suites: Path = SUITES) -> Collected:
    """Collect ``suites`` for the hosts of ``lab``; nothing is started and nothing printed.

    Raises :class:`ConfigError`: the inventory, or a module that cannot be collected, with what pytest said of it.
    """
    inventory = load_inventory(lab)
    columns = {alias: platform_of(alias, host) for alias, host in inventory.host.items()}
    collector = _Collector()
    said = io.StringIO()
    words = ["--collect-only", "-q", f"--lab={lab.resolve()}", f"--rootdir={suites.resolve().parent}"]
    words += ["-p", "harness.plugin", "-p", "no:cacheprovider"]
    # pytest's capture would hand the terminal reporter a copy of the real descriptor: -s leaves our stream in place.
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = pytest.main([*words, "-s", str(suites)], plugins=[collector])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        lines = [line for line in said.getvalue().splitlines() if line.startswith(("E ", "ERROR"))]
        raise ConfigError(
            f"The suites in '{suites}' cannot be collected: {' '.join(lines)[:400] or said.getvalue()[-400:]}",
            help=f"Run 'pytest --collect-only {suites.name}' to see it whole.",
        )
    return Collected(columns, tuple(collector.cells))


@dataclass(frozen=True, slots=True)
class Column:
    """What one column can show of one case: cells that run there, and why the others (or all) do not."""

    cells: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Listed:
    """A case as list and suites have it together."""

    entry: Entry
    requirements: tuple[str, ...]
    needs: tuple[str, ...]
    tests: tuple[str, ...]
    columns: Mapping[str, Column]

    @property
    def asked(self) -> bool:
        """Whether a suite has a test for it."""
        return bool(self.tests)


def listing(entries: Mapping[str, Entry], collected: Collected) -> list[Listed]:
    """Every case of the list, in its order, with what the suites make of it on each column.

    Raises :class:`ConfigError` for a case of the suites that the list does not know.
    """
    strange = sorted(collected.cases() - set(entries))
    if strange:
        raise ConfigError(
            f"The suites ask cases that the list does not have: {', '.join(strange)}.",
            help="Give each its table in suites/catalogue.toml (the next free number of its group).",
        )
    return [_listed(entry, collected) for entry in entries.values()]


def _listed(entry: Entry, collected: Collected) -> Listed:
    cells = collected.of(entry.id)
    requirements = dict.fromkeys([*(name for cell in cells for name in cell.case.requirements), *entry.requirements])
    needs = dict.fromkeys(name for cell in cells for name in cell.case.needs)
    tests = dict.fromkeys(cell.plan.test.partition("[")[0] for cell in cells)
    columns = {alias: _column(entry, platform, cells) for alias, platform in collected.columns.items()}
    return Listed(entry, tuple(sorted(requirements)), tuple(needs), tuple(tests), columns)


def _column(entry: Entry, platform: Platform, cells: list[Planned]) -> Column:
    mine = [cell for cell in cells if cell.plan.host == platform.alias]
    reasons = Counter(cell.skip for cell in mine if cell.skip)
    running = len(mine) - reasons.total()
    if running == 0:
        # What the list knows of this kind of host says more than the name of a missing capability.
        known = entry.not_on.get(platform.kind, "") or ("" if mine else entry.open)
        if platform.vendor not in entry.vendors:
            known = f"not applicable to {platform.vendor}: the rule speaks of {' and '.join(entry.vendors)}"
        if known:
            reasons = Counter({known: 1})
    return Column(running, tuple(reasons))
