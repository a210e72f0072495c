"""What runs have answered: the latest verdict of every cell, over all runs of a folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class Answer:
    """The verdict of one cell, and the run that it is from. ``started`` is seconds since 1970."""

    verdict: Verdict
    code: str
    message: str
    run: str
    started: float


def latest_answers(runs: Path, hosts: Mapping[str, str]) -> dict[str, Answer]:
    """Node id -> latest answer of ``hosts`` (alias -> column heading), out of all ``results.json`` in ``runs``.

    Runs with a seeded defect say nothing of a hypervisor that is meant to be correct and do not count; nor does a
    host of the same name that was another column then. A cell that a run did not come to keeps its older answer.
    """
    found: dict[str, Answer] = {}
    for recipe, cells in sorted(_finished(runs), key=lambda entry: float(entry[0]["started"])):
        if any(str(word).startswith("--defect") for word in recipe["arguments"]):
            continue
        for cell in cells:
            verdict = Verdict(cell["verdict"])
            if hosts.get(cell["host"]) != cell["platform"] or (verdict is Verdict.NOT_RUN and cell["nodeid"] in found):
                continue
            found[cell["nodeid"]] = Answer(
                verdict, cell["code"], cell["message"], str(recipe["run"]), float(recipe["started"])
            )
    return found


def _finished(runs: Path) -> Iterable[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """(run.json, cells) of every run that was finished; others have no results, and foreign folders are left out."""
    for results in runs.glob("*/results.json"):
        try:
            recipe = json.loads((results.parent / "run.json").read_text(encoding="utf-8"))
            cells = json.loads(results.read_text(encoding="utf-8"))["cells"]
        except (OSError, ValueError, KeyError):
            continue
        if {"run", "arguments", "started"} <= recipe.keys():
            yield recipe, cells


@dataclass(frozen=True, slots=True)
class Kill:
    """A seeded defect that made a case fail on a vendor's emulated host; ``own`` is whether the case is of the
    requirement that the defect violates, and failed as the defect shows itself."""

    defect: str
    vendor: str
    requirement: str
    own: bool


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What one measurement of the sensitivity says of cases and requirements."""

    run: str
    full: bool
    kills: Mapping[str, tuple[Kill, ...]]
    #: (case, vendor) that no defect made fail although it ran.
    unproven: tuple[tuple[str, str], ...]
    #: requirement -> (defect, vendor, state) of its defects.
    defects: Mapping[str, tuple[tuple[str, str, str], ...]]


def latest_sensitivity(runs: Path) -> Path | None:
    """The newest ``sensitivity.json`` below ``runs``; one over the whole sample before one that stopped early."""
    found = sorted(runs.glob("*/sensitivity.json"), key=lambda path: path.stat().st_mtime)
    whole = [path for path in found if _is_full(path)] or found
    return whole[-1] if whole else None


def read_sensitivity(path: Path) -> Sensitivity:
    """Read what ``vmmcheck sensitivity`` wrote; ``OSError``, ``ValueError`` or ``KeyError`` for anything else."""
    data = json.loads(path.read_text(encoding="utf-8"))
    kills: dict[str, dict[Kill, None]] = {}
    defects: dict[str, list[tuple[str, str, str]]] = {}
    for row in data["defects"]:
        defects.setdefault(row["requirement"], []).append((row["id"], row["vendor"], row["state"]))
        for key in ("caught_by", "other_reason", "caught_by_other_requirements"):
            for finding in row[key]:
                kill = Kill(row["id"], row["vendor"], row["requirement"], key == "caught_by")
                kills.setdefault(finding["case"], {})[kill] = None
    return Sensitivity(
        str(data.get("run", path.parent.name)),
        bool(data["full"]),
        {case: tuple(found) for case, found in kills.items()},
        tuple((case, vendor) for case, vendor in data["cases_nothing_made_fail"]),
        {requirement: tuple(found) for requirement, found in defects.items()},
    )


def _is_full(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8"))["full"])
    except (OSError, ValueError, KeyError):
        return False
