"""What was found, and what it means: which defect is caught, by what, and for the right reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from harness.cases import REQUIREMENTS
from harness.errors import GuestHang
from harness.sensitivity.catalogue import APPLIES, Defect
from harness.verdicts import Verdict

SCHEMA = 1
#: A guest that hangs is believed only where the correct hypervisor ends it in this share of its limit.
HANG_SHARE = 0.34


@dataclass(frozen=True, slots=True)
class Finding:
    """One cell under one defect (or under none).

    ``what`` is the judgement that failed as the evidence has it ("dr3 afterwards"), ``seconds`` the cell's duration.
    """

    nodeid: str
    test: str
    case: str
    requirements: tuple[str, ...]
    verdict: Verdict
    code: str = ""
    what: str = ""
    message: str = ""
    seconds: float = 0.0
    evidence: str = ""

    @property
    def variant(self) -> str:
        """The test function with its parameters."""
        return self.test.rpartition("::")[2]

    @property
    def accuses(self) -> bool:
        """Whether it speaks against the hypervisor: nothing else can be a catch, least of all trouble of the lab."""
        return self.verdict in (Verdict.FAIL, Verdict.PANIC) and self.code.startswith("PRODUCT-")

    @property
    def reason(self) -> str:
        return f"{self.code} {self.what}: {self.message}"


@dataclass(frozen=True, slots=True)
class CaseRow:
    """A case as one vendor's host can run it."""

    case: str
    rule: str
    requirements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What became of one defect (``""``: none) on one vendor, as far as it was run."""

    defect: str
    vendor: str
    findings: tuple[Finding, ...]
    planned: int
    seconds: float
    #: Why cells were left out: caught, or the host went down too often, or was lost.
    stopped: str = ""


class State(StrEnum):
    """What is known of a defect on a vendor, the worst first."""

    SURVIVED = "survived"  #: every cell that was planned for it passed
    OTHERS = "other cases only"  #: caught, but by no case of the requirement it violates
    REASON = "other reason"  #: a case of the requirement failed, but not as this defect shows itself
    UNDECIDED = "undecided"  #: cells without an answer, and no catch
    CAUGHT = "caught"


@dataclass(frozen=True, slots=True)
class Row:
    """One defect on one vendor, judged. Kills are findings that count: the correct hypervisor passes the same cell."""

    defect: Defect
    vendor: str
    state: State
    by_own: tuple[Finding, ...]
    wrong_reason: tuple[Finding, ...]
    by_others: tuple[Finding, ...]
    unanswered: tuple[Finding, ...]
    ran: int
    planned: int
    seconds: float
    stopped: str

    @property
    def failure(self) -> Finding | None:
        """The first failure that tells of it."""
        return next(iter((*self.by_own, *self.wrong_reason, *self.by_others)), None)


def is_catch(defect: Defect, finding: Finding) -> bool:
    """A product failure of a case of the requirement that looks like this defect; the clean run is judged later."""
    return finding.accuses and defect.requirement in finding.requirements and defect.shows(finding.reason)


@dataclass(slots=True)
class Matrix:
    """Everything that one measurement found."""

    defects: tuple[Defect, ...]
    vendors: tuple[str, ...]
    full: bool
    #: Pairs of requirement and vendor that no defect of the whole catalogue violates.
    missing: tuple[tuple[str, str], ...] = ()
    #: vendor -> every case that its host can run.
    cases: dict[str, list[CaseRow]] = field(default_factory=dict)
    results: dict[tuple[str, str], TaskResult] = field(default_factory=dict)
    #: (vendor, nodeid) -> the same cell on the correct hypervisor.
    clean: dict[tuple[str, str], Finding] = field(default_factory=dict)
    hang_seconds: float = 30.0
    facts: dict[str, Any] = field(default_factory=dict)

    def counts(self, vendor: str, finding: Finding) -> bool:
        """Whether a failing cell is a catch at all: the correct hypervisor must pass it, and not barely in time.

        Where the correct hypervisor fails as it was predicted (XFAIL), a failure of another kind is a catch as well:
        with the predicted one the cell would not have accused the hypervisor.
        """
        known = self.clean.get((vendor, finding.nodeid))
        if known is None or known.verdict not in (Verdict.PASS, Verdict.XFAIL):
            return False
        return finding.code != GuestHang.code or known.seconds <= HANG_SHARE * self.hang_seconds

    def row(self, defect: Defect, vendor: str) -> Row:
        """Judge one defect on one vendor."""
        result = self.results.get((defect.id, vendor), TaskResult(defect.id, vendor, (), 0, 0.0, "not run"))
        kills = [finding for finding in result.findings if finding.accuses and self.counts(vendor, finding)]
        own = [finding for finding in kills if defect.requirement in finding.requirements]
        right = tuple(finding for finding in own if defect.shows(finding.reason))
        wrong = tuple(finding for finding in own if finding not in right)
        others = tuple(finding for finding in kills if finding not in own)
        unanswered = tuple(finding for finding in result.findings if finding.verdict.is_unanswered)
        whole = result.planned > 0 and len(result.findings) == result.planned and not unanswered
        state = (
            State.CAUGHT if right
            else State.REASON if wrong
            else State.OTHERS if others
            else State.SURVIVED if whole
            else State.UNDECIDED
        )  # fmt: skip
        return Row(
            defect, vendor, state, right, wrong, others, unanswered, len(result.findings), result.planned,
            result.seconds, result.stopped,
        )  # fmt: skip

    def rows(self) -> list[Row]:
        """All defects on all their vendors, survivors first, caught ones in the order of the catalogue."""
        order = list(State)
        found = [
            self.row(defect, vendor) for defect in self.defects for vendor in defect.vendors if vendor in self.vendors
        ]
        return sorted(found, key=lambda row: order.index(row.state))

    def totals(self) -> Counter[State]:
        return Counter(row.state for row in self.rows())

    def uncaught_requirements(self) -> list[tuple[str, str]]:
        """(requirement, vendor) with defects of which at least one is not caught by a case of that requirement."""
        open_ = {(row.defect.requirement, row.vendor) for row in self.rows() if row.state is not State.CAUGHT}
        return [(name, vendor) for name in REQUIREMENTS for vendor in APPLIES[name] if (name, vendor) in open_]

    def dirty(self) -> list[tuple[str, Finding]]:
        """Cells that accuse the correct hypervisor, or that it did not answer; predicted failures do not count."""
        return [
            (vendor, finding)
            for (vendor, _), finding in self.clean.items()
            if finding.verdict not in (Verdict.PASS, Verdict.SKIP, Verdict.XFAIL)
        ]

    def killers(self) -> dict[tuple[str, str], list[str]]:
        """(case, vendor) -> defects that made it fail, whatever requirement they violate."""
        found: dict[tuple[str, str], list[str]] = {
            (case.case, vendor): [] for vendor in self.vendors for case in self.cases.get(vendor, ())
        }
        for row in self.rows():
            for case in dict.fromkeys(kill.case for kill in (*row.by_own, *row.wrong_reason, *row.by_others)):
                found.setdefault((case, row.vendor), []).append(row.defect.id)
        return found

    def unproven(self) -> list[tuple[str, str]]:
        """(case, vendor) that no defect made fail, although the case ran: it has not shown that it can."""
        ran = {
            (finding.case, vendor)
            for (_, vendor), result in self.results.items()
            for finding in result.findings
            if finding.verdict is not Verdict.SKIP
        }
        return sorted(key for key, defects in self.killers().items() if not defects and key in ran)

    def exit_code(self) -> int:
        """0 all is caught, 1 something is not (or the correct hypervisor fails), 10 something has no answer."""
        totals = self.totals()
        accused = any(finding.verdict.is_product_failure for _, finding in self.dirty())
        if totals[State.SURVIVED] or totals[State.OTHERS] or totals[State.REASON] or self.missing or accused:
            return 1
        return 10 if totals[State.UNDECIDED] or self.dirty() else 0

    def as_dict(self) -> dict[str, Any]:
        """The content of ``sensitivity.json``."""
        return {
            "schema": SCHEMA,
            "full": self.full,
            "vendors": list(self.vendors),
            **self.facts,
            "exit_code": self.exit_code(),
            "totals": {state.value: self.totals()[state] for state in State},
            "requirements_without_defect": [list(pair) for pair in self.missing],
            "requirements_not_caught": [list(pair) for pair in self.uncaught_requirements()],
            "cases_nothing_made_fail": [list(pair) for pair in self.unproven()],
            "clean_failures": [{"vendor": vendor, **_finding(finding)} for vendor, finding in self.dirty()],
            "clean_cells": Counter(f"{vendor} {cell.verdict}" for (vendor, _), cell in self.clean.items()),
            "defects": [_row(row, self.results.get((row.defect.id, row.vendor))) for row in self.rows()],
            "cases": {vendor: [asdict(case) for case in cases] for vendor, cases in self.cases.items()},
        }


def _finding(finding: Finding) -> dict[str, Any]:
    return {**asdict(finding), "verdict": finding.verdict.value, "requirements": list(finding.requirements)}


def _row(row: Row, result: TaskResult | None) -> dict[str, Any]:
    return {
        **asdict(row.defect),
        "vendor": row.vendor,
        "state": row.state.value,
        "caught_by": [_finding(finding) for finding in row.by_own],
        "other_reason": [_finding(finding) for finding in row.wrong_reason],
        "caught_by_other_requirements": [_finding(finding) for finding in row.by_others],
        "unanswered": [_finding(finding) for finding in row.unanswered],
        "cells": {"planned": row.planned, "ran": row.ran},
        "stopped": row.stopped,
        "seconds": round(row.seconds, 2),
        "verdicts": _verdicts(result.findings if result is not None else ()),
    }


def _verdicts(findings: Sequence[Finding]) -> Mapping[str, Mapping[str, int]]:
    """Case -> how many of its cells ended as what."""
    found: dict[str, Counter[str]] = {}
    for finding in findings:
        found.setdefault(finding.case, Counter())[finding.verdict.value] += 1
    return found


def case_rows(plans: Iterable[Any]) -> list[CaseRow]:
    """One row per case of a plan, with the requirements of all its functions together."""
    rows: dict[str, CaseRow] = {}
    for plan in plans:
        known = rows.get(plan.case)
        both = tuple(dict.fromkeys((*(known.requirements if known else ()), *plan.requirements)))
        rows[plan.case] = CaseRow(plan.case, known.rule if known else plan.rule, both)
    return [rows[name] for name in sorted(rows)]
