"""Guests that bhyve's debug stub (-G) looks at: what a debugger does must not show in them (TRP)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harness.cases import axis, case
from harness.expect import expect_equal, expect_exceptions, expect_fault, expect_register, expect_that, expect_trap
from harness.guest import Program
from harness.guest.registers import DR6_INACTIVE, RFLAGS_TF
from harness.subjects import Debugger, RunningGuest, Subject
from suites.guestlib import expect_debug_registers, expect_steps
from suites.vocabulary import DISTINCT

#: How often an INT3 is met, so that its exits stand out from those of NMIs.
ROUNDS = 100
#: FreeBSD's names of the statistics that count what a stub needs.
INTERCEPTED, STEPPED = "number of vm exits due to exceptions", "number of monitor trap exits"
#: What an earlier event left in DR6.
STALE = 0x5
#: The local APIC's timer: so many counts are over long before a debugger has asked for a step.
TIMER_COUNT = 20_000


@contextmanager
def stopped_at(guest: RunningGuest, place: int) -> Iterator[Debugger]:
    """A debugger whose breakpoint the guest ran into behind its phase 1; the breakpoint is out again."""
    guest.wait_phase(1)
    with guest.debugger() as debugger:
        debugger.set_breakpoint(place)
        debugger.resume()
        guest.go()
        expect_register("rip where the debugger got it", debugger.wait_stop(), place)
        debugger.clear_breakpoint(place)
        yield debugger


@case(
    "TRP-03",
    rule="With a debugger attached and the guest running, the guest's debug registers and its own traps are as without",
    requirement=("S1.1", "S1.3"),
    priority=2,
    needs=("debug-stub",),
)
@axis("kind", ("registers", "watch", "breakpoint", "step"))
def test_an_attached_debugger_does_not_show(subject: Subject, kind: str) -> None:
    program = Program(f"debugged: {kind}")
    place = program.watched(64)
    watched = program.watched()
    program.handler("disarm")
    program.execute("copy_nops", place)
    for n, value in enumerate(DISTINCT):
        program.set_dr(n, value)
    program.set_dr(6, DR6_INACTIVE | STALE)
    program.sync(1)
    before = program.snapshot()
    if kind == "watch":
        program.arm(dr=2, address=watched, type="write", length=8)
    elif kind == "breakpoint":
        program.arm_snippet(dr=2, snippet="nop")
    event = program.execute({"watch": "store_mov_8", "step": "step_nops"}.get(kind, "nop"), watched)
    program.sync(2)
    with subject.start(program, debug_stub=True) as guest:
        guest.wait_phase(1)
        with guest.debugger() as debugger:
            # A breakpoint that nothing comes to: the stub intercepts #BP from here on.
            debugger.set_breakpoint(place)
            debugger.resume()
            guest.go()
            guest.wait_phase(2)
            expect_that("the guest was never stopped", debugger.running(), "running", "stopped")
        guest.go()
        result = guest.finish()
    expect_debug_registers(result.snapshot(before), DISTINCT, dr6=DR6_INACTIVE | STALE)
    found = result.exceptions_of(event)
    if kind == "registers":
        expect_exceptions("an instruction without a cause", found)
    elif kind == "step":
        expect_steps(found, 4)
    else:
        expect_exceptions(kind, found, "#DB")
        {"watch": expect_trap, "breakpoint": expect_fault}[kind](found[0], dr=2)


@case(
    "TRP-03",
    rule="The guest's own INT3 reaches the guest and the debugger's the debugger, and neither changes the guest's DR6",
    requirement=("S1.1", "S1.3"),
    priority=2,
    needs=("debug-stub",),
)
@axis("cpl", (0, 3), prefix="cpl")
def test_each_int3_goes_to_its_owner(subject: Subject, cpl: int) -> None:
    program = Program("two owners of INT3")
    place = program.watched(64)
    program.execute("copy_nops", place)
    program.set_dr(6, DR6_INACTIVE | STALE)
    program.sync(1)
    own = program.execute("int3", user=cpl == 3)
    stubs = program.execute("call", place, user=cpl == 3)
    after = program.snapshot()
    program.sync(2)
    with subject.start(program, debug_stub=True) as guest:
        # It comes behind the guest's own INT3.
        with stopped_at(guest, place + 2) as debugger:
            expect_register("dr6 at the breakpoint", guest.registers("dr6")["dr6"], DR6_INACTIVE | STALE, mask=0xF00F)
            debugger.resume()
            guest.wait_phase(2)
        guest.go()
        result = guest.finish()
    found = result.exceptions_of(own)
    expect_exceptions("the guest's own INT3", found, "#BP", ref="SDM3 17.3.2")
    expect_register("rip", found[0].rip, found[0].next, ref="SDM3 17.3.2")
    expect_register("cpl", found[0].cs, cpl, mask=3)
    expect_exceptions("the debugger's INT3", result.exceptions_of(stubs))
    expect_register("dr6 afterwards", result.snapshot(after).dr6, DR6_INACTIVE | STALE, mask=0xF00F)


@case(
    "TRP-04",
    rule="Images of RFLAGS that a stepped guest takes by PUSHF, IRET and SYSCALL have no trap flag, and nothing traps",
    requirement="S1.1",
    priority=2,
    needs=("debug-stub", "debug-step"),
)
@axis("image", ("pushf", "iret", "syscall"))
def test_steps_of_a_debugger_do_not_show_in_images(subject: Subject, image: str) -> None:
    program = Program(f"stepped over {image}")
    place = program.watched(64)
    program.execute("syscall_setup", 0)
    program.execute(f"copy_{image}", place)
    program.sync(1)
    taken = program.execute("call", place, user=image == "syscall", result=True)
    with subject.start(program, debug_stub=True) as guest:
        with stopped_at(guest, place) as debugger:
            places = [debugger.step() for _ in range({"pushf": 2, "iret": 12, "syscall": 6}[image])]
            expect_that("each step went on", len(set(places)) == len(places), "as many places", str(places))
        result = guest.finish()
    expect_exceptions("stepped instructions", result.exceptions_of(taken))
    expect_register(f"rflags.tf in the image of {image}", result.value(taken), 0, mask=RFLAGS_TF)


@case(
    "TRP-04",
    rule="While a timer interrupt is due, each step of a debugger ends behind the next instruction, not in the handler",
    requirement="S1.1",
    priority=2,
    needs=("debug-stub", "debug-step"),
)
def test_steps_under_timer_load_land_on_the_next_instruction(subject: Subject) -> None:
    program = Program("stepped with a timer running")
    place = program.watched(64)
    program.execute("copy_open_nops", place)
    program.sync(1)
    program.execute("timer", TIMER_COUNT)
    stepped = program.execute("call", place)
    program.execute("timer", 0)
    with subject.start(program, debug_stub=True) as guest:
        # Behind STI and the instruction in its shadow.
        with stopped_at(guest, place + 2) as debugger:
            for n in range(3, 9):
                expect_register(f"rip of step {n - 2}", debugger.step(), place + n)
        result = guest.finish()
    expect_exceptions("stepped instructions", result.exceptions_of(stepped))


@case(
    "TRP-05",
    rule="After a debugger detached nothing of it remains: no intercept of #BP, no INT3 in memory, no further exits",
    requirement="S1.1",
    priority=2,
    needs=("debug-stub",),
)
def test_nothing_remains_after_detaching(subject: Subject) -> None:
    program = Program("left by its debugger")
    place = program.watched(64)
    program.execute("copy_nops", place)
    program.sync(1)
    with program.loop(ROUNDS):
        attached = program.execute("int3")
    program.sync(2)
    with program.loop(ROUNDS):
        left = program.execute("int3")
        called = program.execute("call", place)
    program.sync(3)
    with subject.start(program, debug_stub=True) as guest:
        guest.wait_phase(1)
        code = guest.read_memory(place, 8)
        before = guest.stats()[INTERCEPTED]
        with guest.debugger() as debugger:
            debugger.set_breakpoint(place)
            expect_that("the breakpoint is in memory", guest.read_memory(place, 8) != code, "INT3", code.hex())
            debugger.resume()
            guest.go()
            guest.wait_phase(2)
        detached = guest.stats()
        # The control: with the breakpoint in, each of them was intercepted. The host's own NMIs are counted as well.
        taken = detached[INTERCEPTED] - before
        expect_that("intercepted while attached", taken >= ROUNDS, f"one for each of {ROUNDS} INT3", str(taken))
        expect_that("bpt_exit is off", not guest.capability("bpt_exit"), "not set", "set")
        expect_equal("guest memory at the breakpoint", guest.read_memory(place, 8).hex(), code.hex())
        guest.go()
        guest.wait_phase(3)
        now = guest.stats()
        taken = now[INTERCEPTED] - detached[INTERCEPTED]
        expect_that("intercepted after detaching", taken < ROUNDS, f"fewer than the {ROUNDS} INT3", str(taken))
        expect_equal(f"{STEPPED} after detaching", now[STEPPED] - detached[STEPPED], 0)
        guest.go()
        result = guest.finish()
    expect_exceptions("INT3 while attached", result.exceptions_of(attached), *["#BP"] * ROUNDS)
    expect_exceptions("INT3 after detaching", result.exceptions_of(left), *["#BP"] * ROUNDS)
    expect_exceptions("code that had the breakpoint", result.exceptions_of(called))
