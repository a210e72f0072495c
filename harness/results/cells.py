"""What one cell is, and how what happened (raw) becomes what is reported (effective)."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, Culprit, HostPanic, NotStarted, ProductFailure, VmmcheckError
from harness.redaction import clean
from harness.verdicts import Verdict

#: Where an assertion that fails is a defect of this repository or of what it uses, never an answer.
_HARNESS = Path(__file__).resolve().parents[1]
_PYTHON = Path(os.__file__).resolve().parent
_LIBRARIES = {"site-packages", "dist-packages"}


@dataclass(frozen=True, slots=True)
class CellPlan:
    """A planned cell: one variant of one case on one host. ``expected`` are (id, code, reason) that apply."""

    nodeid: str
    test: str
    case: str
    rule: str
    host: str
    platform: str
    vendor: str
    kind: str
    requirements: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    priority: int = 1
    expected: tuple[tuple[str, str, str], ...] = ()

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CellPlan:
        data = dict(data)
        for name in ("requirements", "references"):
            data[name] = tuple(data[name])
        data["expected"] = tuple(tuple(entry) for entry in data["expected"])
        return cls(**data)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened in one phase of an item, or to the whole item."""

    verdict: Verdict
    code: str = ""
    message: str = ""
    help: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell with its verdict. ``raw`` is what happened, ``verdict`` what it means given the expectations."""

    plan: CellPlan
    verdict: Verdict
    raw: Verdict
    code: str = ""
    message: str = ""
    help: str = ""
    expectation: str = ""
    started: float = 0.0
    duration: float = 0.0
    evidence: str = ""
    #: What facts of the host said about each failure that is declared for the cell under conditions.
    predictions: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, plan: CellPlan, data: dict[str, Any]) -> Cell:
        """The cell of ``plan`` from what :meth:`as_dict` gave in another process, with what was expected there."""
        plan = replace(plan, expected=tuple((id, code, reason) for id, code, reason in data["expected"]))
        return cls(
            plan, Verdict(data["verdict"]), Verdict(data["raw"]), data["code"], data["message"], data["help"],
            data["expectation"], data["started"], data["duration"], data["evidence"],
            tuple(data.get("predictions", ())),
        )  # fmt: skip

    @classmethod
    def from_entry(cls, data: dict[str, Any]) -> Cell:
        """Cell and plan from an entry of ``results.json``; raises ``KeyError``, ``TypeError``, ``ValueError``."""
        names = [field.name for field in fields(CellPlan)]
        return cls.from_dict(CellPlan.from_dict({name: data[name] for name in names}), data)

    def as_dict(self) -> dict[str, Any]:
        """The entry of ``results.json``."""
        plan = self.plan
        return {
            "case": plan.case,
            "test": plan.test,
            "nodeid": plan.nodeid,
            "host": plan.host,
            "platform": plan.platform,
            "vendor": plan.vendor,
            "kind": plan.kind,
            "requirements": list(plan.requirements),
            "rule": plan.rule,
            "references": list(plan.references),
            "priority": plan.priority,
            "expected": [list(entry) for entry in plan.expected],
            "verdict": self.verdict.value,
            "raw": self.raw.value,
            "code": self.code,
            "message": self.message,
            "help": self.help,
            "expectation": self.expectation,
            "started": round(self.started, 3),
            "duration": round(self.duration, 4),
            "evidence": self.evidence,
            **({"predictions": list(self.predictions)} if self.predictions else {}),
        }


def _is_ours(error: BaseException) -> bool:
    """Whether an assertion was made by the harness or a library below it: it says nothing about the product."""
    frame = error.__traceback__
    if frame is None:
        return False
    while frame.tb_next is not None:
        frame = frame.tb_next
    file = Path(frame.tb_frame.f_code.co_filename)
    return file.is_relative_to(_HARNESS) or not _LIBRARIES.isdisjoint(file.parts) or file.is_relative_to(_PYTHON)


def outcome_of(error: BaseException) -> Outcome:
    """The raw outcome of an exception that ended an item."""
    if isinstance(error, HostPanic):
        verdict = Verdict.PANIC
    elif isinstance(error, ProductFailure):
        verdict = Verdict.FAIL
    elif isinstance(error, NotStarted):
        verdict = Verdict.NOT_RUN
    elif isinstance(error, VmmcheckError):
        verdict = Verdict.INFRA if error.culprit is Culprit.LAB or isinstance(error, ConfigError) else Verdict.ERROR
    elif isinstance(error, AssertionError) and not _is_ours(error):
        return Outcome(Verdict.FAIL, "PRODUCT-ASSERTION", str(error) or "An assertion of the case is false.")
    else:
        return Outcome(
            Verdict.ERROR,
            "TEST-DEFECT",
            f"{type(error).__name__}: {error}",
            "Fix the case, or the harness below it: an exception that is no verdict escaped.",
        )
    return Outcome(verdict, error.code, error.message, error.help)


def _expected(plan: CellPlan, outcome: Outcome) -> tuple[Verdict, str]:
    """The verdict of one phase, and the expectation that a failure met: it must carry the predicted code."""
    if outcome.verdict is Verdict.FAIL:
        for id, code, reason in plan.expected:
            if code == outcome.code:
                return Verdict.XFAIL, f"{id}: {reason}"
    return outcome.verdict, ""


def judge(plan: CellPlan, outcomes: list[Outcome], *, started: float, duration: float, evidence: str) -> Cell:
    """Fold the phases of an item into its cell and apply the declared expectations.

    The worst phase counts: a clean test whose host is found dead afterwards has not passed. Each phase is held
    against the expectations by itself, so that a predicted failure does not hide what came after it.
    """
    judged = [(*_expected(plan, outcome), outcome) for outcome in outcomes or [Outcome(Verdict.NOT_RUN)]]
    verdict, expectation, raw = min(judged, key=lambda entry: entry[0].severity)
    if plan.expected and raw.verdict is Verdict.PASS:
        verdict = Verdict.XPASS
        expectation = "; ".join(f"{id}: {reason}" for id, _, reason in plan.expected)
        raw = Outcome(
            Verdict.PASS,
            "PRODUCT-UNEXPECTED-PASS",
            f"A failure was predicted and did not show ({expectation}).",
            "If it is fixed, remove the expectation from the case; if not, the case does not see it here.",
        )
    # As exact as results.json has it, so that a page made from there later is the same.
    return Cell(
        plan, verdict, raw.verdict, raw.code, clean(raw.message), clean(raw.help),
        expectation, round(started, 3), round(duration, 4), evidence,
    )  # fmt: skip
