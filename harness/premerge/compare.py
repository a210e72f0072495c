"""Cells of a baseline and of a candidate, compared by what happened (raw), not by what was predicted.

A predicted failure that a patch removes is red in its own run (XPASS); here it is what it is: fixed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from harness.errors import ConfigError
from harness.verdicts import Verdict


class Side(StrEnum):
    """What became of a cell."""

    WORSE = "worse"
    FIXED = "fixed"
    UNSTABLE = "unstable"
    NOT_COMPARABLE = "not comparable"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class Difference:
    """One cell. ``before`` and ``after`` are its entries of results.json, ``None`` where a run does not have it;
    ``attempts`` the raw outcomes of confirming runs, baseline and candidate in turn."""

    side: Side
    host: str
    test: str
    case: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    why: str
    attempts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """All cells of both runs, the worse first."""

    #: Run folders of each side, in the order in which they were made.
    baseline: tuple[Path, ...]
    candidate: tuple[Path, ...]
    differences: tuple[Difference, ...]
    #: alias -> SHA-256 of the vmm.ko that each side ran, where hosts told one.
    modules: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def same_module(self) -> tuple[str, ...]:
        """Hosts on which both sides ran the very same vmm.ko."""
        return tuple(alias for alias, (before, after) in self.modules.items() if before == after)

    def of(self, side: Side) -> tuple[Difference, ...]:
        return tuple(difference for difference in self.differences if difference.side is side)

    @property
    def exit_code(self) -> int:
        """1 something is worse, 10 some cells could not be compared, 0 neither; 5 nothing was compared at all."""
        if self.of(Side.WORSE):
            return 1
        if self.of(Side.NOT_COMPARABLE) or self.of(Side.UNSTABLE):
            return 10
        return 0 if any(difference.before for difference in self.differences) else 5


def compare_runs(
    baseline: Path | Sequence[Path], candidate: Path | Sequence[Path], confirmations: Sequence[tuple[Path, Path]] = ()
) -> Comparison:
    """Compare the run folders of two sides (one each, or several that share the cells) cell by cell.

    ``confirmations`` are further pairs of runs of the cells that differed: a difference that does not show again in
    each of them is unstable. Raises :class:`ConfigError` for a folder that is not a finished run.
    """
    bases, candidates = ((runs,) if isinstance(runs, Path) else tuple(runs) for runs in (baseline, candidate))
    before, after = _all_cells(bases), _all_cells(candidates)
    if not before:
        names = ", ".join(str(run) for run in bases)
        raise ConfigError(f"The baseline '{names}' has no cells: there is nothing to compare with.")
    again = [(_cells(one), _cells(other)) for one, other in confirmations]
    found = [_difference(key, before.get(key), after.get(key), again) for key in sorted({*before, *after})]
    order = list(Side)
    known, other = _modules(bases), _modules(candidates)
    modules = {alias: (known[alias], other[alias]) for alias in known if alias in other}
    return Comparison(bases, candidates, tuple(sorted(found, key=lambda entry: order.index(entry.side))), modules)


def _modules(runs: Sequence[Path]) -> dict[str, str]:
    """The module of each host; ``differing`` where the runs of one side had several."""
    found: dict[str, str] = {}
    for run in runs:
        hosts = json.loads((run / "results.json").read_text(encoding="utf-8")).get("hosts", {})
        for alias, facts in hosts.items():
            sha256 = str(facts.get("vmm_sha256", ""))
            if sha256:
                found[alias] = sha256 if found.get(alias, sha256) == sha256 else "differing"
    return found


def _all_cells(runs: Sequence[Path]) -> dict[tuple[str, str], dict[str, Any]]:
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for run in runs:
        cells.update(_cells(run))
    return cells


def _cells(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    path = folder / "results.json"
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        # Evidence is found from where its own run is.
        return {(cell["host"], cell["test"]): {**cell, "run": str(folder)} for cell in cells}
    except OSError as error:
        raise ConfigError(
            f"'{folder}' is not a finished run: '{path.name}' cannot be read ({error.strerror})."
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"'{path}' is damaged ({type(error).__name__}: {error}).") from None


def _difference(
    key: tuple[str, str],
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
    again: Sequence[tuple[Mapping[tuple[str, str], dict[str, Any]], Mapping[tuple[str, str], dict[str, Any]]]],
) -> Difference:
    host, test = key
    case = str((before or after or {}).get("case", ""))
    side, why = _judge(before, after)
    attempts: list[str] = []
    if side in (Side.WORSE, Side.FIXED):
        for one, other in again:
            repeated, _ = _judge(one.get(key), other.get(key))
            attempts += [str(cells[key]["raw"]) if key in cells else "missing" for cells in (one, other)]
            if repeated is not side:
                side, why = Side.UNSTABLE, f"a repetition does not confirm: {why}"
    return Difference(side, host, test, case, before, after, why, tuple(attempts))


def _judge(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> tuple[Side, str]:
    for name, cell in (("baseline", before), ("candidate", after)):
        if cell is None:
            return Side.NOT_COMPARABLE, f"the {name} does not have it"
        verdict = Verdict(cell["verdict"])
        if verdict.is_unanswered or verdict is Verdict.FLAKY:
            return Side.NOT_COMPARABLE, f"the {name} gives no answer: {verdict} {cell['code']}".rstrip()
    assert before is not None
    assert after is not None
    old, new = Verdict(before["raw"]), Verdict(after["raw"])
    if (old is Verdict.SKIP) != (new is Verdict.SKIP):
        return Side.NOT_COMPARABLE, f"{old} in the baseline, {new} in the candidate"
    if new.severity < old.severity:
        return Side.WORSE, f"{after['code'] or new}: {after['message']}"
    if new.severity > old.severity:
        return Side.FIXED, f"was {before['code'] or old}: {before['message']}"
    if new is not Verdict.PASS and before["code"] != after["code"]:
        return Side.WORSE, f"fails in another way: {after['code']}, was {before['code']}"
    return Side.UNCHANGED, ""
