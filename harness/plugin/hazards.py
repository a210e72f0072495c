"""Hazardous cases: asked for in so many words, and never begun before the journal has them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from harness.errors import HostLost, VmmcheckError
from harness.hazards import Hazard, HazardJournal
from harness.inventory import BareHost, EmulatedHost, Host
from harness.lab import HostSession
from harness.results import CellPlan


def add_options(parser: pytest.Parser) -> None:
    parser.getgroup("vmmcheck").addoption(
        "--hazards", action="store_true",
        help="also run cases that may take a host down, on emulated hosts and on those with 'hazards = true'",
    )  # fmt: skip


def why_not(config: pytest.Config, alias: str, host: Host) -> str:
    """Why a hazardous case is not run on a host, or an empty string."""
    if not config.option.hazards:
        return "may take the host down: run it with --hazards"
    if not isinstance(host, (BareHost, EmulatedHost)) and not host.hazards:
        return f"may take the host down: the inventory does not say 'hazards = true' of '{alias}'"
    return ""


class Guard:
    """The journal on the side of items: around each hazardous one, and when a host is opened."""

    def __init__(self, run_dir: Path) -> None:
        self._journal = HazardJournal(run_dir.parent)
        self._run = run_dir.name
        self._begun: dict[str, Hazard] = {}

    def begin(self, plan: CellPlan, session: HostSession) -> None:
        """Write down what is about to be run: here first, then on the host."""
        boot = str(session.facts.get("boot_id", ""))
        hazard = Hazard(plan.host, self._run, plan.case, plan.test, boot, time.time())
        self._journal.begin(hazard)
        self._begun[plan.host] = hazard
        session.mark(str(hazard))

    def settle(self, plan: CellPlan, session: HostSession | None, verdict: str, *, lost: bool) -> None:
        """After the item. A host is clean when all went well, or when it has booted since; otherwise it stays tainted:
        the next run tells of it."""
        begun = self._begun.get(plan.host)
        if begun is None or lost or session is None:
            return
        if verdict != "PASS" and session.facts.get("boot_id", "") == begun.boot:
            return
        try:
            session.mark("")
        except VmmcheckError:
            return
        del self._begun[plan.host]
        self._journal.settle(plan.host, verdict, self._run)

    def opened(self, alias: str, session: HostSession) -> dict[str, Any]:
        """A host that a hazard of an earlier run left behind was opened, and so looked at: facts for the report."""
        left = self._journal.tainted().get(alias)
        if left is None:
            return {}
        session.mark("")
        self._journal.settle(alias, f"found whole by {self._run}", self._run)
        return {"left_by_hazard": str(left)}

    def unopened(self, alias: str, error: VmmcheckError) -> VmmcheckError:
        """Why a host could not be opened, with the hazard that was its last."""
        left = self._journal.tainted().get(alias)
        if left is None:
            return error
        return HostLost(f"The last that was run on '{alias}' is the hazard {left}; since then: {error.message}")
