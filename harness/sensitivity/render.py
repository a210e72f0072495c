"""The matrix for people: a page, a text for a change's description, and the data itself."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from harness.cases import REQUIREMENTS
from harness.sensitivity.catalogue import APPLIES, load_unobservable
from harness.sensitivity.matrix import Matrix, Row, State

#: What a cell of the table shows: a catch, a failure that counts for another requirement or reason, silence, no answer.
CATCH, OTHER, SILENT, UNANSWERED = "catch", "other", "silent", "unanswered"


def write_views(matrix: Matrix, folder: Path) -> None:
    """Write ``sensitivity.json``, ``.html`` and ``.md`` into ``folder``."""
    unobservable = [asdict(one) for one in load_unobservable() if set(one.vendors) & set(matrix.vendors)]
    data = {**matrix.as_dict(), "unobservable": unobservable}
    (folder / "sensitivity.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    view = {**data, "tables": [_table(matrix, vendor) for vendor in matrix.vendors], "rows": matrix.rows(),
            "coverage": coverage(matrix), "State": State}  # fmt: skip
    for name, escape in (("sensitivity.html", True), ("sensitivity.md", False)):
        environment = Environment(
            loader=PackageLoader("harness.sensitivity"), autoescape=escape, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        environment.filters["line"] = _line
        text = environment.get_template(f"{name}.jinja").render(**view)
        (folder / name).write_text(text, encoding="utf-8")


def coverage(matrix: Matrix) -> list[dict[str, Any]]:
    """One entry per requirement: for each vendor how many of its defects are caught, or ``None`` where none applies."""
    rows = matrix.rows()
    found = []
    for requirement in REQUIREMENTS:
        cells = []
        for vendor in matrix.vendors:
            mine = [row for row in rows if row.defect.requirement == requirement and row.vendor == vendor]
            caught = sum(row.state is State.CAUGHT for row in mine)
            cells.append((caught, len(mine)) if mine or vendor in APPLIES[requirement] else None)
        found.append({"requirement": requirement, "cells": cells})
    return found


def _table(matrix: Matrix, vendor: str) -> dict[str, Any]:
    """Defects down, cases across, for one vendor."""
    cases = matrix.cases.get(vendor, [])
    rows = [row for row in matrix.rows() if row.vendor == vendor]
    return {
        "vendor": vendor,
        "cases": cases,
        "rows": [(row, [_cell(matrix, row, case.case) for case in cases]) for row in rows],
        "killed": [len(matrix.killers().get((case.case, vendor), ())) for case in cases],
    }


def _cell(matrix: Matrix, row: Row, case: str) -> dict[str, str] | None:
    """What one case said about one defect, or ``None`` where it was not asked."""
    result = matrix.results.get((row.defect.id, row.vendor))
    asked = [cell for cell in (result.findings if result is not None else ()) if cell.case == case]
    if not asked:
        return None
    for kind, kills in ((CATCH, row.by_own), (OTHER, (*row.wrong_reason, *row.by_others))):
        mine = [kill for kill in kills if kill.case == case]
        if mine:
            return {"kind": kind, "title": f"{len(mine)} of {len(asked)} cells: {mine[0].code} {mine[0].message}"}
    silent = [cell for cell in asked if not cell.verdict.is_unanswered]
    if silent:
        return {"kind": SILENT, "title": f"{len(asked)} cells, none failed"}
    return {"kind": UNANSWERED, "title": f"no answer: {asked[0].code} {asked[0].message}"}


def _line(text: str, width: int = 160) -> str:
    """One line that fits into a table of a text."""
    flat = " ".join(text.split()).replace("|", "\\|")
    return flat if len(flat) <= width else flat[: width - 1] + "…"
