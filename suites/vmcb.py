"""Clean bits of the VMCB and what belongs to them (APM volume 2, 15.15)."""

from __future__ import annotations

from collections.abc import Callable

from harness.errors import ProbeMismatch
from harness.expect import expect_equal, expect_that
from harness.guest import Program
from harness.hosts import Observation
from harness.subjects import RunningGuest, Subject

AMD = ("amd",)
#: What shows whether a processor runs from an old copy of a field.
STALE = ("bhyvectl", "vmcb-cache")
REF = "APM2 15.15"
TUNABLE = "hw.vmm.svm.vmcb_clean"

#: Clean bits by the name of their group.
INTERCEPTS, IOPM, ASID, TPR, NP, CR, DR, DT, SEG, CR2, LBR, AVIC = range(12)
#: Every group that the hypervisor keeps track of.
SUPPORTED = 0x3FF

Change = Callable[[RunningGuest], None]


def observe_change(subject: Subject, change: Change) -> Observation:
    """The entries of a waiting guest while the host changes something of it, pinned so that nothing else counts."""
    program = Program("changed from outside")
    program.sync(1)
    program.sync(2)
    with subject.start(program, pin=0) as guest:
        guest.wait_phase(1)
        with subject.host.observe() as seen:
            change(guest)
            guest.go()
            guest.wait_phase(2)
        guest.go()
        guest.finish()
    return seen


def expect_marked_once(seen: Observation, bit: int) -> None:
    """One entry had the group's clean bit clear, the others had it set."""
    expect_equal(f"entries without clean bit {bit}", seen.without(bit), 1, ref=REF, error=ProbeMismatch)
    others = seen.entries - 1
    expect_that(f"entries with clean bit {bit}", others > 0, "some", str(others), ref=REF, error=ProbeMismatch)


def expect_subset(seen: Observation, allowed: int) -> None:
    """No entry used a clean bit outside ``allowed``."""
    expect_that("entries seen", seen.entries > 0, "some", str(seen.entries), error=ProbeMismatch)
    outside = sorted(bits for bits in seen.clean if bits & ~allowed)
    expect_equal(f"clean bits outside {allowed:#x}", outside, [], ref=REF, error=ProbeMismatch)
