"""``vmmcheck cases``: the case list and what the suites make of it."""

from __future__ import annotations

import fnmatch
import json
from collections import Counter
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from harness.catalogue import SUITES, load_catalogue, load_gaps, overdue
from harness.coverage import Column, Listed, collect, listing

#: Columns that a listing with everything takes.
_WIDE = 120


@click.command()
@click.argument("pattern", nargs=-1, metavar="[CASE]...")
@click.option("--lab", type=click.Path(path_type=Path), default=Path("labs/emulated.toml"), show_default=True,
              help="Whose columns are shown.")  # fmt: skip
@click.option("--priority", type=click.IntRange(1, 3), default=3, metavar="N", help="Only cases of priority 1 to N.")
@click.option("--requirement", metavar="ID", help="Only cases of this requirement, such as S1.3.")
@click.option("--open", "only_open", is_flag=True, help="Only cases that no suite asks, with the reason.")
@click.option("--suites", type=click.Path(file_okay=False, path_type=Path), default=SUITES, help="Other suites.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable, everything that is known.")
def cases(
    pattern: tuple[str, ...],
    lab: Path,
    priority: int,
    requirement: str | None,
    only_open: bool,
    suites: Path,
    as_json: bool,
) -> None:
    """List the cases: rule, requirements, what each needs, and how many cells each column of a lab can show.

    CASE is an id or a glob, such as 'DAT-*'; naming one case shows why a column cannot show it.
    """
    found = [
        one
        for one in listing(load_catalogue(suites), collect(lab, suites))
        if (not pattern or any(fnmatch.fnmatchcase(one.entry.id, glob) for glob in pattern))
        and one.entry.priority <= priority
        and (requirement is None or requirement in one.requirements)
        and not (only_open and one.asked)
    ]
    if as_json:
        click.echo(json.dumps([as_dict(one) for one in found], indent=1, ensure_ascii=False))
        return
    console = Console()
    if not console.is_terminal:
        # Into a file or a pipe: as wide as the listing is, whatever the terminal that nobody looks at.
        console = Console(width=_WIDE + 60)
    console.print(_table(found, wide=console.width >= _WIDE))
    if len(found) == 1 or only_open:
        for one in found:
            _explain(console, one)
    console.print(_summary(found))
    for gap in overdue(load_gaps(suites), date.today()):
        console.print(f"suites/gaps.toml: {gap.id} was to be reviewed by {gap.review}")


def as_dict(one: Listed) -> dict[str, Any]:
    """A case as ``vmmcheck cases --json`` has it."""
    entry = one.entry
    return {
        "id": entry.id,
        "rule": entry.rule,
        "requirements": list(one.requirements),
        "references": list(entry.refs),
        "priority": entry.priority,
        "vendors": list(entry.vendors),
        "differs_by_vendor": entry.differs,
        "observe": entry.observe,
        "guards": list(entry.guards),
        "gaps": list(entry.gaps),
        "hazard": entry.hazard,
        "unverified": entry.unverified,
        "probe": entry.probe,
        "needs": list(one.needs),
        "tests": list(one.tests),
        "open": entry.open if not one.asked else "",
        "columns": {
            alias: {"cells": column.cells, "reasons": list(column.reasons)} for alias, column in one.columns.items()
        },
    }


def _table(found: Sequence[Listed], *, wide: bool) -> Table:
    """One row a case; without requirements and needs where the rule would be squeezed into a corner."""
    table = Table("case", "P", *(("requirements", "needs") if wide else ()), box=None, pad_edge=False)
    aliases = list(found[0].columns) if found else []
    for alias in aliases:
        table.add_column(alias, justify="right")
    table.add_column("rule", ratio=1)
    for one in found:
        entry = one.entry
        notes = "".join(f" [{gap}]" for gap in entry.gaps) + (" [probe]" if entry.probe else "")
        table.add_row(
            entry.id, str(entry.priority), *((" ".join(one.requirements), " ".join(one.needs)) if wide else ()),
            *(_cells(one, one.columns[alias]) for alias in aliases), f"{entry.rule}{notes}".replace("[", "\\["),
        )  # fmt: skip
    return table


def _cells(one: Listed, column: Column) -> str:
    """Cells that run there, a dash where it cannot be seen, a question mark where nobody asks."""
    if column.cells:
        return str(column.cells)
    return "-" if one.asked or any(reason.startswith("not applicable") for reason in column.reasons) else "?"


def _explain(console: Console, one: Listed) -> None:
    console.print(f"{one.entry.id}: {', '.join(one.tests) or 'no test'}", markup=False)
    reasons: dict[str, list[str]] = {}
    for alias, column in one.columns.items():
        for reason in column.reasons:
            reasons.setdefault(reason, []).append(alias)
    for reason, aliases in reasons.items():
        console.print(f"  {', '.join(aliases)}: {reason}", markup=False, highlight=False)


def _summary(found: Sequence[Listed]) -> str:
    priorities = Counter(one.entry.priority for one in found)
    asked = sum(one.asked for one in found)
    cells = sum(column.cells for one in found for column in one.columns.values())
    counts = ", ".join(f"P{number} {priorities[number]}" for number in sorted(priorities))
    return f"{len(found)} cases ({counts}), {asked} with tests, {cells} cells ('-' not observable there, '?' not asked)"
