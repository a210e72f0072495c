"""Single step by RFLAGS.TF (STP)."""

from __future__ import annotations

from harness.cases import axis, case, variant
from harness.errors import HitMismatch
from harness.expect import expect_equal, expect_exceptions, expect_register, expect_that
from harness.guest import Program
from harness.guest.registers import DR6_BS, DR6_INACTIVE, RFLAGS_TF
from harness.subjects import Subject
from suites.guestlib import BUSY, STEP_TAIL, expect_debug_registers, expect_steps, steps_of
from suites.vocabulary import DISTINCT

#: Registers of the local APIC, and a count that lets its timer end a HLT soon.
LAPIC_VERSION, LAPIC_EOI, TIMER_COUNT = 0xFEE0_0030, 0xFEE0_00B0, 50000

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
    "STP-01",
    rule="Stepping goes on behind an instruction that exits: the trap flag survives an exit of any kind",
    requirement=("S1.1", "S1.3", "S1.6"),
    refs=("SDM3 17.3.1.4",),
)
@axis("instruction", ("cpuid", "rdmsr", "out", "in"))
def test_stepping_goes_on_behind_an_exit(subject: Subject, instruction: str) -> None:
    program = Program("step on behind an exit")
    steps = program.execute(f"step_{instruction}", 0x1B)
    found = subject.run(program).exceptions_of(steps)
    # Whether the instruction that exits has a trap of its own is asked elsewhere; the one behind it has.
    behind = [record for record in found if record.rip == record.next]
    expect_exceptions("the instruction behind the exit", behind, "#DB", ref="SDM3 17.3.1.4")
    expect_register("dr6.bs", behind[0].dr6, DR6_BS, mask=DR6_BS, ref="SDM3 17.3.1.4")
    expect_register("rflags.tf in the image", behind[0].rflags, RFLAGS_TF, mask=RFLAGS_TF, ref="SDM3 17.3.1.4")


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
    first = steps_of(result.exceptions_of(steps))[0]
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
    expect_equal("steps taken", len(found), 2 * passes + STEP_TAIL, ref="SDM3 6.9")
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
    needs=("trap-at-exit",),
)
@axis("instruction", ("cpuid", "rdmsr", "out", "in"))
def test_step_over_an_instruction_that_exits(subject: Subject, instruction: str) -> None:
    program = Program("step over an exit")
    steps = program.execute(f"step_{instruction}", 0x1B)
    result = subject.run(program)
    expect_steps(result.exceptions_of(steps), 2)


@case(
    "STP-02",
    rule="POPF or IRET that sets TF: the first trap comes after the next instruction",
    requirement="S1.1",
    refs=("SDM3 17.3.1.4",),
    priority=2,
)
@axis("instruction", (variant("popf"), variant("iret")))
def test_the_first_trap_is_one_instruction_later(subject: Subject, instruction: str) -> None:
    program = Program(f"TF comes with {instruction}")
    steps = program.execute({"popf": "step_nops", "iret": "step_iret"}[instruction])
    found = subject.run(program).exceptions_of(steps)
    expect_steps(found, {"popf": 4, "iret": 1}[instruction])
    expect_register("rip of the first trap", found[0].rip, found[0].site + 1, ref="SDM3 17.3.1.4")


@case(
    "STP-04",
    rule="Step over a load and a store that the hypervisor completes as MMIO: one #DB after each",
    requirement="S1.1",
    refs=("SDM3 17.3.1.4",),
    priority=2,
    needs=("trap-at-exit",),
)
@axis("access", ("load", "store"))
def test_step_over_emulated_memory(subject: Subject, access: str) -> None:
    program = Program(f"step over an MMIO {access}")
    # The local APIC: its version register can be read, its end-of-interrupt register written, without effect.
    register = {"load": LAPIC_VERSION, "store": LAPIC_EOI}[access]
    steps = program.execute(f"step_mmio_{access}", register, 0)
    expect_steps(subject.run(program).exceptions_of(steps), 2)


@case(
    "STP-05",
    rule="Step over STI, CLI and STI;HLT: no lost and no extra trap",
    requirement="S1.1",
    refs=("SDM3 17.3.1.4", "SDM3 6.8.1"),
    priority=2,
)
@axis("instruction", ("sti", "cli", variant("sti_hlt", "trap-at-exit")))
def test_step_over_interrupt_flag_changes(subject: Subject, instruction: str) -> None:
    program = Program(f"step over {instruction}")
    steps = program.execute(f"step_{instruction}", TIMER_COUNT)
    expect_steps(subject.run(program).exceptions_of(steps), 2)


@case(
    "STP-06",
    rule="Stepping through SYSCALL obeys the flag mask: no trap in the kernel unless TF is kept; SYSRET restores it",
    requirement="S1.1",
    refs=("SDM3 17.3.1.4",),
    priority=2,
)
@axis("mask", (variant("masked"), variant("kept")))
def test_step_through_a_system_call(subject: Subject, mask: str) -> None:
    program = Program("step through SYSCALL")
    program.execute("syscall_setup", {"masked": RFLAGS_TF, "kept": 0}[mask])
    steps = program.execute("step_syscall", user=True)
    found = subject.run(program).exceptions_of(steps)
    kernel = [record for record in found if record.cs & 3 == 0]
    user = steps_of([record for record in found if record.cs & 3 == 3])
    expect_that(
        "traps in the kernel",
        bool(kernel) == (mask == "kept"),
        {"masked": "none", "kept": "some"}[mask],
        f"{len(kernel)} traps",
        ref="SDM3 17.3.1.4",
        error=HitMismatch,
    )
    expect_that("steps at CPL 3", bool(user), "some", "none", ref="SDM3 17.3.1.4", error=HitMismatch)
    expect_register("rip of the last step at CPL 3", user[-1].rip, user[-1].next, ref="SDM3 17.3.1.4")
