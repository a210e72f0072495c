"""A comparison for the terminal, for a code review, and as data."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.premerge.compare import Comparison, Difference, Side

#: Cells of one kind that are listed in a review comment; the data has all of them.
_LISTED = 40


def summary(comparison: Comparison) -> str:
    """One line: how many cells of each kind."""
    return ", ".join(f"{len(comparison.of(side))} {side}" for side in Side)


def markdown(comparison: Comparison, *, base: str, candidate: str, how: str = "") -> str:
    """A comment for a code review. ``base`` and ``candidate`` name the two modules, ``how`` says how they were run."""
    worse = len(comparison.of(Side.WORSE))
    verdict = f"**{worse} cells are worse**" if worse else "**Nothing is worse**"
    lines = [f"### vmmcheck: `{candidate}` against `{base}`", "", f"{verdict}: {summary(comparison)}.", ""]
    for side in (Side.WORSE, Side.UNSTABLE, Side.NOT_COMPARABLE, Side.FIXED):
        lines += _section(comparison.of(side), side)
    lines += [f"**{line}**" for line in warnings(comparison)]
    for alias, (before, after) in sorted(comparison.modules.items()):
        lines.append(f"- {alias}: vmm.ko `{before[:16]}` against `{after[:16]}` (SHA-256)")
    names = [", ".join(run.name for run in runs) for runs in (comparison.baseline, comparison.candidate)]
    lines += ["", *([how] if how else []), f"Baseline run {names[0]}, candidate run {names[1]}."]
    return "\n".join(lines) + "\n"


def warnings(comparison: Comparison) -> list[str]:
    """What stands against believing a comparison."""
    return [
        f"Both sides ran the same vmm.ko on '{alias}': nothing was compared there." for alias in comparison.same_module
    ]


def _section(differences: tuple[Difference, ...], side: Side) -> Iterator[str]:
    if not differences:
        return
    yield f"#### {side.capitalize()} ({len(differences)})"
    yield ""
    yield "| host | case | variant | what |"
    yield "|---|---|---|---|"
    for entry in differences[:_LISTED]:
        attempts = f" (repeated: {', '.join(entry.attempts)})" if entry.attempts else ""
        what = f"{entry.why}{attempts}".replace("|", "\\|").replace("\n", " ")
        yield f"| {entry.host} | {entry.case} | `{entry.test.rpartition('::')[2]}` | {what} |"
    if len(differences) > _LISTED:
        yield f"| | | {len(differences) - _LISTED} more | see comparison.json |"
    yield ""


def write_comparison(
    comparison: Comparison,
    folder: Path,
    *,
    base: str,
    candidate: str,
    how: str = "",
    order: Sequence[tuple[str, str, str]] = (),
) -> list[Path]:
    """Write ``comparison.json`` and ``comparison.md`` into ``folder``; the paths written.

    ``order`` has side, suite module (empty: all) and run of everything that was run, in that order.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def place(cell: object) -> str:
        evidence = cell.get("evidence", "") if isinstance(cell, dict) else ""
        if not isinstance(cell, dict) or not evidence:
            return ""
        return os.path.relpath(Path(cell["run"]) / evidence, folder).replace(os.sep, "/")

    data = {
        "schema": 2,
        "base": base,
        "candidate": candidate,
        "runs": {
            "baseline": [run.name for run in comparison.baseline],
            "candidate": [run.name for run in comparison.candidate],
        },
        "how": how,
        "order": [{"side": side, "suite": group, "run": run} for side, group, run in order],
        "modules": {alias: list(pair) for alias, pair in comparison.modules.items()},
        "warnings": warnings(comparison),
        "totals": {str(side): len(comparison.of(side)) for side in Side},
        "exit_code": comparison.exit_code,
        "cells": [
            {
                "side": str(entry.side),
                "host": entry.host,
                "case": entry.case,
                "test": entry.test,
                "before": entry.before["verdict"] if entry.before else None,
                "after": entry.after["verdict"] if entry.after else None,
                "why": entry.why,
                "attempts": list(entry.attempts),
                "evidence": [place(entry.before), place(entry.after)],
            }
            for entry in comparison.differences
            if entry.side is not Side.UNCHANGED
        ],
    }
    paths = [folder / "comparison.json", folder / "comparison.md"]
    paths[0].write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    paths[1].write_text(markdown(comparison, base=base, candidate=candidate, how=how), encoding="utf-8")
    return paths
