"""A matrix for people and programs: JSON, one HTML page, Markdown, CSV. The same matrix gives the same bytes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from harness.matrix.model import Column, Entry, Matrix, Realm
from harness.verdicts import Verdict, worst

#: Verdict -> its sign, which stands beside the word or for it.
SYMBOL = {
    Verdict.PASS: "✓", Verdict.SKIP: "–", Verdict.XFAIL: "≈", Verdict.FLAKY: "~", Verdict.NOT_RUN: "◌",
    Verdict.INFRA: "⚠", Verdict.ERROR: "!", Verdict.XPASS: "✗", Verdict.FAIL: "✗", Verdict.PANIC: "☠",
}  # fmt: skip
#: What stands where nothing was planned.
_NOTHING = "·"

#: Realm -> what a reader must know of the columns under it.
REALM_NOTES = {
    Realm.HARDWARE: "FreeBSD on real processors",
    Realm.NESTED: "FreeBSD in a virtual machine with nested virtualisation: no statement about hardware",
    Realm.EMULATED: "emulated processors: no statement about hardware",
    Realm.BARE: "the guest programs alone on an emulated processor, without a hypervisor",
}


def write_matrix(matrix: Matrix, folder: Path) -> list[Path]:
    """Write ``matrix.json``, ``.html``, ``.md`` and ``.csv`` into ``folder``; the paths written."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "matrix.json": json.dumps(matrix.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n",
        "matrix.html": _html(matrix),
        "matrix.md": _markdown(matrix),
        "matrix.csv": _csv(matrix),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return [folder / name for name in texts]


def _html(matrix: Matrix) -> str:
    environment = Environment(
        loader=PackageLoader("harness.matrix"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("matrix.html.jinja").render(**_view(matrix))


def _view(matrix: Matrix) -> dict[str, Any]:
    requirements = sorted({name for row in matrix.rows for name in row.requirements})
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in matrix.rows:
        cells = [_cell(matrix.entry(row.case, column.id), row.case, column) for column in matrix.columns]
        groups.setdefault(row.case.partition("-")[0], []).append({"row": row, "cells": cells})
    return {
        "matrix": matrix,
        "realms": _realms(matrix.columns),
        "notes": REALM_NOTES,
        "starts": [
            at == 0 or matrix.columns[at - 1].realm is not column.realm for at, column in enumerate(matrix.columns)
        ],
        "summary": [_summary(matrix, column) for column in matrix.columns],
        "requirements": [
            (
                name,
                [
                    _folded(matrix, column, [row.case for row in matrix.rows if name in row.requirements])
                    for column in matrix.columns
                ],
            )
            for name in requirements
        ],
        "groups": [
            (name, rows, [_folded(matrix, column, [entry["row"].case for entry in rows]) for column in matrix.columns])
            for name, rows in groups.items()
        ],
        "verdicts": [verdict for verdict in Verdict if any(entry.verdict is verdict for entry in matrix.entries)],
        "symbol": SYMBOL,
        "nothing": _NOTHING,
    }


def _realms(columns: Sequence[Column]) -> list[tuple[Realm, int]]:
    """Realm and how many columns stand under it, in the order of the columns."""
    return [(realm, count) for realm in Realm if (count := sum(column.realm is realm for column in columns))]


def _summary(matrix: Matrix, column: Column) -> dict[str, Any]:
    """Counts of variants of a class, and cases that nobody answered there."""
    entries = [entry for entry in matrix.entries if entry.column == column.id]
    counts: dict[Verdict, int] = {}
    for entry in entries:
        for host in entry.hosts:
            for verdict, number in host.counts.items():
                counts[verdict] = counts.get(verdict, 0) + number
    return {
        "counts": [(verdict, counts[verdict]) for verdict in Verdict if verdict in counts],
        "missing": len(matrix.rows) - len(entries),
        "disagree": sum(bool(entry.disagree) for entry in entries),
    }


def _folded(matrix: Matrix, column: Column, cases: Sequence[str]) -> dict[str, Any]:
    """The worst of several cases on one class; ``None`` where none of them was planned."""
    entries = [entry for case in cases if (entry := matrix.entry(case, column.id))]
    verdict = worst(entry.verdict for entry in entries) if entries else None
    same = sum(entry.verdict is verdict for entry in entries)
    return {"verdict": verdict, "text": f"{same} of {len(cases)} cases" if verdict else "not planned"}


def _cell(entry: Entry | None, case: str, column: Column) -> dict[str, Any]:
    if entry is None:
        return {
            "verdict": None,
            "text": f"{case} on {column.title}: not planned",
            "disagree": False,
            "href": "",
            "count": "",
        }
    lines = [f"{case} on {column.title}: {entry.verdict}"]
    for host in entry.hosts:
        counts = ", ".join(f"{number} {verdict}" for verdict, number in host.counts.items())
        codes = f" ({', '.join(host.codes)})" if host.codes else ""
        lines.append(f"{host.host}, run {host.run}: {counts}{codes}")
    if entry.disagree:
        lines.append(f"hosts of this class disagree on {', '.join(entry.disagree[:3])}")
    part = sum(host.counts.get(entry.verdict, 0) for host in entry.hosts)
    whole = sum(host.variants for host in entry.hosts)
    return {
        "verdict": entry.verdict,
        "text": "\n".join(lines),
        "disagree": bool(entry.disagree),
        "href": entry.evidence,
        "count": str(part) if part == whole else f"{part}/{whole}",
    }


def _markdown(matrix: Matrix) -> str:
    lines = ["# Compatibility matrix", "", f"Runs: {', '.join(matrix.runs)}", ""]
    for realm, _ in _realms(matrix.columns):
        columns = [column for column in matrix.columns if column.realm is realm]
        lines += [f"## {realm.capitalize()}: {REALM_NOTES[realm]}", ""]
        lines.append("| case | " + " | ".join(_plain(column.title) for column in columns) + " |")
        lines.append("|---" * (len(columns) + 1) + "|")
        for row in matrix.rows:
            shown = [_markdown_cell(matrix.entry(row.case, column.id)) for column in columns]
            lines.append(f"| {row.case} | " + " | ".join(shown) + " |")
        lines.append("")
    lines.append("`!=` marks hosts of one class that disagree; `·` marks what was not planned.")
    return "\n".join(lines) + "\n"


def _markdown_cell(entry: Entry | None) -> str:
    if entry is None:
        return _NOTHING
    return f"{SYMBOL[entry.verdict]} {entry.verdict}{' !=' if entry.disagree else ''}"


def _plain(text: str) -> str:
    return text.replace("|", "\\|")


def _csv(matrix: Matrix) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        ["case", "requirements", "realm", "class", "vendor", "host", "run", "verdict", "variants", "codes", "disagree"]
    )
    columns = {column.id: column for column in matrix.columns}
    rows = {row.case: row for row in matrix.rows}
    for entry in matrix.entries:
        column = columns[entry.column]
        for host in entry.hosts:
            writer.writerow([
                entry.case, " ".join(rows[entry.case].requirements), column.realm, column.title, column.vendor,
                host.host, host.run, host.verdict, host.variants, " ".join(host.codes), "yes" if entry.disagree else "",
            ])  # fmt: skip
    return stream.getvalue()
