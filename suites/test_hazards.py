"""What may take a host down (HAZ): run with --hazards only, each written into the journal before it begins."""

from __future__ import annotations

from harness.cases import axis, case, variant
from harness.errors import GuestHang
from harness.expect import expect_that
from harness.guest import Program, tables
from harness.subjects import RunningGuest, Subject

#: In a gate of the IDT: which stack of the TSS the handler gets (SDM volume 3, 6.14.4).
GATE_SIZE, GATE_IST = 16, 4
#: Above the low half of the second argument of a 32-bit snippet: the handler of #AC runs at CPL 3.
AC_AT_CPL3 = tables.constants()["TASK_GATE_USER"] << 32
#: FreeBSD's name of the statistic that counts how often a vCPU left its guest, for whatever reason.
EXITS = "total number of vm exits"
#: Seconds of the host in which its timer interrupts each CPU many times.
LONG_ENOUGH = 1


def expect_alive(guest: RunningGuest, subject: Subject) -> None:
    """The host has its CPU back again and again. What came before the guest was at its loop does not count."""
    subject.host.wait(LONG_ENOUGH)
    early = guest.stats()[EXITS]
    subject.host.wait(LONG_ENOUGH)
    late = guest.stats()[EXITS]
    expect_that("times that the host had its CPU", late > early, f"more than {early}", str(late), error=GuestHang)


@case(
    "HAZ-01",
    rule="While each delivery of a guest's #DB raises the next #DB, the host answers and the VM can be ended",
    requirement="S1.1",
    refs=("SDM3 25.2?", "APM2 15.12?"),
    priority=2,
    needs=("bhyve",),
    hazard=True,
)
def test_endless_debug_exceptions_leave_the_host_alive(subject: Subject) -> None:
    known = tables.constants()
    program = Program("#DB for ever")
    # The handler always gets the same stack (that of #DF), and the first thing pushed there is watched.
    top = known["STACKS"] + known["CPU_STACKS"]
    program.poke(known["IDT_SECOND"] + 1 * GATE_SIZE + GATE_IST, 1, 1)
    program.use_tables("second_idt")
    program.sync(1)
    program.arm(dr=0, address=top - 8, type="write", length=8)
    program.store(top - 8)
    program.sync(2)
    # Not the CPU that the host's own work is on.
    with subject.start(program, pin=1) as guest:
        guest.wait_phase(1)
        guest.go()
        expect_alive(guest, subject)


@case(
    "HAZ-01",
    rule="While each delivery of a guest's #AC raises the next #AC, the host answers and the VM can be ended",
    requirement="S1.1",
    refs=("SDM3 25.2?", "APM2 15.12?"),
    priority=2,
    needs=("bhyve",),
    hazard=True,
)
@axis("intercepted", (variant(False, "endless-ac", id="delivered"), variant(True, "traced-ac", id="intercepted")))
def test_endless_alignment_checks_leave_the_host_alive(subject: Subject, intercepted: bool) -> None:
    """The handler runs at CPL 3 on the stack that is there, which is not aligned: pushing its frame is the next #AC.

    With all exceptions intercepted the processor does not deliver them by itself, so that it cannot be caught.
    """
    program = Program("#AC for ever")
    program.sync(1)
    program.execute("endless_ac", 0, AC_AT_CPL3, mode="prot32")
    program.sync(2)
    with (
        subject.host.tunable("hw.vmm.trace_guest_exceptions", int(intercepted)),
        subject.start(program, pin=1) as guest,
    ):
        guest.wait_phase(1)
        guest.go()
        expect_alive(guest, subject)
