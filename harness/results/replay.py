"""What can be checked of a finished run from its folder alone: checksums, and judgements against what was observed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from harness.results.evidence import verify_manifest
from harness.verdicts import Verdict


class How(StrEnum):
    """What could be done with a cell."""

    RECORDS = "judged again"  #: the case ran over the stored records and answers
    JUDGEMENTS = "not judged again"  #: its stored judgements were held against the stored observations
    UNANSWERED = "no judgement"  #: it has none: the lab did not let anybody find out
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Checked:
    """One cell: how it was checked, what is wrong, if anything, and why it was not judged again, if it was not."""

    host: str
    test: str
    how: How
    problem: str = ""
    why: str = ""


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
        return Checked(host, test, How.DAMAGED, f"its manifest cannot be read: {error}")
    if broken:
        return Checked(host, test, How.DAMAGED, f"differs from its manifest: {', '.join(broken)}")
    said = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    differing = [name for name in cell if name in said and said[name] != cell[name]]
    if differing:
        name = "verdict" if "verdict" in differing else differing[0]
        problem = f"its evidence says {name} {str(said[name])[:80]}, results.json {str(cell[name])[:80]}"
        return Checked(host, test, How.DAMAGED, problem)
    if Verdict(cell["verdict"]).is_unanswered:
        return Checked(host, test, How.UNANSWERED, "", f"{cell['verdict']} {cell['code']}")
    if again is not None and not Verdict(again["verdict"]).is_unanswered:
        same = (again["raw"], again["code"]) == (cell["raw"], cell["code"])
        problem = f"judged again it is {again['raw']} {again['code']}, was {cell['raw']} {cell['code']}"
        return Checked(host, test, How.RECORDS, "" if same else problem.rstrip())
    why = f"{again['verdict']} {again['code']}: {again['message']}" if again is not None else "no suite has it any more"
    if cell["verdict"] == Verdict.PANIC:
        why = "a host that went down cannot be asked again"
    return Checked(host, test, How.JUDGEMENTS, _judgements(folder, Verdict(cell["raw"])), why)


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
