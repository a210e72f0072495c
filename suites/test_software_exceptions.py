"""INT3, INT n and ICEBP (INT)."""

from __future__ import annotations

from harness.cases import axis, case
from harness.expect import expect_exceptions, expect_fault, expect_register
from harness.guest import Program, tables
from harness.guest.registers import DR6_BS, DR6_CAUSES, DR6_INACTIVE, RFLAGS_TF
from harness.subjects import Subject
from suites.guestlib import steps_of

#: Offset of the byte with type and present bit in a gate, that byte for an interrupt gate that is not present, and a
#: gate's size (SDM volume 3, 6.14.1).
GATE_TYPE, NOT_PRESENT, GATE_SIZE = 5, 0x0E, 16
#: Error codes of faults on a gate: the vector, the IDT bit, and EXT where the event came from the processor.
IDT_BIT, EXT_BIT = 2, 1
#: A linear address that nothing is mapped at (64-bit code, 16 TiB).
UNMAPPED = 0x1000_0000_0000
#: The instructions that end stepping take less than this.
TAIL_BYTES = 32
#: What an earlier event left in DR6.
STALE = 0x5


@case(
    "INT-01",
    rule="INT3 gives #BP with RIP behind it and leaves DR6 alone, at CPL 0 and 3",
    requirement=("S1.3", "S1.6"),
    refs=("SDM3 17.3.2",),
)
@axis("cpl", (0, 3), prefix="cpl")
def test_int3_is_a_trap_that_leaves_dr6_alone(subject: Subject, cpl: int) -> None:
    program = Program("INT3")
    program.set_dr(6, DR6_INACTIVE | STALE)
    trap = program.execute("int3", user=cpl == 3)
    after = program.snapshot()
    result = subject.run(program)
    found = result.exceptions_of(trap)
    expect_exceptions("INT3", found, "#BP", ref="SDM3 17.3.2")
    expect_register("rip", found[0].rip, found[0].next, ref="SDM3 17.3.2")
    expect_register("cpl", found[0].cs, cpl, mask=3)
    expect_register("dr6 afterwards", result.snapshot(after).dr6, STALE, mask=DR6_CAUSES, ref="SDM3 17.3.2")


@case(
    "INT-03",
    rule="ICEBP gives #DB, trap class, with no DR6 condition bit",
    refs=("SDM3 17.3.1", "APM2 15.12"),
)
def test_icebp_is_a_debug_trap_without_a_cause(subject: Subject) -> None:
    program = Program("ICEBP")
    trap = program.execute("icebp")
    result = subject.run(program)
    found = result.exceptions_of(trap)
    expect_exceptions("ICEBP", found, "#DB", ref="SDM3 17.3.1")
    expect_register("rip", found[0].rip, found[0].next, ref="SDM3 17.3.1")
    expect_register("dr6", found[0].dr6, 0, mask=DR6_CAUSES, ref="SDM3 17.3.1")


@case(
    "INT-02",
    rule="Execution breakpoint on an INT3 byte: #DB first, then #BP after the resume with RF",
    requirement="S1.1",
    refs=("SDM3 6.9",),
    priority=2,
)
@axis("register", (0, 3), prefix="dr")
def test_a_breakpoint_on_int3_comes_first(subject: Subject, register: int) -> None:
    program = Program("breakpoint on INT3")
    program.arm_snippet(dr=register, snippet="int3")
    trap = program.execute("int3")
    found = subject.run(program).exceptions_of(trap)
    expect_exceptions("INT3 with a breakpoint on it", found, "#DB", "#BP", ref="SDM3 6.9")
    expect_fault(found[0], dr=register)
    expect_register("rip of #BP", found[1].rip, found[1].next, ref="SDM3 17.3.2")


@case(
    "INT-04",
    rule="ICEBP from CPL 3 ignores the privilege of the gate; INT 1 does not",
    refs=("APM2 15.12", "SDM3 6.12.1.2"),
    priority=2,
)
@axis("instruction", ("icebp", "int1"))
def test_gate_privilege_holds_for_int_1_only(subject: Subject, instruction: str) -> None:
    program = Program(f"{instruction} from CPL 3")
    trap = program.execute(instruction, user=True)
    found = subject.run(program).exceptions_of(trap)
    if instruction == "icebp":
        expect_exceptions("ICEBP at CPL 3", found, "#DB", ref="SDM3 17.3.1")
        expect_register("rip", found[0].rip, found[0].next, ref="SDM3 17.3.1")
    else:
        expect_exceptions("INT 1 at CPL 3", found, "#GP", ref="SDM3 6.12.1.2")
        expect_register("rip", found[0].rip, found[0].site, ref="SDM3 6.12.1.2")
        expect_register("error code", found[0].error, 1 << 3 | IDT_BIT, ref="SDM3 6.13")


@case(
    "INT-04",
    rule="A gate that is not present gives #NP, with EXT for ICEBP and without for INT n",
    refs=("APM2 15.12", "SDM3 6.13"),
    priority=2,
)
@axis("instruction", ("icebp", "int1"))
def test_a_gate_that_is_not_present(subject: Subject, instruction: str) -> None:
    ext = {"icebp": EXT_BIT, "int1": 0}[instruction]
    program = Program(f"{instruction} through a gate that is not present")
    program.poke(tables.constants()["IDT_SECOND"] + 1 * GATE_SIZE + GATE_TYPE, 1, NOT_PRESENT)
    program.use_tables("second_idt")
    trap = program.execute(instruction)
    program.use_tables("own")
    found = subject.run(program).exceptions_of(trap)
    expect_exceptions(instruction, found, "#NP", ref="SDM3 6.13")
    expect_register("rip", found[0].rip, found[0].site, ref="SDM3 6.15")
    expect_register("error code", found[0].error, 1 << 3 | IDT_BIT | ext, ref="SDM3 6.13")


@case(
    "INT-05",
    rule="DR6 bits of earlier events are not cleared by INT3, ICEBP or a page fault",
    requirement=("S1.3", "S1.6"),
    refs=("SDM3 17.2.3",),
    priority=2,
)
@axis("event", ("int3", "icebp", "page_fault"))
def test_stale_causes_stay(subject: Subject, event: str) -> None:
    program = Program(f"{event} over stale causes")
    program.handler("keep_dr6")
    program.set_dr(6, DR6_INACTIVE | STALE)
    trap = program.load(UNMAPPED) if event == "page_fault" else program.execute(event)
    after = program.snapshot()
    result = subject.run(program)
    vector = {"int3": "#BP", "icebp": "#DB", "page_fault": "#PF"}[event]
    expect_exceptions(event, result.exceptions_of(trap), vector)
    expect_register("dr6 afterwards", result.snapshot(after).dr6, STALE, mask=DR6_CAUSES, ref="SDM3 17.2.3")


@case(
    "INT-06",
    rule="INT n with TF: the handler runs with TF clear, the image has TF set, no step is taken inside the handler",
    requirement="S1.1",
    refs=("SDM3 17.3.1.4",),
    priority=2,
)
def test_a_stepped_int_n_is_not_stepped_inside(subject: Subject) -> None:
    program = Program("INT n while stepping")
    trap = program.execute("int_frame_step")
    found = subject.run(program).exceptions_of(trap)
    expect_exceptions("stepped INT n", found, *["#DB"] * len(found), ref="SDM3 17.3.1.4")
    inside = [record for record in found if not record.site <= record.rip <= record.next + TAIL_BYTES]
    expect_exceptions("the handler of INT n", inside, ref="SDM3 17.3.1.4")
    # TF came back with the image: the NOP behind INT n is stepped, and it is the first instruction that is.
    steps = steps_of(found)
    expect_exceptions("INT n and the NOP behind it", steps, "#DB", ref="SDM3 17.3.1.4")
    expect_register("rip of the step", steps[0].rip, steps[0].next, ref="SDM3 17.3.1.4")
    expect_register("dr6.bs", steps[0].dr6, DR6_BS, mask=DR6_BS, ref="SDM3 17.2.3")
    expect_register("rflags.tf in the image", steps[0].rflags, RFLAGS_TF, mask=RFLAGS_TF, ref="SDM3 17.3.1.4")
