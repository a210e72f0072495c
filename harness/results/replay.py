"""What can be checked of a finished run from its folder alone: checksums, and judgements against what was observed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.results.evidence import verify_manifest
from harness.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class Checked:
    """One cell: ``how`` it was checked (``records``, ``judgements`` or ``damaged``), and what is wrong, if anything."""

    host: str
    test: str
    how: str
    problem: str = ""


def check_run(stored: Path, replayed: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[Checked]:
    """Check every cell with evidence of the run in ``stored``.

    ``replayed`` are cells of a run with ``--replay``: where that gave an answer, it counts; elsewhere the stored
    judgements are held against the stored observations.
    """
    cells = json.loads((stored / "results.json").read_text(encoding="utf-8"))["cells"]
    return [_check(stored, cell, replayed.get((cell["host"], cell["test"]))) for cell in cells if cell["evidence"]]


def _check(stored: Path, cell: Mapping[str, Any], again: Mapping[str, Any] | None) -> Checked:
    host, test, folder = str(cell["host"]), str(cell["test"]), stored / cell["evidence"]
    try:
        broken = verify_manifest(folder)
    except (OSError, ValueError) as error:
        return Checked(host, test, "damaged", f"its manifest cannot be read: {error}")
    if broken:
        return Checked(host, test, "damaged", f"differs from its manifest: {', '.join(broken)}")
    said = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    if said["verdict"] != cell["verdict"]:
        return Checked(host, test, "damaged", f"its evidence says {said['verdict']}, results.json {cell['verdict']}")
    if again is not None and not Verdict(again["verdict"]).is_unanswered:
        same = (again["raw"], again["code"]) == (cell["raw"], cell["code"])
        problem = f"judged again it is {again['raw']} {again['code']}, was {cell['raw']} {cell['code']}"
        return Checked(host, test, "records", "" if same else problem.rstrip())
    return Checked(host, test, "judgements", _judgements(folder, Verdict(cell["raw"])))


def _judgements(folder: Path, raw: Verdict) -> str:
    """What contradicts itself in a cell whose records cannot be judged again."""
    path = folder / "registers.json"
    entries = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    for entry in entries:
        try:
            expected, observed = int(entry["expected"], 0), int(entry["observed"], 0)
            mask = int(entry["mask"], 0) if entry["mask"] else ~0
        except ValueError:
            continue  # words, such as a list of exceptions: equal or not is all that was judged
        if ((expected ^ observed) & mask == 0) is not entry["ok"]:
            return f"'{entry['what']}' is noted as {'met' if entry['ok'] else 'not met'} against its own values"
    if raw is Verdict.PASS and not all(entry["ok"] for entry in entries):
        return "it passed although an expectation was not met"
    return ""
