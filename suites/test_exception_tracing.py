"""Guests whose every exception is intercepted and handed back: hw.vmm.trace_guest_exceptions (TRP)."""

from __future__ import annotations

from harness.cases import axis, case
from harness.expect import expect_dr6, expect_exceptions, expect_fault, expect_register, expect_that, expect_trap
from harness.guest import Handle, Program, Result
from harness.guest.registers import DR6_BD, DR6_CAUSES, DR6_INACTIVE, DR7_GD, DR7_RESET
from harness.subjects import Subject
from suites.guestlib import expect_steps

TUNABLE = "hw.vmm.trace_guest_exceptions"
#: Seconds for a guest: a traced INT3 of an AMD guest may never come back (G-09), and limits are longer on slow hosts.
SECONDS = 10
#: FreeBSD's name of the statistic that counts what the hypervisor intercepted.
INTERCEPTED = "number of vm exits due to exceptions"
#: What an earlier event left in DR6.
STALE = 0x5


def run_traced(subject: Subject, program: Program, under_test: Handle) -> Result:
    """The program, with tracing on; as many exceptions as ``under_test`` met were really intercepted meanwhile.

    The program announces phase 1 before and phase 2 behind what it tests.
    """
    with subject.host.tunable(TUNABLE, 1), subject.start(program, seconds=SECONDS) as guest:
        guest.wait_phase(1)
        before = guest.stats()[INTERCEPTED]
        guest.go()
        guest.wait_phase(2)
        intercepted = guest.stats()[INTERCEPTED] - before
        guest.go()
        result = guest.finish()
    met = len(result.exceptions_of(under_test))
    expect_that("intercepted exceptions", intercepted >= max(met, 1), f"at least {max(met, 1)}", str(intercepted))
    return result


@case(
    "TRP-01",
    rule="With exceptions traced, a guest's #DB of each kind has the right RIP, DR6 and RFLAGS",
    requirement="S1.1",
    refs=("SDM3 27.2.1",),
    needs=("tunables", "trace-exceptions"),
)
@axis("kind", ("watch", "breakpoint", "step"))
def test_a_traced_debug_exception(subject: Subject, kind: str) -> None:
    program = Program(f"traced {kind}")
    watched = program.watched()
    # A breakpoint whose report lacks its B bit would hit for ever: the first report takes it away.
    program.handler("disarm")
    program.sync(1)
    if kind == "watch":
        program.arm(dr=2, address=watched, type="write", length=8)
    elif kind == "breakpoint":
        program.arm_snippet(dr=2, snippet="nop")
    snippet = {"watch": "store_mov_8", "breakpoint": "nop", "step": "step_nops"}[kind]
    event = program.execute(snippet, watched)
    # The control: with the cause gone the same instruction is silent.
    program.disarm()
    control = program.execute("nop")
    program.sync(2)
    result = run_traced(subject, program, event)
    found = result.exceptions_of(event)
    if kind == "step":
        expect_steps(found, 4)
    else:
        expect_exceptions(kind, found, "#DB", ref="SDM3 27.2.1")
        {"watch": expect_trap, "breakpoint": expect_fault}[kind](found[0], dr=2)
    expect_exceptions("an instruction without a cause", result.exceptions_of(control))


@case(
    "TRP-01",
    rule="With exceptions traced, general detect reports BD, and GD is clear in the handler",
    requirement=("S1.2", "S1.6"),
    refs=("SDM3 27.2.1", "SDM3 17.2.4"),
    needs=("tunables", "trace-exceptions"),
)
def test_a_traced_general_detect(subject: Subject) -> None:
    program = Program("traced general detect")
    program.handler("disarm")
    program.sync(1)
    program.set_dr(7, DR7_RESET | DR7_GD)
    access = program.execute("read_dr0")
    control = program.execute("read_dr0")
    program.sync(2)
    result = run_traced(subject, program, access)
    found = result.exceptions_of(access)
    expect_exceptions("read of dr0 under GD", found, "#DB", ref="SDM3 17.3.1.3")
    expect_dr6(found[0], DR6_BD, ref="SDM3 17.3.1.3")
    expect_register("rip", found[0].rip, found[0].site, ref="SDM3 17.3.1.3")
    expect_register("dr7.gd in the handler", found[0].dr7, 0, mask=DR7_GD, ref="SDM3 17.2.4")
    expect_exceptions("the same read without GD", result.exceptions_of(control))


@case(
    "TRP-02",
    rule="With exceptions traced, INT3 reaches the guest at CPL 0 and 3, RIP behind it, DR6 left alone",
    requirement=("S1.3", "S1.6"),
    refs=("SDM3 17.3.2", "APM2 15.12?"),
    needs=("tunables", "trace-exceptions"),
)
@axis("cpl", (0, 3), prefix="cpl")
def test_a_traced_int3(subject: Subject, cpl: int) -> None:
    program = Program("traced INT3")
    program.sync(1)
    program.set_dr(6, DR6_INACTIVE | STALE)
    trap = program.execute("int3", user=cpl == 3)
    after = program.snapshot()
    program.sync(2)
    result = run_traced(subject, program, trap)
    found = result.exceptions_of(trap)
    expect_exceptions("INT3", found, "#BP", ref="SDM3 17.3.2")
    expect_register("rip", found[0].rip, found[0].next, ref="SDM3 17.3.2")
    expect_register("cpl", found[0].cs, cpl, mask=3)
    expect_register("dr6 afterwards", result.snapshot(after).dr6, STALE, mask=DR6_CAUSES, ref="SDM3 17.3.2")
