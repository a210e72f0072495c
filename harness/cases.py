"""Metadata of conformance cases: what a test function is evidence for, and where it can be observed.

A suite module declares; the plugin reads. Vendor differences and predicted failures are data here, never an
``if`` in a test body.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from random import Random
from typing import Any, TypeVar

import pytest

from harness.conditions import Answer, Conditions

F = TypeVar("F", bound=Callable[..., Any])

REQUIREMENTS = (
    "S1.1", "S1.2", "S1.3", "S1.4", "S1.5", "S1.6", "S1.7", "S2.1", "S3.1", "S3.2", "S3.3", "S4.1", "S4.2", "S4.3",
    "S5.1",
)  # fmt: skip


#: Kinds of hosts that run FreeBSD's own vmm.ko on some other machine: what is predicted of it holds there as well.
FREEBSD_KINDS = ("bochs", "qemu")


@dataclass(frozen=True, slots=True)
class Expected:
    """A failure that is predicted: it must show, with this code, wherever the selectors match.

    ``id`` names it (a gap ``G-..`` of the case list, or a weakness of the emulator), ``kinds`` are kinds of hosts
    in the inventory, ``vendors`` CPU vendors; empty selectors match everything. ``variant`` limits it to cells
    whose parameters contain every one of these ids, ``test`` to functions of that name (a glob). ``not_kinds`` are the
    kinds of hosts that ``kinds`` would include, but whose processor does not do what the prediction is about. All of
    that is known beforehand; ``when`` is held against the facts of the host once they are known.
    """

    id: str
    code: str
    reason: str
    kinds: tuple[str, ...] = ()
    vendors: tuple[str, ...] = ()
    variant: tuple[str, ...] = ()
    test: str = ""
    not_kinds: tuple[str, ...] = ()
    when: tuple[Conditions, ...] = ()

    def holds(self, kind: str, facts: Mapping[str, Any]) -> Answer:
        """Whether the prediction holds on a host with these facts; only FreeBSD is asked for its release."""
        freebsd = kind == "freebsd" or kind in FREEBSD_KINDS
        answers = [conditions.judge(facts, freebsd=freebsd) for conditions in self.when]
        for holds in (False, None, True):
            why = [answer.why for answer in answers if answer.holds is holds and answer.why]
            if any(answer.holds is holds for answer in answers):
                return Answer(holds, "; ".join(why))
        return Answer(True, "")

    def matches(self, kind: str, vendor: str, variant: Iterable[str], test: str = "") -> bool:
        """Whether the prediction speaks of this cell; ``test`` is the name of its function."""
        return (
            (not self.kinds or kind in self.kinds or (kind in FREEBSD_KINDS and "freebsd" in self.kinds))
            and kind not in self.not_kinds
            and (not self.vendors or vendor in self.vendors)
            and set(self.variant) <= set(variant)
            and (not self.test or fnmatchcase(test, self.test))
        )


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the catalogue, as far as a machine needs it."""

    id: str
    rule: str
    requirements: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    priority: int = 1
    needs: tuple[str, ...] = ()
    vendors: tuple[str, ...] = ("intel", "amd")
    expected: tuple[Expected, ...] = field(default=())
    hazard: bool = False


@dataclass(frozen=True, slots=True)
class Stress:
    """What the fixture ``stress`` gives to a case: ``random`` is seeded by the run's ``seed`` and the name of the test
    (the same on every host), ``scale`` multiplies how much is done; 1 is a few seconds on an emulated host."""

    seed: int
    scale: int
    random: Random


def case(
    id: str,
    *,
    rule: str,
    requirement: str | tuple[str, ...] = (),
    refs: tuple[str, ...] = (),
    priority: int = 1,
    needs: tuple[str, ...] = (),
    vendors: tuple[str, ...] = ("intel", "amd"),
    expected: tuple[Expected, ...] = (),
    hazard: bool = False,
) -> Callable[[F], F]:
    """Declare a test function as (part of) case ``id``.

    ``rule`` is one sentence, ``refs`` manual sections, ``needs`` capabilities of the place where it runs (see
    :class:`harness.subjects.Platform`); a case without needs is guest-only and runs bare as well. A
    ``hazard`` may take the host down: it is run with ``--hazards`` only, and written into the journal first.
    """
    requirements = (requirement,) if isinstance(requirement, str) else requirement
    unknown = set(requirements) - set(REQUIREMENTS)
    if unknown:
        raise ValueError(f"case {id} names requirements that do not exist: {sorted(unknown)}")
    return pytest.mark.case(Case(id, rule, requirements, refs, priority, needs, vendors, expected, hazard))


def require_feature(offered: bool, name: str) -> None:
    """End the cell as SKIP, naming the CPU feature that the guest is not offered; known only when a guest has run."""
    if not offered:
        pytest.skip(f"needs the CPU feature {name}, which CPUID does not offer to the guest")


def require(offered: bool, what: str) -> None:
    """End the cell as SKIP, naming what the place lacks; for what can only be asked there."""
    if not offered:
        pytest.skip(f"needs {what}")


def needs(*capabilities: str) -> pytest.MarkDecorator:
    """A mark for one value of an axis: that variant needs more than its case does."""
    return pytest.mark.needs(*capabilities)


def axis(name: str, values: Iterable[Any], *, prefix: str = "") -> Callable[[F], F]:
    """One axis of a matrix. Ids are ``prefix`` + value, so that every cell has a name one can type."""
    made = [
        value if hasattr(value, "marks") else pytest.param(value, id=f"{prefix}{_slug(value)}") for value in values
    ]
    return pytest.mark.parametrize(name, made)


def variant(value: Any, *capabilities: str, id: str = "") -> Any:
    """A value of an axis with its own id and needs."""
    return pytest.param(value, id=id or _slug(value), marks=[needs(*capabilities)] if capabilities else [])


def _slug(value: Any) -> str:
    return str(value).lower().replace("-", "_").replace(" ", "_").replace("#", "")
