"""In which order baseline and candidate are run: alternating where changing the module is cheap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.inventory import FreebsdHost, Host

#: Modules that are there already: nothing has to be built to load them once more.
_READY = ("stock", "ko")


@dataclass(frozen=True, slots=True)
class Step:
    """One run: of ``baseline`` or ``candidate``, of the suite module ``group`` or, when that is empty, of all."""

    side: str
    group: str = ""


def may_alternate(hosts: Mapping[str, Host], modules: Sequence[str], *, asked: bool | None) -> tuple[bool, str]:
    """Whether to alternate module by module of the suites, and why; ``asked`` is what the user wants, if anything."""
    if asked is not None:
        return asked, "as asked for"
    booted = [alias for alias, host in hosts.items() if not isinstance(host, FreebsdHost)]
    if booted:
        return False, f"'{booted[0]}' is booted for every run"
    built = [module for module in modules if module.partition(":")[0] not in _READY]
    if built:
        return False, f"'{built[0]}' is built for every run"
    return True, "loading a module takes a host seconds"


def order_of(groups: Sequence[str], *, alternate: bool) -> list[Step]:
    """All runs in their order: who goes first changes with each group, so that a drift of a host favours nobody."""
    if not alternate or not groups:
        return [Step("baseline"), Step("candidate")]
    steps = []
    for number, group in enumerate(groups):
        sides = ("baseline", "candidate") if number % 2 == 0 else ("candidate", "baseline")
        steps += [Step(side, group) for side in sides]
    return steps


def describe(steps: Sequence[Step], *, alternate: bool, why: str) -> str:
    """One sentence for whoever reads the comparison."""
    if alternate and len(steps) > 2:
        return f"Both modules in turn for each of {len(steps) // 2} suite modules, the first one alternating ({why})."
    if alternate:
        return "One run with each module: all cells are of one suite module."
    return f"One whole run with each module, the {steps[0].side} first ({why})."
