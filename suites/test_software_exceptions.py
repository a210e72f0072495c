"""INT3, ICEBP and the shadow of MOV SS (INT, SSB)."""

from __future__ import annotations

from harness.cases import Expected, axis, case
from harness.expect import expect_exceptions, expect_register, expect_trap
from harness.guest import Program
from harness.guest.registers import DR6_CAUSES, DR6_INACTIVE
from harness.subjects import Subject

#: The data selector of the runtime's descriptor table.
STACK_SELECTOR = 0x10


@case(
    "INT-01",
    rule="INT3 gives #BP with RIP behind it and leaves DR6 alone, at CPL 0 and 3",
    requirement=("S1.3", "S1.6"),
    refs=("SDM3 17.3.2",),
)
@axis("cpl", (0, 3), prefix="cpl")
def test_int3_is_a_trap_that_leaves_dr6_alone(subject: Subject, cpl: int) -> None:
    program = Program("INT3")
    program.set_dr(6, DR6_INACTIVE | 0x5)
    trap = program.execute("int3", user=cpl == 3)
    after = program.snapshot()
    result = subject.run(program)
    found = result.exceptions_of(trap)
    expect_exceptions("INT3", found, "#BP", ref="SDM3 17.3.2")
    expect_register("rip", found[0].rip, found[0].next, ref="SDM3 17.3.2")
    expect_register("cpl", found[0].cs, cpl, mask=3)
    expect_register("dr6 afterwards", result.snapshot(after).dr6, 0x5, mask=DR6_CAUSES, ref="SDM3 17.3.2")


@case(
    "INT-03",
    rule="ICEBP gives #DB, trap class, with no DR6 condition bit",
    refs=("SDM3 17.3.1", "APM2 15.12"),
    expected=(
        Expected(
            "G-01",
            "PRODUCT-HIT-MISMATCH",
            "the ICEBP intercept is answered with #UD",
            kinds=("emulated", "freebsd"),
            vendors=("amd",),
        ),
    ),
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
    "SSB-01",
    rule="Watched MOV SS then NOP: #DB is held until after the NOP, reported once, RIP behind the NOP",
    requirement=("S1.1",),
    refs=("SDM3 6.8.3",),
)
@axis("exit_kind", ("none", "cpuid"))
def test_the_shadow_of_mov_ss_holds_the_report(subject: Subject, exit_kind: str) -> None:
    program = Program("watched MOV SS")
    watched = program.watched(value=STACK_SELECTOR)
    program.arm(dr=0, address=watched, type="readwrite", length=2)
    if exit_kind != "none":
        program.exit(exit_kind)
    load = program.execute("mov_ss_nop", watched)
    result = subject.run(program)
    found = result.exceptions_of(load)
    expect_exceptions("MOV SS, NOP", found, "#DB", ref="SDM3 6.8.3")
    expect_trap(found[0], dr=0, ref="SDM3 6.8.3")
