"""What may take a host down (HAZ): run with --hazards only, each written into the journal before it begins."""

from __future__ import annotations

from harness.cases import case
from harness.errors import GuestHang
from harness.expect import expect_that
from harness.guest import Program, tables
from harness.subjects import RunningGuest, Subject

#: In a gate of the IDT: which stack of the TSS the handler gets (SDM volume 3, 6.14.4).
GATE_SIZE, GATE_IST = 16, 4
#: FreeBSD's name of the statistic that counts interrupts of the host that came through.
INTERRUPTS = "vm exits due to external interrupt"
LOOKS = 20


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
        # What came through before the guest was there does not count.
        early, late = (interrupts_after(guest, looks) for looks in (LOOKS, LOOKS))
        through = "interrupts of the host that came through"
        expect_that(through, late > early, f"more than {early}", str(late), error=GuestHang)


def interrupts_after(guest: RunningGuest, looks: int) -> int:
    """The statistic, when it was looked at so often; the host's timer interrupts each CPU between any two looks."""
    return [guest.stats()[INTERRUPTS] for _ in range(looks)][-1]
