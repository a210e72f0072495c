"""What a cell (case variant x host) can end as, and the only ordering of it."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Verdict(StrEnum):
    """Verdict of one cell, declared worst first; the order of declaration is the severity."""

    PANIC = "PANIC"  #: host panicked or hung while the item ran (product)
    FAIL = "FAIL"  #: an assertion about the hypervisor was false (product)
    XPASS = "XPASS"  #: a failure was predicted and did not show (product or expectations)
    ERROR = "ERROR"  #: the item itself is broken (this repository)
    INFRA = "INFRA"  #: the lab did not let us find out (lab)
    NOT_RUN = "NOT_RUN"  #: planned, never started (lab or operator)
    FLAKY = "FLAKY"  #: attempts disagreed (investigate)
    XFAIL = "XFAIL"  #: failed exactly as predicted (known)
    SKIP = "SKIP"  #: not applicable here; the missing capability is named (nobody)
    PASS = "PASS"

    @property
    def severity(self) -> int:
        """0 for the worst verdict, rising towards PASS."""
        return _ORDER[self]

    @property
    def is_product_failure(self) -> bool:
        """Whether the verdict speaks against the product (exit code 1)."""
        return self in (Verdict.PANIC, Verdict.FAIL, Verdict.XPASS)

    @property
    def is_unanswered(self) -> bool:
        """Whether the cell gives no answer about the product (exit code 10)."""
        return self in (Verdict.ERROR, Verdict.INFRA, Verdict.NOT_RUN)


_ORDER = {verdict: index for index, verdict in enumerate(Verdict)}


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Fold verdicts into the worst one; SKIP counts only if nothing else answered, nothing gives NOT_RUN."""
    found = set(verdicts)
    if not found:
        return Verdict.NOT_RUN
    answered = found - {Verdict.SKIP}
    return min(answered or found, key=lambda verdict: verdict.severity)
