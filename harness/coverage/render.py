"""The coverage for people: a page, a text for a change's description, and the data itself."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from harness.coverage.model import CaseRow, Coverage, State
from harness.verdicts import Verdict

_SYMBOL = {
    Verdict.PASS: "✓", Verdict.SKIP: "–", Verdict.XFAIL: "≈", Verdict.FLAKY: "~", Verdict.NOT_RUN: "◌",
    Verdict.INFRA: "⚠", Verdict.ERROR: "!", Verdict.XPASS: "✗", Verdict.FAIL: "✗", Verdict.PANIC: "☠",
}  # fmt: skip


def write_views(coverage: Coverage, folder: Path) -> None:
    """Write ``coverage.json``, ``.html`` (one file, nothing from elsewhere) and ``.md`` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    data = json.dumps(coverage.as_dict(), indent=1, ensure_ascii=False) + "\n"
    (folder / "coverage.json").write_text(data, encoding="utf-8")
    for name, escape in (("coverage.html", True), ("coverage.md", False)):
        environment = Environment(
            loader=PackageLoader("harness.coverage"), autoescape=escape, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        environment.filters["line"] = _line
        text = environment.get_template(f"{name}.jinja").render(**_view(coverage))
        (folder / name).write_text(text, encoding="utf-8")


def _view(coverage: Coverage) -> dict[str, Any]:
    rows = list(coverage.cases.values())
    kinds: dict[str, list[Any]] = {}
    for hole in coverage.holes:
        kinds.setdefault(hole.kind, []).append(hole)
    return {
        "coverage": coverage,
        "at": time.strftime("%Y-%m-%d %H:%M", time.gmtime(coverage.at)),
        "rows": rows,
        "asked": sum(row.listed.asked for row in rows),
        "observed": sum(row.observed for row in rows),
        "passing": {rule for rule, ids in coverage.rules.items() if any(coverage.cases[id].observed for id in ids)},
        "cells": sum(state.cells for row in rows for state in row.states.values()),
        "kinds": kinds,
        "gaps": [
            (row, {alias: _answered(row.answers.get(alias, {})) for alias in coverage.headings})
            for row in coverage.gaps
        ],
        "tone": _tone,
        "show": _show,
        "requirements": [_requirement(coverage, name) for name in coverage.requirements],
    }


def _tone(state: State) -> str:
    """Name of the style of a cell."""
    if state.verdict is not None:
        return state.verdict.value if state.never == 0 or state.verdict.is_product_failure else "partly"
    return "never" if state.cells else "none" if state.reason else "hole"


def _show(state: State) -> str:
    if state.verdict is None:
        return "never run" if state.cells else "–" if state.reason else "no test"
    part = state.counts[state.verdict]
    count = f"{part}" if part == state.cells else f"{part} of {state.cells}"
    return f"{_SYMBOL[state.verdict]} {count}"


def _answered(counts: Mapping[Verdict | None, int]) -> list[tuple[str, str]]:
    """(style, text) for each verdict of the cells that a prediction speaks of."""
    return [
        (verdict.value, f"{_SYMBOL[verdict]} {verdict.value} {count}") if verdict else ("never", f"never run {count}")
        for verdict, count in counts.items()
    ]


def _requirement(coverage: Coverage, name: str) -> dict[str, Any]:
    """One requirement: its cases by whether a defect of it makes them fail, and what became of its defects."""
    rows = [coverage.cases[id] for id in coverage.requirements[name]]
    kills = {row.id: _killers(row, name) for row in rows}
    killed = [(row.id, row.listed.entry.priority, kills[row.id]) for row in rows if kills[row.id]]
    summary, tone = f"{len(rows)} cases; sensitivity not measured", "dim"
    open_: list[tuple[str, str, str]] = []
    if coverage.sensitivity is not None:
        known = coverage.sensitivity.defects.get(name, ())
        open_ = [defect for defect in known if defect[2] != "caught"]
        caught = len(known) - len(open_)
        summary = f"{caught} of {len(known)} defects caught; {len(killed)} of {len(rows)} cases made fail"
        tone = "good" if known and not open_ else "bad"
    return {
        "name": name,
        "summary": summary,
        "tone": tone,
        "open": open_,
        "killed": killed,
        "silent": [row.id for row in rows if row.listed.asked and not kills[row.id]],
        "untested": [row.id for row in rows if not row.listed.asked],
    }


def _killers(row: CaseRow, requirement: str) -> list[tuple[str, str]]:
    """Defects of a requirement that make a case fail, with the vendors on which they do; others of it are not shown."""
    found: dict[str, list[str]] = {}
    for kill in row.kills:
        if kill.requirement == requirement and kill.vendor not in found.setdefault(kill.defect, []):
            found[kill.defect].append(kill.vendor)
    return [(defect, "/".join(sorted(vendors))) for defect, vendors in found.items()]


def _line(text: str, width: int = 140) -> str:
    """One line that fits into a table of a text."""
    flat = " ".join(text.split()).replace("|", "\\|")
    return flat if len(flat) <= width else flat[: width - 1] + "…"
