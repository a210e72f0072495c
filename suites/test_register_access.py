"""Access rules of the debug registers (REG), each with and without a VM exit between write and read-back."""

from __future__ import annotations

from harness.cases import Expected, axis, case
from harness.expect import expect_dr6, expect_exceptions, expect_register, expect_silence
from harness.guest import Program
from harness.guest.registers import (
    DR6_BD,
    DR6_BS,
    DR6_BT,
    DR6_CAUSES,
    DR6_INACTIVE,
    DR7_GD,
    DR7_RESET,
    DR7_RTM,
    dr7_readback,
)
from harness.subjects import Subject
from suites.guestlib import force
from suites.vocabulary import PATTERNS, REGISTERS

BETWEEN = ("none", "cpuid", "out80")
ALL = (0, 1, 2, 3, 6, 7)


@case(
    "REG-01",
    rule="DR0-3 return every written 64-bit pattern",
    requirement=("S1.3",),
    refs=("SDM3 17.2.6",),
)
@axis("register", REGISTERS, prefix="dr")
@axis("exit_kind", BETWEEN)
def test_addresses_keep_every_pattern(subject: Subject, register: int, exit_kind: str) -> None:
    program = Program("address patterns")
    snapshots = []
    for pattern in (*PATTERNS, *(1 << bit for bit in range(64))):
        program.set_dr(register, pattern)
        force(program, exit_kind)
        snapshots.append((pattern, program.execute(f"read_dr{register}", result=True)))
    result = subject.run(program)
    expect_silence("writing patterns", result.exceptions)
    for pattern, read in snapshots:
        expect_register(f"dr{register}", result.value(read), pattern, ref="SDM3 17.2.6")


@case(
    "REG-02",
    rule="Writing 0 to DR6 reads back the fixed bits, with RTM and BLD as CPUID tells",
    requirement=("S1.3", "S1.6"),
    refs=("SDM3 17.2.3",),
)
@axis("exit_kind", BETWEEN)
def test_dr6_fixed_bits(subject: Subject, exit_kind: str) -> None:
    program = Program("dr6 = 0")
    program.set_dr(6, 0)
    force(program, exit_kind)
    read = program.snapshot()
    result = subject.run(program)
    expected = DR6_INACTIVE
    if result.has_rtm:
        expected &= ~(1 << 16)
    if result.has_bus_lock_detect:
        expected &= ~(1 << 11)
    expect_register("dr6", result.snapshot(read).dr6, expected, ref="SDM3 17.2.3")


@case(
    "REG-03",
    rule="B0-3, BD, BS, BT can be set and cleared by software; bit 12 never sets; nothing else clears them",
    requirement=("S1.3", "S1.6"),
    refs=("SDM3 17.2.3",),
)
@axis("exit_kind", BETWEEN)
@axis("causes", (0x1, 0x2, 0x4, 0x8, 0xF, DR6_BD, DR6_BS, DR6_BT, 0x1000, DR6_CAUSES), prefix="dr6_")
def test_dr6_causes_are_sticky(subject: Subject, exit_kind: str, causes: int) -> None:
    program = Program("dr6 causes")
    program.set_dr(6, DR6_INACTIVE | causes)
    force(program, exit_kind)
    set_ = program.snapshot()
    program.set_dr(6, DR6_INACTIVE)
    force(program, exit_kind)
    cleared = program.snapshot()
    result = subject.run(program)
    mask = DR6_CAUSES | 0x1000
    expect_register("dr6 set", result.snapshot(set_).dr6, causes & DR6_CAUSES, mask=mask, ref="SDM3 17.2.3")
    expect_register("dr6 cleared", result.snapshot(cleared).dr6, 0, mask=mask, ref="SDM3 17.2.3")


def _upper_bits_fault(subject: Subject, register: int, kept: int, case_id: str) -> None:
    program = Program(f"{case_id}: upper half of dr{register}")
    program.set_dr(register, kept)
    attempts = [(bit, program.execute(f"write_dr{register}", kept | 1 << bit)) for bit in range(32, 64)]
    after = program.snapshot()
    result = subject.run(program)
    for bit, attempt in attempts:
        faults = result.exceptions_of(attempt)
        expect_exceptions(f"setting bit {bit} of dr{register}", faults, "#GP", ref="SDM3 17.2.6")
        expect_register("error code", faults[0].error, 0, ref="SDM3 17.2.6")
    expect_register(f"dr{register} afterwards", result.snapshot(after)[register], kept, ref="SDM3 17.2.6")


@case(
    "REG-04",
    rule="DR6 with any bit of 63:32 set: #GP(0), old value kept",
    requirement=("S1.3",),
    refs=("SDM3 17.2.6",),
)
def test_dr6_upper_half_faults(subject: Subject) -> None:
    _upper_bits_fault(subject, 6, DR6_INACTIVE | 0x5, "REG-04")


@case(
    "REG-05",
    rule="DR7 with any bit of 63:32 set: #GP(0), old value kept",
    requirement=("S1.2", "S1.6"),
    refs=("SDM3 17.2.6",),
)
def test_dr7_upper_half_faults(subject: Subject) -> None:
    _upper_bits_fault(subject, 7, DR7_RESET | 0x3_0000, "REG-05")


@case(
    "REG-06",
    rule="DR7 bit 10 reads 1; bits 12, 14, 15 read 0 (11 too without RTM); LE and GE keep what was written",
    requirement=("S1.2", "S1.6"),
    refs=("SDM3 17.2.4", "APM2 13.1.1.4"),
)
@axis("exit_kind", BETWEEN)
def test_dr7_fixed_bits(subject: Subject, exit_kind: str) -> None:
    program = Program("dr7 bits")
    reads = []
    # No enable bits: configured breakpoints must not fire while the registers are read back.
    for value in (0, 0x100, 0x200, 0x300, 0x1000, 0x4000, 0x8000, 0xD000, 0xFFFF_0000, 0xFFFF_D700):
        program.set_dr(7, value)
        force(program, exit_kind)
        reads.append((value, program.snapshot()))
    result = subject.run(program)
    for value, read in reads:
        expected = dr7_readback(value, rtm=result.has_rtm)
        expect_register(f"dr7 after {value:#x}", result.snapshot(read).dr7, expected, ref="SDM3 17.2.4")


@case(
    "REG-06",
    rule="DR7 bit 11 reads 0 unless RTM is offered",
    requirement=("S1.2", "S1.6"),
    refs=("SDM3 17.2.4", "APM2 13.1.1.4"),
    expected=(
        Expected(
            "EMULATOR-DR7-RTM",
            "PRODUCT-REGISTER-MISMATCH",
            "Bochs 2.7 keeps bit 11 of DR7 although its CPU model does not offer RTM",
            kinds=("bare", "emulated", "bochs"),
        ),
    ),
)
def test_dr7_rtm_bit(subject: Subject) -> None:
    program = Program("dr7 bit 11")
    program.set_dr(7, DR7_RESET | DR7_RTM)
    read = program.snapshot()
    result = subject.run(program)
    expected = dr7_readback(DR7_RTM, rtm=result.has_rtm)
    expect_register("dr7", result.snapshot(read).dr7, expected, ref="SDM3 17.2.4")


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


@case(
    "REG-12",
    rule="MOV DR at CPL 3 is #GP(0) for reads and writes of all eight numbers",
    requirement=("S1.6",),
    refs=("SDM3 17.2",),
)
@axis("register", (0, 1, 2, 3, 4, 5, 6, 7), prefix="dr")
@axis("direction", ("read", "write"))
def test_user_mode_may_not_touch(subject: Subject, register: int, direction: str) -> None:
    program = Program("CPL 3 access")
    program.set_dr(0, 0x1234)
    denied = program.execute(f"{direction}_dr{register}", 0x400, user=True)
    after = program.snapshot()
    allowed = program.execute("read_dr0", result=True)
    result = subject.run(program)
    found = result.exceptions_of(denied)
    expect_exceptions(f"{direction} of dr{register} at CPL 3", found, "#GP", ref="SDM3 17.2")
    expect_register("error code", found[0].error, 0, ref="SDM3 17.2")
    expect_register("cpl", found[0].cs, 3, mask=3)
    expect_register("dr0 afterwards", result.snapshot(after).dr0, 0x1234)
    expect_register("dr7 afterwards", result.snapshot(after).dr7, DR7_RESET)
    expect_register("dr0 read at CPL 0", result.value(allowed), 0x1234)
