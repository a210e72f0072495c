"""Access rules of the debug registers (REG), each with and without a VM exit between write and read-back."""

from __future__ import annotations

from harness.cases import axis, case
from harness.expect import (
    expect_equal,
    expect_exceptions,
    expect_register,
    expect_silence,
    expect_that,
    expect_trap,
)
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
    VECTORS,
    dr7,
    dr7_readback,
)
from harness.subjects import Subject
from suites.guestlib import force
from suites.vocabulary import PATTERNS, REGISTERS

BETWEEN = ("none", "cpuid", "out80")
#: Name of a debug register without one of its own -> the register that it stands for while CR4.DE is clear.
ALIASES = {4: 6, 5: 7}
#: DR0_ADDR_MASK to DR3_ADDR_MASK.
ADDRESS_MASKS = (0xC001_1027, 0xC001_1019, 0xC001_101A, 0xC001_101B)


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
    looks = []
    for pattern in (*PATTERNS, *(1 << bit for bit in range(64))):
        program.set_dr(register, pattern)
        force(program, exit_kind)
        # Only a difference leaves a record.
        looks.append((pattern, program.expect_dr(register, pattern)))
    # The control: a difference does leave one.
    wrong = program.expect_dr(register, 0)
    result = subject.run(program)
    expect_silence("writing patterns", result.exceptions)
    for pattern, look in looks:
        observed = [record.value for record in result.mismatches(look)] or [pattern]
        expect_register(f"dr{register}", observed[0], pattern, ref="SDM3 17.2.6")
    last = [record.value for record in result.mismatches(wrong)]
    expect_equal("what was told of the last pattern", last, [looks[-1][0]])


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
)
def test_dr7_rtm_bit(subject: Subject) -> None:
    program = Program("dr7 bit 11")
    program.set_dr(7, DR7_RESET | DR7_RTM)
    read = program.snapshot()
    result = subject.run(program)
    expected = dr7_readback(DR7_RTM, rtm=result.has_rtm)
    expect_register("dr7", result.snapshot(read).dr7, expected, ref="SDM3 17.2.4")


@case(
    "REG-09",
    rule="CR4.DE = 0: DR4 is DR6 and DR5 is DR7, in both directions",
    requirement=("S1.2", "S1.6"),
    refs=("SDM3 17.2.2",),
    priority=2,
)
@axis("register", tuple(ALIASES), prefix="dr")
@axis("exit_kind", BETWEEN)
def test_dr4_and_dr5_are_aliases(subject: Subject, register: int, exit_kind: str) -> None:
    value = {4: DR6_INACTIVE | 0x5, 5: DR7_RESET | 0x300}[register]
    inactive = {4: DR6_INACTIVE, 5: DR7_RESET}[register]
    program = Program("aliases")
    program.debug_extensions(False)
    through_alias = program.execute(f"write_dr{register}", value)
    force(program, exit_kind)
    written = program.snapshot()
    program.set_dr(ALIASES[register], inactive)
    force(program, exit_kind)
    read = program.execute(f"read_dr{register}", result=True)
    result = subject.run(program)
    expect_silence(f"writing dr{register}", result.exceptions_of(through_alias), ref="SDM3 17.2.2")
    name = f"dr{ALIASES[register]}"
    expect_register(f"{name}, written as dr{register}", result.snapshot(written)[ALIASES[register]], value)
    expect_register(f"dr{register}, read as {name} was written", result.value(read), inactive, ref="SDM3 17.2.2")


@case(
    "REG-10",
    rule="CR4.DE = 1: any access to DR4 or DR5 is #UD and changes nothing",
    requirement=("S1.2", "S1.6"),
    refs=("SDM3 17.2.2",),
    priority=2,
)
@axis("register", tuple(ALIASES), prefix="dr")
@axis("direction", ("read", "write"))
@axis("exit_kind", BETWEEN)
def test_dr4_and_dr5_do_not_exist(subject: Subject, register: int, direction: str, exit_kind: str) -> None:
    program = Program("no aliases")
    program.debug_extensions(True)
    force(program, exit_kind)
    denied = program.execute(f"{direction}_dr{register}", DR6_INACTIVE | 0x5)
    after = program.snapshot()
    program.debug_extensions(False)
    allowed = program.execute(f"read_dr{register}")
    result = subject.run(program)
    found = result.exceptions_of(denied)
    expect_exceptions(f"{direction} of dr{register} under CR4.DE", found, "#UD", ref="SDM3 17.2.2")
    expect_register("rip", found[0].rip, found[0].site)
    expect_register("dr6 afterwards", result.snapshot(after).dr6, DR6_INACTIVE)
    expect_register("dr7 afterwards", result.snapshot(after).dr7, DR7_RESET)
    expect_silence("the same register without CR4.DE", result.exceptions_of(allowed))


#: Checks that apply together -> snippet, its argument, DR7, CR4.DE, whether at CPL 3, exceptions that may come first.
COMPETING = {
    "gd_and_de": ("read_dr4", 0, DR7_GD, True, False, ("#UD", "#DB")),
    "gd_and_upper_half": ("write_dr6", 1 << 32, DR7_GD, False, False, ("#DB", "#GP")),
    "gd_and_user": ("read_dr0", 0, DR7_GD, False, True, ("#DB", "#GP")),
    "de_and_user": ("read_dr4", 0, 0, True, True, ("#UD", "#GP")),
}


@case(
    "REG-11",
    rule="When several checks of a MOV DR apply, exactly one of their exceptions comes; which one is recorded",
    requirement=("S1.2", "S1.6"),
    priority=3,
)
@axis("checks", tuple(COMPETING))
def test_order_of_checks(subject: Subject, checks: str) -> None:
    snippet, argument, dr7_bits, extensions, user, possible = COMPETING[checks]
    program = Program(f"order of checks: {checks}")
    program.handler("disarm")
    program.debug_extensions(extensions)
    program.set_dr(7, DR7_RESET | dr7_bits)
    access = program.execute(snippet, argument, user=user)
    program.debug_extensions(False)
    program.disarm()
    # The control: none of the checks applies any more.
    allowed = program.execute(snippet)
    result = subject.run(program)
    # Under GD the handler's own accesses may be reported as well; they are not at the instruction under test.
    seen = [record.vector for record in result.exceptions_of(access) if record.rip == record.site]
    names = [name for name in possible if VECTORS[name] in seen]
    expect_that(
        f"exceptions of {snippet} with {checks}",
        len(seen) == len(names) == 1,
        " or ".join(possible),
        ", ".join(names) or f"vectors {seen}",
    )
    expect_silence("the same access when no check applies", result.exceptions_of(allowed))


@case(
    "REG-12",
    rule="MOV DR at CPL 3 is #GP(0) for reads and writes of all eight numbers, in 64-bit and compatibility mode",
    requirement=("S1.6",),
    refs=("SDM3 17.2",),
)
@axis("register", (0, 1, 2, 3, 4, 5, 6, 7), prefix="dr")
@axis("direction", ("read", "write"))
@axis("mode", ("user64", "compat"))
def test_user_mode_may_not_touch(subject: Subject, register: int, direction: str, mode: str) -> None:
    program = Program("CPL 3 access")
    program.set_dr(0, 0x1234)
    # 64-bit code takes the value from its first argument, 32-bit code from its second.
    denied = program.execute(f"{direction}_dr{register}", 0x400, 0x400, mode=mode)
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


@case(
    "REG-13",
    rule="A MOV to DR7 is effective for the very next instruction, when arming as when disarming",
    requirement=("S1.1", "S1.2", "S1.6"),
    refs=("SDM3 17.2.4",),
    priority=2,
)
@axis("register", REGISTERS, prefix="dr")
def test_dr7_counts_from_the_next_instruction(subject: Subject, register: int) -> None:
    program = Program("dr7, then a store")
    watched = program.watched()
    program.set_dr(register, watched)
    armed = program.execute("arm_store", watched, 1, dr7(register, "write", 8, "L"))
    disarmed = program.execute("disarm_store", watched, 2)
    again = program.execute("arm_store", watched, 3, dr7(register, "write", 8, "G"))
    result = subject.run(program)
    for what, handle in (("the store behind arming", armed), ("the store behind arming again", again)):
        hits = result.exceptions_of(handle)
        expect_exceptions(what, hits, "#DB", ref="SDM3 17.2.4")
        expect_trap(hits[0], dr=register)
    expect_silence("the store behind disarming", result.exceptions_of(disarmed), ref="SDM3 17.2.4")


@case(
    "REG-14",
    rule="Address-mask registers exist and mask if CPUID 8000_0001 ECX[26] offers them; else accessing them is #GP",
    requirement=("S1.3",),
    refs=("APM2 13.1",),
    priority=2,
    vendors=("amd",),
)
@axis("register", REGISTERS, prefix="dr")
def test_address_masks_are_what_cpuid_says(subject: Subject, register: int) -> None:
    program = Program("address masks")
    watched = program.watched(size=64)
    read = program.rdmsr(ADDRESS_MASKS[register])
    write = program.wrmsr(ADDRESS_MASKS[register], 0x1F)
    program.arm(dr=register, address=watched, type="write", length=1)
    masked = program.store(watched + 0x1F, 1)
    exact = program.store(watched, 1)
    result = subject.run(program)
    offered = result.features.address_masks
    refused = () if offered else ("#GP",)
    expect_exceptions("RDMSR of the address mask", result.exceptions_of(read), *refused, ref="APM2 13.1")
    expect_exceptions("WRMSR of the address mask", result.exceptions_of(write), *refused, ref="APM2 13.1")
    expected = ("#DB",) if offered else ()
    expect_exceptions("a store that only the mask lets match", result.exceptions_of(masked), *expected)
    expect_exceptions("a store to the address itself", result.exceptions_of(exact), "#DB")
