"""The shadow of MOV SS and POP SS, with a watch on their operand (SSB)."""

from __future__ import annotations

from harness.cases import axis, case, variant
from harness.errors import HitMismatch
from harness.expect import expect_exceptions, expect_register, expect_that, expect_trap
from harness.guest import Program, Record, Result
from harness.guest.registers import DR6_BS
from harness.subjects import Subject
from suites.guestlib import expect_steps, steps_of

#: Stack selectors of the runtime's descriptor table, by privilege level.
STACK_SELECTORS = {0: 0x10, 3: 0x2B}
#: The vector whose handler leaves no record.
SILENT_VECTOR = 0x81
#: In the error code of a fault on a gate (SDM volume 3, 6.13).
IDT_BIT = 2
#: A count that lets the local APIC's timer end a HLT soon; much less, and ticks leave the guest no time.
TIMER_COUNT = 50000
#: RFLAGS bits that SYSCALL clears here: TF, IF, DF, IOPL, NT and AC, as kernels do.
SYSCALL_MASK = 0x47700


def watch_stack_load(program: Program, *, cpl: int = 0, dr: int = 0) -> int:
    """A stack selector in memory, watched for any access; MOV SS takes it from there."""
    operand = program.watched(value=STACK_SELECTORS[cpl])
    program.arm(dr=dr, address=operand, type="readwrite", length=2)
    return operand


def expect_report_at(record: Record, place: int, *, what: str) -> None:
    """The held report, taken at CPL 0 where the next event's handler begins."""
    expect_register(f"rip of the report ({what})", record.rip, place, ref="SDM3 6.8.3")
    expect_register("cpl of the report", record.cs, 0, mask=3, ref="SDM3 6.8.3")
    expect_register("dr6.b0 of the report", record.dr6, 1, mask=1, ref="SDM3 17.2.3")


@case(
    "SSB-01",
    rule="Watched MOV SS then NOP: #DB is held until after the NOP, reported once, RIP behind the NOP",
    requirement=("S1.1",),
    refs=("SDM3 6.8.3",),
)
@axis("exit_kind", ("none", "cpuid"))
@axis("cpl", (0, 3), prefix="cpl")
def test_the_shadow_of_mov_ss_holds_the_report(subject: Subject, exit_kind: str, cpl: int) -> None:
    program = Program("watched MOV SS")
    operand = watch_stack_load(program, cpl=cpl)
    if exit_kind != "none":
        program.exit(exit_kind)
    load = program.execute("mov_ss_nop", operand, user=cpl == 3)
    found = subject.run(program).exceptions_of(load)
    expect_exceptions("MOV SS, NOP", found, "#DB", ref="SDM3 6.8.3")
    expect_trap(found[0], dr=0, ref="SDM3 6.8.3")


@case(
    "SSB-01",
    rule="MOV SS from an operand that is not watched leaves no report behind the NOP",
    requirement=("S1.1",),
    refs=("SDM3 6.8.3",),
)
def test_mov_ss_without_a_watch_is_silent(subject: Subject) -> None:
    program = Program("MOV SS beside a watch")
    watch_stack_load(program)
    load = program.execute("mov_ss_nop", program.watched(value=STACK_SELECTORS[0]))
    expect_exceptions("MOV SS, NOP", subject.run(program).exceptions_of(load), ref="SDM3 17.3.1.2")


@case(
    "SSB-02",
    rule="Watched MOV SS then INT3: the pending #DB is taken where the #BP handler begins, at kernel CS; both count",
    requirement="S1.1",
    refs=("SDM3 6.8.3", "SDM3 6.9"),
)
@axis("cpl", (0, 3), prefix="cpl")
def test_int3_in_the_shadow(subject: Subject, cpl: int) -> None:
    program = Program("watched MOV SS, INT3")
    load = program.execute("mov_ss_int3", watch_stack_load(program, cpl=cpl), user=cpl == 3)
    result = subject.run(program)
    found = result.exceptions_of(load)
    # The handler of #BP is interrupted before its first instruction, so the record of #DB is made first.
    expect_exceptions("MOV SS, INT3", found, "#DB", "#BP", ref="SDM3 6.8.3")
    expect_report_at(found[0], result.vector_entry(3), what="handler of #BP")
    expect_register("rip of #BP", found[1].rip, found[1].next, ref="SDM3 17.3.2")
    expect_register("cpl of #BP", found[1].cs, cpl, mask=3)


@case(
    "SSB-03",
    rule="Watched MOV SS then INT n and INT 1: the pending #DB is taken where the handler begins",
    requirement="S1.1",
    refs=("SDM3 6.8.3",),
    priority=2,
)
@axis("instruction", ("int_frame", "int1"))
def test_int_n_in_the_shadow(subject: Subject, instruction: str) -> None:
    program = Program(f"watched MOV SS, {instruction}")
    load = program.execute(f"mov_ss_{instruction}", watch_stack_load(program))
    result = subject.run(program)
    found = result.exceptions_of(load)
    # The handler of INT 81h leaves no record of its own; INT 1 arrives as #DB without a cause.
    expect_exceptions(f"MOV SS, {instruction}", found, *{"int_frame": ("#DB",), "int1": ("#DB", "#DB")}[instruction])
    vector = {"int_frame": SILENT_VECTOR, "int1": 1}[instruction]
    expect_report_at(found[0], result.vector_entry(vector), what=f"handler of vector {vector:#x}")


@case(
    "SSB-03",
    rule="INT 1 behind a watched MOV SS at CPL 3 is refused by the gate's privilege as ever",
    requirement="S1.1",
    refs=("SDM3 6.8.3", "SDM3 6.12.1.2"),
    priority=2,
)
def test_the_gate_of_int_1_is_checked_in_the_shadow(subject: Subject) -> None:
    program = Program("watched MOV SS, INT 1 at CPL 3")
    load = program.execute("mov_ss_int1", watch_stack_load(program, cpl=3), user=True)
    found = subject.run(program).exceptions_of(load)
    faults = [record for record in found if record.vector != 1]
    expect_exceptions("INT 1", faults, "#GP", ref="SDM3 6.12.1.2")
    expect_register("error code", faults[0].error, 1 << 3 | IDT_BIT, ref="SDM3 6.13")


@case(
    "SSB-04",
    rule="Watched MOV SS then ICEBP: one combined or two ordered #DB, never lost, VM entry never fails",
    requirement="S1.1",
    refs=("SDM3 6.8.3",),
)
@axis("cpl", (0, 3), prefix="cpl")
def test_icebp_in_the_shadow(subject: Subject, cpl: int) -> None:
    program = Program("watched MOV SS, ICEBP")
    load = program.execute("mov_ss_icebp", watch_stack_load(program, cpl=cpl), user=cpl == 3)
    after = program.note(1)
    result = subject.run(program)
    found = result.exceptions_of(load)
    expect_that(
        "exceptions of MOV SS, ICEBP",
        1 <= len(found) <= 2 and all(record.vector == 1 for record in found),
        "one #DB or two",
        f"vectors {[record.vector for record in found]}",
        ref="SDM3 6.8.3",
        error=HitMismatch,
    )
    reported = sum(record.dr6 & 1 for record in found)
    expect_that("reports of the watch", reported == 1, "1", str(reported), ref="SDM3 6.8.3", error=HitMismatch)
    expect_that("the guest went on", bool(result.of(after)), "a note", f"{len(result.of(after))} notes")


@case(
    "SSB-05",
    rule="Watched MOV SS then SYSCALL from CPL 3: the #DB arrives on the kernel side; the guest survives",
    requirement="S1.1",
    refs=("SDM3 6.8.3",),
)
def test_syscall_in_the_shadow(subject: Subject) -> None:
    program = Program("watched MOV SS, SYSCALL")
    program.execute("syscall_setup", SYSCALL_MASK)
    load = program.execute("mov_ss_syscall", watch_stack_load(program, cpl=3), user=True)
    after = program.note(1)
    result = subject.run(program)
    found = result.exceptions_of(load)
    expect_exceptions("MOV SS, SYSCALL", found, "#DB", ref="SDM3 6.8.3")
    expect_report_at(found[0], result.syscall_entry, what="entry of SYSCALL")
    expect_that("the guest went on", bool(result.of(after)), "a note", f"{len(result.of(after))} notes")


@case(
    "SSB-05",
    rule="Watched MOV SS then SYSENTER from CPL 3: the #DB arrives on the kernel side; the guest survives",
    requirement="S1.1",
    refs=("SDM3 6.8.3",),
    vendors=("intel",),  # in long mode AMD has no SYSENTER (APM volume 3)
)
def test_sysenter_in_the_shadow(subject: Subject) -> None:
    program = Program("watched MOV SS, SYSENTER")
    program.execute("sysenter_setup")
    load = program.execute("mov_ss_sysenter", watch_stack_load(program, cpl=3), user=True)
    after = program.note(1)
    result = subject.run(program)
    found = result.exceptions_of(load)
    expect_exceptions("MOV SS, SYSENTER", found, "#DB", ref="SDM3 6.8.3")
    expect_register("cpl of the report", found[0].cs, 0, mask=3, ref="SDM3 6.8.3")
    expect_register("dr6.b0 of the report", found[0].dr6, 1, mask=1, ref="SDM3 17.2.3")
    expect_that("the guest went on", bool(result.of(after)), "a note", f"{len(result.of(after))} notes")


@case(
    "SSB-06",
    rule="Watched MOV SS then a faulting instruction: the fault is delivered; the data report may be dropped",
    requirement="S1.1",
    refs=("SDM3 6.8.3",),
    priority=2,
)
def test_a_fault_in_the_shadow(subject: Subject) -> None:
    program = Program("watched MOV SS, UD2")
    load = program.execute("mov_ss_ud2", watch_stack_load(program))
    result = subject.run(program)
    found = result.exceptions_of(load)
    faults = [record for record in found if record.vector != 1]
    expect_exceptions("UD2 in the shadow", faults, "#UD", ref="SDM3 6.8.3")
    expect_register("rip of #UD", faults[0].rip, faults[0].site, ref="SDM3 6.15")
    reports = [record for record in found if record.vector == 1]
    # Whether it is dropped is the processor's choice; a report that comes is the watch's own, and only one.
    expect_that("reports of the watch", len(reports) <= 1, "none or one", str(len(reports)), error=HitMismatch)
    for record in reports:
        expect_register("dr6.b0 of the report", record.dr6, 1, mask=1, ref="SDM3 17.2.3")


#: Hits of an execution breakpoint on the instruction behind MOV SS or POP SS (SDM volume 3, 6.8.3; conformance table
#: of vendor differences).
HITS_IN_SHADOW = {"intel": 0, "amd": 1}


@case(
    "SSB-07",
    rule="Execution breakpoint on the instruction after MOV SS / POP SS: suppressed on Intel, fires on AMD",
    requirement="S1.1",
    refs=("SDM3 6.8.3",),
    priority=2,
)
@axis("load", (variant("mov_ss_nop"), variant("pop_ss")))
def test_a_breakpoint_in_the_shadow(subject: Subject, load: str) -> None:
    mode = {"mov_ss_nop": "long", "pop_ss": "prot32"}[load]
    program = Program(f"breakpoint behind {load}")
    operand = program.watched(value=STACK_SELECTORS[0], low=True)
    program.arm_snippet(dr=1, snippet=load, mode=mode)
    run = program.execute(load, operand, mode=mode)
    found = subject.run(program).exceptions_of(run)
    expect_exceptions("breakpoint in the shadow", found, *["#DB"] * HITS_IN_SHADOW[subject.platform.vendor])


@case(
    "SSB-07",
    rule="Execution breakpoint one instruction after the shadow fires",
    requirement="S1.1",
    refs=("SDM3 6.8.3",),
    priority=2,
)
def test_a_breakpoint_behind_the_shadow(subject: Subject) -> None:
    program = Program("breakpoint behind the shadow")
    program.arm_snippet(dr=1, snippet="mov_ss_nop", offset=1)
    run = program.execute("mov_ss_nop", program.watched(value=STACK_SELECTORS[0]))
    found = subject.run(program).exceptions_of(run)
    expect_exceptions("breakpoint behind the shadow", found, "#DB", ref="SDM3 6.8.3")
    expect_register("rip", found[0].rip, found[0].next, ref="SDM3 17.3.1.1")


@case(
    "SSB-08",
    rule="Watched MOV SS then an exiting instruction: the report survives the exit and comes after it",
    requirement="S1.1",
    refs=("SDM3 27.3.4", "SDM3 26.3.1.5"),
    priority=2,
    needs=("trap-at-exit",),
)
@axis("instruction", ("cpuid", "out", "hlt"))
def test_an_exit_in_the_shadow(subject: Subject, instruction: str) -> None:
    program = Program(f"watched MOV SS, {instruction}")
    load = program.execute(f"mov_ss_{instruction}", watch_stack_load(program), TIMER_COUNT)
    found = subject.run(program).exceptions_of(load)
    expect_exceptions(f"MOV SS, {instruction}", found, "#DB", ref="SDM3 27.3.4")
    expect_trap(found[0], dr=0, ref="SDM3 27.3.4")


@case(
    "SSB-09",
    rule="TF and MOV SS: one step covers both instructions; two MOV SS in a row shadow once",
    requirement="S1.1",
    refs=("SDM3 6.8.3",),
    priority=2,
)
@axis("sequence", ("mov_ss", "two_mov_ss"))
def test_a_step_covers_the_shadow(subject: Subject, sequence: str) -> None:
    program = Program(f"step over {sequence}")
    steps = program.execute(f"step_{sequence}", program.watched(value=STACK_SELECTORS[0]))
    found = subject.run(program).exceptions_of(steps)
    # MOV SS with NOP, NOP; or MOV SS with MOV SS, NOP, NOP.
    expect_steps(found, {"mov_ss": 2, "two_mov_ss": 3}[sequence], ref="SDM3 6.8.3")


@case(
    "SSB-09",
    rule="LSS opens no shadow: its report comes right behind it",
    requirement="S1.1",
    refs=("SDM3 6.8.3",),
    priority=2,
)
def test_lss_opens_no_shadow(subject: Subject) -> None:
    program = Program("watched LSS")
    stack = program.watched(512)
    operand = program.watched(value=STACK_SELECTORS[0] << 32 | stack + 512)
    program.arm(dr=2, address=operand, type="readwrite", length=4)
    load = program.execute("lss_nop", operand)
    found = subject.run(program).exceptions_of(load)
    expect_exceptions("LSS, NOP", found, "#DB", ref="SDM3 6.8.3")
    expect_fault_place(found[0], dr=2)


def expect_fault_place(record: Record, *, dr: int) -> None:
    """The report of a data watch in front of the instruction under test."""
    expect_register("rip of the report", record.rip, record.site, ref="SDM3 6.8.3")
    expect_register("dr6 of the report", record.dr6, 1 << dr, mask=DR6_BS | 0xF, ref="SDM3 17.2.3")


@case(
    "SSB-09",
    rule="POP SS in 32-bit code behaves like MOV SS",
    requirement="S1.1",
    refs=("SDM3 6.8.3",),
    priority=2,
)
def test_pop_ss_holds_the_report(subject: Subject) -> None:
    program = Program("watched POP SS")
    operand = program.watched(value=STACK_SELECTORS[0], low=True)
    program.arm(dr=0, address=operand, type="readwrite", length=2)
    load = program.execute("pop_ss", operand, mode="prot32")
    found = subject.run(program).exceptions_of(load)
    expect_exceptions("POP SS, MOV", found, "#DB", ref="SDM3 6.8.3")
    expect_trap(found[0], dr=0, ref="SDM3 6.8.3")


@case(
    "SSB-10",
    rule="TF with the shadow of STI or MOV SS and an event inside: VM entry stays legal, the VM is not killed",
    requirement="S1.1",
    refs=("SDM3 26.3.1.5",),
    vendors=("intel",),
)
@axis("sequence", ("sti_cpuid", "mov_ss_cpuid", "mov_ss_icebp"))
def test_the_guest_survives_a_step_in_a_shadow(subject: Subject, sequence: str) -> None:
    program = Program(f"step over {sequence}")
    steps = program.execute(f"step_{sequence}", program.watched(value=STACK_SELECTORS[0]))
    after = program.note(1)
    # A VM entry that the processor refuses ends the guest: bhyve's own report of it is the failure.
    result = subject.run(program)
    expect_that("the guest went on", bool(result.of(after)), "a note", f"{len(result.of(after))} notes")
    expect_last_step(result, steps_of(result.exceptions_of(steps)))


def expect_last_step(result: Result, steps: tuple[Record, ...]) -> None:
    """Stepping went on until behind the sequence, whatever was merged before."""
    last = steps[-1].rip if steps else 0
    expected = steps[-1].next if steps else result.exceptions[0].next if result.exceptions else 1
    expect_register("rip of the last step", last, expected, ref="SDM3 17.3.1.4")
