"""General detect (REG-07, REG-08): DR7.GD makes each MOV to or from a debug register fault."""

from __future__ import annotations

from harness.cases import axis, case
from harness.expect import (
    expect_dr6,
    expect_exceptions,
    expect_register,
    expect_silence,
)
from harness.guest import Program
from harness.guest.registers import (
    DR6_BD,
    DR7_GD,
    DR7_RESET,
)
from harness.subjects import Subject
from suites.guestlib import force
from suites.vocabulary import GUEST_EXITS

BETWEEN = ("none", "cpuid", "out80")
ALL = (0, 1, 2, 3, 6, 7)


@case(
    "REG-07",
    rule="DR7.GD: a MOV to or from each debug register faults with #DB, BD set, RIP at the MOV, register unchanged",
    requirement=("S1.2", "S1.6"),
    refs=("SDM3 17.3.1.3",),
)
@axis("register", ALL, prefix="dr")
@axis("direction", ("read", "write"))
@axis("exit_kind", BETWEEN)
def test_general_detect_traps(subject: Subject, register: int, direction: str, exit_kind: str) -> None:
    program = Program("general detect")
    for n in range(4):
        program.set_dr(n, 0x1000 + n)
    program.handler("disarm")
    program.set_dr(7, DR7_RESET | DR7_GD)
    force(program, exit_kind)
    access = program.execute(f"{direction}_dr{register}", 0x5555)
    after = program.snapshot()
    # The control: without GD the same access is silent.
    control = program.execute(f"read_dr{register}")
    result = subject.run(program)
    found = result.exceptions_of(access)
    expect_exceptions(f"{direction} of dr{register} under GD", found, "#DB", ref="SDM3 17.3.1.3")
    expect_dr6(found[0], DR6_BD, ref="SDM3 17.3.1.3")
    expect_register("rip", found[0].rip, found[0].site, ref="SDM3 17.3.1.3")
    for n in range(4):
        expect_register(f"dr{n} afterwards", result.snapshot(after)[n], 0x1000 + n, ref="SDM3 17.3.1.3")
    expect_silence("the same access without GD", result.exceptions_of(control))


@case(
    "REG-07",
    rule="DR7.GD is still set behind an exit of any kind",
    requirement=("S1.2", "S1.6"),
    refs=("SDM3 17.2.4",),
)
@axis("exit_kind", (*GUEST_EXITS, "each"))
def test_general_detect_outlives_an_exit(subject: Subject, exit_kind: str) -> None:
    program = Program("general detect behind an exit")
    program.handler("disarm")
    program.set_dr(7, DR7_RESET | DR7_GD)
    for kind in GUEST_EXITS if exit_kind == "each" else (exit_kind,):
        force(program, kind)
    access = program.execute("read_dr0", 0)
    found = subject.run(program).exceptions_of(access)
    expect_exceptions(f"read of dr0 under GD behind {exit_kind}", found, "#DB", ref="SDM3 17.3.1.3")
    expect_dr6(found[0], DR6_BD, ref="SDM3 17.3.1.3")


@case(
    "REG-08",
    rule="GD is clear inside the handler, so the handler may access debug registers; BD stays until cleared",
    requirement=("S1.2", "S1.6"),
    refs=("SDM3 17.2.4",),
)
@axis("exit_kind", BETWEEN)
def test_general_detect_is_off_in_the_handler(subject: Subject, exit_kind: str) -> None:
    program = Program("general detect in the handler")
    program.handler("keep_dr6", "disarm", "exit_before", exit_kind=exit_kind)
    program.set_dr(7, DR7_RESET | DR7_GD)
    access = program.execute("read_dr0")
    after = program.snapshot()
    result = subject.run(program)
    found = result.exceptions_of(access)
    # One #DB only: the handler itself reads and writes DR6 and DR7 without meeting GD again.
    expect_exceptions("read of dr0 under GD", found, "#DB", ref="SDM3 17.2.4")
    expect_register("dr7.gd in the handler", found[0].dr7, 0, mask=DR7_GD, ref="SDM3 17.2.4")
    expect_register("dr6.bd afterwards", result.snapshot(after).dr6, DR6_BD, mask=DR6_BD, ref="SDM3 17.2.3")
