"""Which of the failures that are declared for a cell hold on its host, once the facts of that host are known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.cases import Expected
from harness.results import Cell, CellPlan
from harness.verdicts import Verdict

#: How a decision is written.
_SAID = {True: "holds", False: "does not hold", None: "not decided"}


@dataclass(frozen=True, slots=True)
class Predictions:
    """``expected`` are (id, code, reason) that hold, ``undecided`` (id, code, why) where a fact is missing, ``told``
    the decisions that took facts, for the evidence."""

    expected: tuple[tuple[str, str, str], ...]
    undecided: tuple[tuple[str, str, str], ...] = ()
    told: tuple[str, ...] = ()

    def narrow(self, plan: CellPlan) -> CellPlan:
        """The plan with what holds on its host."""
        return plan if plan.expected == self.expected else replace(plan, expected=self.expected)

    def note(self, cell: Cell) -> Cell:
        """Say beside a failure that an entry which nobody could decide would explain it. It stays a failure."""
        if cell.verdict is not Verdict.FAIL:
            return cell
        notes = [f"{id} may predict it, but {why}." for id, code, why in self.undecided if code == cell.code]
        return replace(cell, message=" ".join([cell.message, *notes])) if notes else cell


def decide(declared: Iterable[Expected], kind: str, facts: Mapping[str, Any]) -> Predictions:
    """Hold what is declared for a cell against the facts of a host; each id and code counts once."""
    expected: dict[tuple[str, str], tuple[str, str, str]] = {}
    undecided: dict[tuple[str, str], tuple[str, str, str]] = {}
    told = []
    for entry in declared:
        holds, why = entry.holds(kind, facts)
        if why:
            told.append(f"{entry.id} {entry.code} {_SAID[holds]}: {why}")
        if holds:
            expected.setdefault((entry.id, entry.code), (entry.id, entry.code, entry.reason))
        elif holds is None:
            undecided.setdefault((entry.id, entry.code), (entry.id, entry.code, why))
    left = tuple(entry for key, entry in undecided.items() if key not in expected)
    return Predictions(tuple(expected.values()), left, tuple(dict.fromkeys(told)))
