"""Which cells stand for a case, and in which order they are tried on a defect.

A matrix of hundreds of cells differs little from cell to cell as far as a defect is concerned. So each test function
is represented by the first few of an order that covers values and pairs of values of its axes quickly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from harness.results import CellPlan

#: Variants that are put in order; further ones never come into a sample.
_ORDERED = 16


@dataclass(frozen=True, slots=True)
class Effort:
    """How many variants of a function stand for it: with the requirement of the defect, and with others."""

    own: int
    others: int


def covering(variants: Sequence[Sequence[str]], limit: int = _ORDERED) -> list[int]:
    """Indices of at most ``limit`` variants, each chosen for the most values and pairs not seen before.

    Axes name the plain value first ("no exit"), so among equals the last is the most telling.
    """
    features = [_features(variant) for variant in variants]
    left, seen, order = set(range(len(variants))), set[object](), list[int]()
    while left and len(order) < limit:
        best = max(left, key=lambda index: (*_gain(features[index], seen), index))
        left.remove(best)
        order.append(best)
        seen |= features[best]
    return order


def _features(variant: Sequence[str]) -> set[object]:
    values = list(enumerate(variant))
    return {*values, *combinations(values, 2)}


def _gain(features: set[object], seen: set[object]) -> tuple[int, int]:
    """New single values count before new pairs."""
    new = [feature for feature in features - seen if isinstance(feature, tuple)]
    return sum(isinstance(feature[0], int) for feature in new), len(new)


class Sample:
    """The functions of the suites as one vendor can run them, each with its variants in covering order."""

    def __init__(self, plans: Iterable[CellPlan]) -> None:
        functions: dict[str, list[CellPlan]] = {}
        for plan in plans:
            functions.setdefault(plan.test.partition("[")[0], []).append(plan)
        self._functions = [_ordered(variants) for variants in functions.values()]

    def for_requirement(self, requirement: str, effort: Effort) -> list[CellPlan]:
        """What is tried on a defect of ``requirement``: its own cases first, the most particular of them in front.

        Round by round: one variant of every function, then a second one of each, and so on.
        """
        own = [function for function in self._functions if requirement in function[0].requirements]
        others = [function for function in self._functions if requirement not in function[0].requirements]
        own.sort(key=lambda function: (function[0].priority, len(function[0].requirements)))
        return [*_rounds(own, effort.own), *_rounds(others, effort.others)]

    def everything(self, effort: Effort) -> list[CellPlan]:
        """Every cell that can be part of the sample of some defect."""
        return _rounds(self._functions, max(effort.own, effort.others))


def _ordered(variants: list[CellPlan]) -> list[CellPlan]:
    return [variants[index] for index in covering([_parameters(plan) for plan in variants])]


def _parameters(plan: CellPlan) -> list[str]:
    return plan.test.partition("[")[2].removesuffix("]").split("-")


def _rounds(functions: list[list[CellPlan]], count: int) -> list[CellPlan]:
    return [function[n] for n in range(count) for function in functions if n < len(function)]
