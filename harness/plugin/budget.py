"""How much of a host's cells may be skipped: a capability that went away must not make a run greener."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from harness.inventory import Host
from harness.results import Run
from harness.verdicts import Verdict

#: Options that leave cells out: what a run of a part skips says nothing about the lab.
_PARTIAL = ("case", "priority", "keyword", "markexpr", "sample")


@dataclass(frozen=True, slots=True)
class Spending:
    """Cells of a host that were skipped, of those planned; ``allowed`` is a percentage of these."""

    host: str
    skipped: int
    planned: int
    allowed: int

    @property
    def over(self) -> bool:
        return 100 * self.skipped > self.allowed * self.planned

    def as_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "planned": self.planned, "allowed_percent": self.allowed, "over": self.over}

    def __str__(self) -> str:
        share = 100 * self.skipped / self.planned
        return (
            f"skip budget of {self.host} exceeded: {self.skipped} of {self.planned} cells ({share:.1f} %) were skipped,"
            f" {self.allowed} % are allowed"
        )


#: What to do about it.
NEXT = (
    "Look at the reasons of the skips: what a host could show before and cannot now is a hole in what was tested. If it"
    " is meant to be so, raise 'skip_budget' in the inventory (or --skip-budget)."
)


def add_options(parser: pytest.Parser) -> None:
    group = parser.getgroup("vmmcheck", "bhyve conformance")
    group.addoption(
        "--skip-budget", type=int, default=None, metavar="PERCENT",
        help="a host that skips more of its cells than this ends the run with status 10 (default: 'skip_budget' of the "
        "host in the inventory, which a run of chosen cases does not ask)",
    )  # fmt: skip


def check_options(config: pytest.Config) -> None:
    """Raises :class:`pytest.UsageError` for a budget that is no percentage."""
    budget: int | None = config.option.skip_budget
    if budget is not None and not 0 <= budget <= 100:
        raise pytest.UsageError(f"--skip-budget takes a percentage, 0 to 100 (found {budget}).")


def spendings(config: pytest.Config, hosts: dict[str, Host], run: Run) -> list[Spending]:
    """What every host with a budget has spent of it."""
    given: int | None = config.option.skip_budget
    part = any(getattr(config.option, name, None) for name in _PARTIAL) or any("::" in word for word in config.args)
    planned = Counter(plan.host for plan in run.plan.values())
    skipped = Counter(cell.plan.host for cell in run.cells.values() if cell.verdict is Verdict.SKIP)
    budgets = {alias: None if part else host.skip_budget for alias, host in hosts.items()}
    if given is not None:
        budgets = dict.fromkeys(hosts, given)
    return [
        Spending(alias, skipped[alias], planned[alias], allowed)
        for alias, allowed in budgets.items()
        if allowed is not None and planned[alias]
    ]
