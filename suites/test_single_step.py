"""Single step by RFLAGS.TF (STP)."""

from __future__ import annotations

from harness.cases import Expected, axis, case, variant
from harness.expect import expect_equal, expect_exceptions, expect_register, expect_that
from harness.guest import Program, Record
from harness.guest.registers import DR6_BS, DR6_INACTIVE
from harness.subjects import Subject
from suites.guestlib import BUSY, expect_debug_registers
from suites.vocabulary import DISTINCT

#: Behind the last instruction under test, three more are stepped: PUSHF, AND and the POPF that clears TF.
TAIL = 3


def stepped(records: tuple[Record, ...]) -> tuple[Record, ...]:
    """The steps of the sequence itself, without the ones that end it."""
    return tuple(record for record in records if record.site < record.rip <= record.next)


def expect_steps(records: tuple[Record, ...], count: int, *, ref: str = "SDM3 17.3.1.4") -> None:
    """``count`` steps, each with BS, each further on than the one before, the last behind the sequence."""
    steps = stepped(records)
    expect_exceptions(f"{count} stepped instructions", steps, *["#DB"] * count, ref=ref)
    for record in steps:
        expect_register("dr6.bs", record.dr6, DR6_BS, mask=DR6_BS, ref=ref)
    places = [record.rip for record in steps]
    expect_that("each step is further on", places == sorted(set(places)), "rising", str(places), ref=ref)
    expect_register("rip of the last step", places[-1], steps[-1].next, ref=ref)
    expect_equal("steps of the sequence's end", len(records) - len(steps), TAIL, ref=ref)


@case(
    "STP-01",
    rule="Straight-line code: one #DB after each instruction, BS set, RIP right, count exact",
    requirement=("S1.1", "S1.3", "S1.6"),
    refs=("SDM3 17.3.1.4",),
)
@axis("exit_kind", ("none", "cpuid", "out80"))
def test_one_trap_after_each_instruction(subject: Subject, exit_kind: str) -> None:
    program = Program("step over four instructions")
    program.handler("exit_after", exit_kind=exit_kind)
    steps = program.execute("step_nops")
    after = program.execute("nop")
    result = subject.run(program)
    expect_steps(result.exceptions_of(steps), 4)
    expect_exceptions("an instruction after TF was cleared", result.exceptions_of(after))


@case(
    "STP-07",
    rule="TF together with a data watch hit: one #DB with BS and Bn both set",
    requirement=("S1.1", "S1.3"),
    refs=("SDM3 17.2.3",),
)
@axis("register", (0, 1, 2, 3), prefix="dr")
@axis("exit_kind", ("none", "cpuid"))
def test_step_and_watch_report_together(subject: Subject, register: int, exit_kind: str) -> None:
    program = Program("step over a watched store")
    watched = program.watched()
    program.arm(dr=register, address=watched, type="write", length=8)
    if exit_kind != "none":
        program.exit(exit_kind)
    steps = program.execute("step_store", watched, 0x77)
    result = subject.run(program)
    expect_steps(result.exceptions_of(steps), 2)
    first = stepped(result.exceptions_of(steps))[0]
    expect_register("dr6 of the store", first.dr6, DR6_BS | 1 << register, mask=DR6_BS | 0xF, ref="SDM3 17.2.3")


@case(
    "STP-08",
    rule="No trap is lost when host timer interrupts hit while the guest steps",
    requirement=("S1.1", "S1.3"),
    refs=("SDM3 6.9",),
)
def test_no_step_is_lost_to_host_interrupts(subject: Subject) -> None:
    passes = 300
    program = Program("a stepped loop")
    steps = program.execute("step_loop", passes)
    result = subject.run(program)
    found = result.exceptions_of(steps)
    # Each pass is a decrement and a jump; the last jump falls through to `next`.
    expect_equal("steps taken", len(found), 2 * passes + TAIL, ref="SDM3 6.9")
    for record in found:
        expect_register("dr6.bs", record.dr6, DR6_BS, mask=DR6_BS, ref="SDM3 17.3.1.4")


@case(
    "STP-09",
    rule="A host that single-steps through VM entry does not put BS into the guest's DR6, and keeps its trap flag",
    requirement=("S1.5", "S1.6"),
    priority=2,
    needs=("step-entry",),
)
@axis("kind", (variant("cpuid"), variant("out80"), variant("busy")))
def test_stepping_the_host_through_entry_leaves_the_guest_alone(subject: Subject, kind: str) -> None:
    program = Program("entered step by step")
    for n, value in enumerate(DISTINCT):
        program.set_dr(n, value)
    program.set_dr(6, DR6_INACTIVE)
    program.sync(1)
    program.exit(kind, BUSY if kind == "busy" else 20)
    after = program.snapshot()
    with subject.start(program, pin=0) as guest:
        guest.wait_phase(1)
        with subject.host.step_through_entry(0) as report:
            guest.go()
            result = guest.finish()
    expect_debug_registers(result.snapshot(after), DISTINCT, dr6=DR6_INACTIVE, dr6_mask=0xF00F)
    expect_that("the host really stepped", report["steps"] > 0, "steps", f"{report['steps']} steps")
    expect_that("entries under the trap flag", report["entries"] > 0, "entries", f"{report['entries']} entries")
    expect_equal("times the host's trap flag was lost", report["tf_lost"], 0)


@case(
    "STP-03",
    rule="Steps over instructions that exit: one #DB after each, RIP behind it",
    requirement=("S1.1",),
    refs=("SDM3 17.3.1.4",),
    expected=(
        Expected(
            "G-03",
            "PRODUCT-HIT-MISMATCH",
            "nothing queues #DB when the hypervisor completes an instruction",
            kinds=("freebsd",),
        ),
        Expected(
            "G-03",
            "PRODUCT-HIT-MISMATCH",
            "nothing queues #DB when the hypervisor completes an instruction; on SVM no field of the VMCB does",
            kinds=("emulated",),
            vendors=("amd",),
        ),
    ),
)
@axis("instruction", ("cpuid", "rdmsr", "out", "in"))
def test_step_over_an_instruction_that_exits(subject: Subject, instruction: str) -> None:
    program = Program("step over an exit")
    steps = program.execute(f"step_{instruction}", 0x1B)
    result = subject.run(program)
    expect_steps(result.exceptions_of(steps), 2)
