"""The coverage of a lab: rules and requirements against cases, answers and seeded defects, with the holes named."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.cases import REQUIREMENTS
from harness.catalogue import Gap
from harness.coverage.collect import Collected, Listed
from harness.coverage.verdicts import Answer, Kill, Sensitivity
from harness.verdicts import Verdict, worst

SCHEMA = 1
#: The heading of cases that no manual speaks of.
CONTRACT = "bhyve's own contract"


@dataclass(frozen=True, slots=True)
class State:
    """A case on one column: how many cells could run there, how the latest answers fold, why it cannot be seen."""

    cells: int
    counts: Mapping[Verdict, int]
    never: int
    reason: str

    @property
    def verdict(self) -> Verdict | None:
        """The worst of the latest answers; ``None`` when there is none."""
        return worst(self.counts) if self.counts else None

    @property
    def passes(self) -> bool:
        """Whether every cell that can run has passed."""
        return self.cells > 0 and self.counts.get(Verdict.PASS, 0) == self.cells

    @property
    def text(self) -> str:
        """One word for a table of a text."""
        if self.verdict is not None:
            return f"{self.verdict.value} {self.counts[self.verdict]}/{self.cells}"
        return "never run" if self.cells else "-" if self.reason else "no test"

    def as_dict(self) -> dict[str, Any]:
        return {
            "cells": self.cells,
            "verdict": self.verdict.value if self.verdict else None,
            "counts": {verdict.value: count for verdict, count in self.counts.items()},
            "never_run": self.never,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class CaseRow:
    """A case with its state on every column and the defects that make it fail."""

    listed: Listed
    states: Mapping[str, State]
    kills: tuple[Kill, ...]

    @property
    def id(self) -> str:
        return self.listed.entry.id

    @property
    def observed(self) -> bool:
        """Whether any column passes it."""
        return any(state.passes for state in self.states.values())


@dataclass(frozen=True, slots=True)
class GapRow:
    """A predicted failure, and what the cells that it speaks of have answered: alias -> verdicts, ``None`` for cells
    that no run has answered."""

    gap: Gap
    answers: Mapping[str, Mapping[Verdict | None, int]]

    def as_dict(self) -> dict[str, Any]:
        return {
            "reason": self.gap.reason,
            "source": self.gap.source,
            "cases": list(self.gap.cases),
            "review": self.gap.review.isoformat(),
            "columns": {
                alias: {verdict.value if verdict else "never run": count for verdict, count in counts.items()}
                for alias, counts in self.answers.items()
            },
        }


@dataclass(frozen=True, slots=True)
class Hole:
    """Something that is not covered: ``kind`` for sorting, ``what`` it is about, ``why``."""

    kind: str
    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """Everything the page shows. ``rules`` and ``requirements`` name cases, which stand in ``cases``."""

    at: float
    headings: Mapping[str, str]
    cases: Mapping[str, CaseRow]
    rules: Mapping[str, tuple[str, ...]]
    requirements: Mapping[str, tuple[str, ...]]
    sensitivity: Sensitivity | None
    runs: tuple[str, ...]
    gaps: tuple[GapRow, ...]
    holes: tuple[Hole, ...]

    def as_dict(self) -> dict[str, Any]:
        """The content of ``coverage.json``."""
        sensitivity = self.sensitivity
        return {
            "schema": SCHEMA,
            "at": round(self.at, 3),
            "columns": dict(self.headings),
            "runs": list(self.runs),
            "sensitivity": sensitivity.run if sensitivity else None,
            "cases": {
                id: {
                    "rule": row.listed.entry.rule,
                    "priority": row.listed.entry.priority,
                    "requirements": list(row.listed.requirements),
                    "tests": list(row.listed.tests),
                    "open": "" if row.listed.asked else row.listed.entry.open,
                    "columns": {alias: state.as_dict() for alias, state in row.states.items()},
                    "killed_by": [
                        {"defect": kill.defect, "vendor": kill.vendor, "requirement": kill.requirement, "own": kill.own}
                        for kill in row.kills
                    ],
                }
                for id, row in self.cases.items()
            },
            "rules": {rule: list(cases) for rule, cases in self.rules.items()},
            "requirements": {name: list(cases) for name, cases in self.requirements.items()},
            "gaps": {row.gap.id: row.as_dict() for row in self.gaps},
            "holes": [{"kind": hole.kind, "what": hole.what, "why": hole.why} for hole in self.holes],
        }


def build(
    listed: Sequence[Listed],
    collected: Collected,
    answers: Mapping[str, Answer],
    sensitivity: Sensitivity | None,
    gaps: Sequence[Gap] = (),
) -> Coverage:
    """Put cases, answers (by node id), defects and predictions together. Raises nothing: what is missing is a hole."""
    cases = {
        one.entry.id: CaseRow(
            one,
            {alias: _state(one, collected, alias, answers) for alias in collected.columns},
            sensitivity.kills.get(one.entry.id, ()) if sensitivity else (),
        )
        for one in listed
    }
    rules: dict[str, list[str]] = {}
    for one in listed:
        for rule in one.entry.refs or (CONTRACT,):
            rules.setdefault(rule, []).append(one.entry.id)
    requirements = {
        name: tuple(one.entry.id for one in listed if name in one.requirements) for name in REQUIREMENTS
    }
    used = {cell.plan.nodeid for cell in collected.cells} & set(answers)
    coverage = Coverage(
        time.time(),
        {alias: platform.heading for alias, platform in collected.columns.items()},
        cases,
        {rule: tuple(rules[rule]) for rule in sorted(rules, key=_rule_order)},
        requirements,
        sensitivity,
        tuple(sorted({answers[nodeid].run for nodeid in used})),
        tuple(_gap(gap, collected, answers) for gap in gaps),
        (),
    )
    return replace(coverage, holes=tuple(_holes(coverage)))


def _gap(gap: Gap, collected: Collected, answers: Mapping[str, Answer]) -> GapRow:
    found: dict[str, Counter[Verdict | None]] = {}
    for cell in collected.cells:
        if not cell.skip and any(id == gap.id for id, _, _ in cell.plan.expected):
            answer = answers.get(cell.plan.nodeid)
            found.setdefault(cell.plan.host, Counter())[answer.verdict if answer else None] += 1
    return GapRow(gap, found)


def _state(one: Listed, collected: Collected, alias: str, answers: Mapping[str, Answer]) -> State:
    running = [cell for cell in collected.of(one.entry.id) if cell.plan.host == alias and not cell.skip]
    known = [answers[cell.plan.nodeid].verdict for cell in running if cell.plan.nodeid in answers]
    counts = Counter(known)
    ordered = {verdict: counts[verdict] for verdict in Verdict if counts[verdict]}
    reason = "; ".join(one.columns[alias].reasons) if not running else ""
    return State(len(running), ordered, len(running) - len(known), reason)


def _rule_order(rule: str) -> tuple[Any, ...]:
    """Manual, then section by number; what no manual says last."""
    manual, _, section = rule.partition(" ")
    numbers = tuple(int(part) if part.isdigit() else 0 for part in section.split(" ")[0].rstrip("?").split("."))
    return (rule == CONTRACT, manual, numbers, rule)


def _holes(coverage: Coverage) -> list[Hole]:
    holes = [
        Hole("rule without a passing case", rule, f"its cases are {', '.join(cases)}")
        for rule, cases in coverage.rules.items()
        if not any(coverage.cases[case].observed for case in cases)
    ]
    for row in coverage.cases.values():
        if not row.listed.asked:
            holes.append(Hole("case without a test", row.id, row.listed.entry.open or "no reason is given"))
        elif not any(state.cells for state in row.states.values()):
            reasons = {state.reason: None for state in row.states.values() if state.reason}
            holes.append(Hole("case that no column can show", row.id, "; ".join(reasons)))
        never = {alias: state.never for alias, state in row.states.items() if state.never}
        if never:
            what = ", ".join(f"{count} on {alias}" for alias, count in never.items())
            holes.append(Hole("cells that no run has answered", row.id, what))
        for alias, state in row.states.items():
            if state.verdict is not None and (state.verdict.is_product_failure or state.verdict.is_unanswered):
                holes.append(Hole("cells that fail or have no answer", row.id, f"{alias}: {state.text}"))
    return holes + _insensitive(coverage)


def _insensitive(coverage: Coverage) -> list[Hole]:
    """What no seeded defect shows to be able to fail."""
    sensitivity = coverage.sensitivity
    if sensitivity is None:
        return [Hole("sensitivity not measured", "every requirement", "run 'vmmcheck sensitivity --full' first")]
    holes = [
        Hole("requirement without a defect that is caught", name, f"{len(cases)} cases")
        for name, cases in coverage.requirements.items()
        if not any(state == "caught" for _, _, state in sensitivity.defects.get(name, ()))
    ]
    if sensitivity.full:
        vendors: dict[str, list[str]] = {}
        for case, vendor in sensitivity.unproven:
            if case in coverage.cases and coverage.cases[case].listed.entry.priority == 1:
                vendors.setdefault(case, []).append(vendor)
        holes += [
            Hole("P1 case that no defect made fail", case, f"on {' and '.join(names)}")
            for case, names in vendors.items()
            if not coverage.cases[case].kills
        ]
    return holes
