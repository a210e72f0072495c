"""The host tool's view of a guest's debug registers (API)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from harness.cases import Stress, axis, case
from harness.errors import ToolMismatch
from harness.expect import expect_equal, expect_exceptions, expect_register, expect_silence, expect_trap
from harness.guest import Program
from harness.guest.registers import DR6_BS, DR6_CAUSES, DR6_INACTIVE, DR7_RESET, dr7
from harness.subjects import Subject
from suites.guestlib import BUSY
from suites.vocabulary import DISTINCT, REGISTERS

NAMES = ("dr0", "dr1", "dr2", "dr3", "dr6", "dr7")
#: Armed for nothing: enable bits of all four registers off, types and lengths on.
QUIET_DR7 = DR7_RESET | 0xFFFF_0000


@case(
    "API-01",
    rule="Guest-written DR0-3, 6, 7 are printed identically by the host tool while the guest is parked",
    requirement="S1.7",
    needs=("bhyvectl",),
)
@axis("round_", range(4), prefix="pattern")
def test_the_tool_prints_what_the_guest_wrote(subject: Subject, round_: int) -> None:
    values = [(value << round_ * 4 | round_) & (1 << 64) - 1 for value in DISTINCT]
    dr6 = DR6_INACTIVE | 1 << round_
    program = Program("guest writes, host reads")
    for n, value in enumerate(values):
        program.set_dr(n, value)
    program.set_dr(6, dr6)
    program.set_dr(7, QUIET_DR7)
    program.sync(1)
    after = program.snapshot()
    with subject.start(program) as guest:
        guest.wait_phase(1)
        seen = guest.registers(*NAMES)
        again = guest.registers(*NAMES)
        guest.go()
        result = guest.finish()
    for n in REGISTERS:
        expect_register(f"--get-dr{n}", seen[f"dr{n}"], values[n])
    expect_register("--get-dr6", seen["dr6"], dr6, mask=DR6_CAUSES)
    expect_register("--get-dr7", seen["dr7"], QUIET_DR7)
    for name in NAMES:
        expect_register(f"--get-{name}, read again", again[name], seen[name])
    for n in REGISTERS:
        expect_register(f"dr{n} in the guest afterwards", result.snapshot(after)[n], values[n])


@case(
    "API-02",
    rule="Host-set DR0-3, 6, 7 are read identically by the guest after resume, each register, several patterns",
    requirement="S1.7",
    needs=("bhyvectl",),
)
@axis("register", NAMES)
@axis("pattern", (0, 1, 2), prefix="pattern")
def test_the_guest_reads_what_the_tool_set(subject: Subject, register: str, pattern: int) -> None:
    values = {
        "dr6": (DR6_INACTIVE | 0xF, DR6_INACTIVE | DR6_BS, DR6_INACTIVE)[pattern],
        "dr7": (QUIET_DR7, DR7_RESET | 0x300, DR7_RESET | 0x5555_0000)[pattern],
    }
    value = values.get(register, (0xDEAD_BEEF_0BAD_F00D, 0x5A5A_5A5A_5A5A_5A5A, 1)[pattern])
    program = Program("host writes, guest reads")
    for n, distinct in enumerate(DISTINCT):
        program.set_dr(n, distinct)
    program.sync(1)
    after = program.snapshot()
    with subject.start(program) as guest:
        guest.wait_phase(1)
        guest.set_registers(**{register: value})
        guest.go()
        observed = guest.finish().snapshot(after)
    number = int(register[2:])
    mask = DR6_CAUSES if number == 6 else ~0
    expect_register(f"{register} in the guest", observed[number], value, mask=mask)
    for n in REGISTERS:
        if n != number:
            expect_register(f"dr{n}, not set by the host", observed[n], DISTINCT[n])


@case(
    "API-03",
    rule="Host-set DR0 and DR7 arm: a guest that never wrote a debug register gets #DB; host-cleared DR7 disarms",
    requirement=("S1.7", "S1.1"),
    needs=("bhyvectl",),
)
@axis("register", REGISTERS, prefix="dr")
def test_the_tool_can_arm_and_disarm(subject: Subject, register: int) -> None:
    program = Program("armed by the host")
    watched = program.watched()
    before = program.store(watched)
    program.sync(1)
    armed = program.store(watched)
    program.sync(2)
    disarmed = program.store(watched)
    with subject.start(program) as guest:
        guest.wait_phase(1)
        guest.set_registers(**{f"dr{register}": watched, "dr7": dr7(register, "write", 8, "L")})
        guest.go()
        guest.wait_phase(2)
        guest.set_registers(dr7=DR7_RESET)
        guest.go()
        result = guest.finish()
    expect_silence("the store before", result.exceptions_of(before))
    hits = result.exceptions_of(armed)
    expect_exceptions("the store after arming", hits, "#DB")
    expect_trap(hits[0], dr=register)
    expect_silence("the store after disarming", result.exceptions_of(disarmed))


@case(
    "API-04",
    rule="Set then get without running returns what was set; the other registers keep their values",
    requirement="S1.7",
    needs=("bhyvectl",),
)
@axis("register", NAMES)
def test_set_then_get_without_running(subject: Subject, register: str) -> None:
    program = Program("set then get")
    for n, distinct in enumerate(DISTINCT):
        program.set_dr(n, distinct)
    program.sync(1)
    values = {"dr6": DR6_INACTIVE | 0x6, "dr7": QUIET_DR7}
    value = values.get(register, 0x0123_4567_89AB_CDEF)
    with subject.start(program) as guest:
        guest.wait_phase(1)
        before = guest.registers(*NAMES)
        guest.set_registers(**{register: value})
        after = guest.registers(*NAMES)
        guest.go()
        guest.finish()
    expect_register(f"--get-{register} after --set-{register}", after[register], value)
    for name in NAMES:
        if name != register:
            expect_register(f"--get-{name}, not set", after[name], before[name])


@case(
    "API-04",
    rule="What is set and read belongs to the vCPU, on whatever CPU it was last",
    requirement="S1.7",
    needs=("bhyvectl", "migration"),
)
@axis("moved", ("before_reading", "before_writing"))
def test_the_tool_follows_a_vcpu_that_moved(subject: Subject, moved: str) -> None:
    """The guest's registers change on the CPU it came to; the tool sees these, and not what it left behind."""
    newer = tuple(value ^ 0xFFFF_0000 for value in DISTINCT)
    program = Program("moved between reads")
    for n, value in enumerate(DISTINCT):
        program.set_dr(n, value)
    program.sync(1)
    for n, value in enumerate(newer):
        program.set_dr(n, value)
    program.exit("out80")
    program.sync(2)
    after = program.snapshot()
    names = tuple(f"dr{n}" for n in REGISTERS)
    with subject.start(program, pin=0) as guest:
        guest.wait_phase(1)
        here = guest.registers(*names)
        if moved == "before_writing":
            guest.pin(1)
        guest.go()
        guest.wait_phase(2)
        if moved == "before_reading":
            guest.pin(1)
        there = guest.registers(*names)
        guest.set_registers(dr2=0x0BAD_CAFE)
        again = guest.registers(*names)
        guest.pin(0)
        guest.go()
        observed = guest.finish().snapshot(after)
    for n, name in enumerate(names):
        expect_register(f"--get-{name} on the first CPU", here[name], DISTINCT[n])
        expect_register(f"--get-{name} behind the move", there[name], newer[n])
        kept = 0x0BAD_CAFE if name == "dr2" else newer[n]
        expect_register(f"--get-{name} behind --set-dr2", again[name], kept)
        expect_register(f"{name} in the guest, back on the first CPU", observed[n], kept)


@case(
    "API-06",
    rule="DR7 with upper bits is refused with an error and changes nothing; the guest lives on",
    requirement="S1.7",
    refs=("SDM3 26.3.1.1", "APM2 15.5.1"),
    priority=2,
    needs=("bhyvectl",),
)
@axis("bit", (32, 47, 63), prefix="bit")
def test_dr7_with_upper_bits_is_refused(subject: Subject, bit: int) -> None:
    _refused(subject, "dr7", 1 << bit | DR7_RESET, DR7_RESET)


@case(
    "API-07",
    rule="DR6 with upper bits is refused with an error and never reaches the host's MOV",
    requirement="S1.7",
    refs=("SDM3 17.2.6",),
    priority=2,
    needs=("bhyvectl", "tool-validates"),
)
@axis("bit", (32, 47, 63), prefix="bit")
def test_dr6_with_upper_bits_is_refused(subject: Subject, bit: int) -> None:
    _refused(subject, "dr6", 1 << bit | DR6_INACTIVE, DR6_INACTIVE)


def _refused(subject: Subject, register: str, value: int, kept: int) -> None:
    program = Program(f"bad {register}")
    program.sync(1)
    program.exit("cpuid", 3)
    after = program.snapshot()
    with subject.start(program) as guest:
        guest.wait_phase(1)
        accepted = guest.try_set_registers(**{register: value})
        # Judged before the guest goes on: with the value in place it might not live to tell.
        expect_equal(f"--set-{register}={value:#x} accepted", accepted, False, error=ToolMismatch)
        expect_register(f"--get-{register} afterwards", guest.registers(register)[register], kept)
        guest.go()
        result = guest.finish()
    expect_register(f"{register} in the guest", result.snapshot(after)[int(register[2:])], kept)


@case(
    "API-05",
    rule="Set and get on a running vCPU take effect without loss, while the guest steps",
    requirement="S1.7",
    priority=2,
    needs=("bhyvectl",),
)
def test_set_and_get_while_the_guest_steps(subject: Subject, stress: Stress) -> None:
    passes, repetitions = 4000 * stress.scale, 8 * stress.scale
    program = Program("steps while its registers are set")
    for n, distinct in enumerate(DISTINCT):
        program.set_dr(n, distinct)
    program.handler("count")
    program.sync(1, "announce")
    program.execute("step_loop", passes)
    counted = program.counted()
    program.exit("busy", BUSY)
    program.sync(2)
    after = program.snapshot()
    last = dict(zip(("dr0", "dr1", "dr2", "dr3"), DISTINCT, strict=True))
    with subject.start(program) as guest:
        guest.wait_phase(1)
        for _ in range(repetitions):
            name, value = stress.random.choice(sorted(last)), stress.random.getrandbits(64)
            guest.set_registers(**{name: value})
            last[name] = value
            seen = guest.registers(*last)
            for register, expected in last.items():
                expect_register(f"--get-{register} while the guest runs", seen[register], expected)
        guest.wait_phase(2)
        guest.go()
        result = guest.finish()
    # Two instructions a pass, and three more until TF is clear again: no step was lost, none came twice.
    expect_equal("steps taken meanwhile", result.counted(counted).count, 2 * passes + 3)
    expect_register("dr6.bs of every step", result.counted(counted).dr6_all, DR6_BS, mask=DR6_BS)
    for n in REGISTERS:
        expect_register(f"dr{n} in the guest at the end", result.snapshot(after)[n], last[f"dr{n}"])


@case(
    "API-08",
    rule="A bulk read equals the single reads",
    requirement="S1.7",
    priority=2,
    needs=("bhyvectl",),
)
def test_bulk_and_single_reads_agree(subject: Subject) -> None:
    program = Program("read in bulk")
    for n, distinct in enumerate(DISTINCT):
        program.set_dr(n, distinct)
    program.set_dr(6, DR6_INACTIVE | 0x9)
    program.set_dr(7, QUIET_DR7)
    program.sync(1)
    with subject.start(program) as guest:
        guest.wait_phase(1)
        everything = guest.all_registers(*NAMES, "cr0", "cr4", "efer")
        together = guest.registers(*NAMES, "cr0", "cr4", "efer")
        single = {name: guest.registers(name)[name] for name in everything}
        guest.go()
        guest.finish()
    for name, value in single.items():
        expect_register(f"{name} out of --get-all", everything[name], value)
        expect_register(f"{name} out of one call with others", together[name], value)
    for n in REGISTERS:
        expect_register(f"--get-dr{n}", single[f"dr{n}"], DISTINCT[n])


@case(
    "API-08",
    rule="A read that fails can be told from one that succeeds",
    requirement="S1.7",
    priority=2,
    needs=("bhyvectl",),
)
def test_a_failing_read_is_detectable(subject: Subject) -> None:
    # More than any release takes; some make vCPUs up to their limit readable whether bhyve uses them or not.
    vcpu = 4096
    program = Program("one vCPU only")
    program.sync(1)
    with subject.start(program) as guest:
        guest.wait_phase(1)
        answered = _answers(lambda: guest.registers("dr0", vcpu=vcpu))
        control = _answers(lambda: guest.registers("dr0", vcpu=0))
        guest.go()
        guest.finish()
    expect_equal(f"--get-dr0 of vCPU {vcpu}, which does not exist, answered", answered, False, error=ToolMismatch)
    expect_equal("--get-dr0 of vCPU 0 answered", control, True, error=ToolMismatch)


@case(
    "API-09",
    rule="For a VM that does not exist the calls fail cleanly and change nothing, there or in another VM",
    requirement="S1.7",
    priority=3,
    needs=("bhyvectl", "two-vms"),
)
def test_a_missing_machine_is_refused(subject: Subject) -> None:
    program = Program("stays")
    for n, distinct in enumerate(DISTINCT):
        program.set_dr(n, distinct)
    program.sync(1)
    after = program.snapshot()
    short = Program("goes")
    short.note()
    with subject.start(program, name="stays") as stays:
        stays.wait_phase(1)
        with subject.start(short, name="goes") as goes:
            goes.finish()
            accepted = goes.try_set_registers(dr0=0xDEAD)
            answered = _answers(lambda: goes.registers("dr0"))
        control = stays.registers("dr0")
        stays.go()
        observed = stays.finish().snapshot(after)
    expect_equal("--set-dr0 of a VM that is gone accepted", accepted, False, error=ToolMismatch)
    expect_equal("--get-dr0 of a VM that is gone answered", answered, False, error=ToolMismatch)
    expect_register("--get-dr0 of the VM that is there", control["dr0"], DISTINCT[0])
    for n in REGISTERS:
        expect_register(f"dr{n} of the VM that is there", observed[n], DISTINCT[n])


@case(
    "API-09",
    rule="A user without privileges, and the superuser of a jail, are refused and change nothing",
    requirement="S1.7",
    priority=3,
    needs=("bhyvectl",),
)
@axis("by", ("nobody", "jail"))
def test_those_without_the_privilege_are_refused(subject: Subject, by: str) -> None:
    subject.host.check_as(by)
    program = Program("not theirs")
    for n, distinct in enumerate(DISTINCT):
        program.set_dr(n, distinct)
    program.sync(1)
    after = program.snapshot()
    with subject.start(program) as guest:
        guest.wait_phase(1)
        answered = _answers(lambda: guest.registers("dr0", by=by))
        accepted = guest.try_set_registers_as(by, dr0=0xDEAD)
        destroyed = guest.try_destroy(by)
        # The control: the same calls by the one who may.
        seen = guest.registers("dr0")
        control = guest.try_set_registers_as("root", dr1=0x1DEA)
        guest.go()
        observed = guest.finish().snapshot(after)
    expect_equal(f"--get-dr0 by {by} answered", answered, False, error=ToolMismatch)
    expect_equal(f"--set-dr0 by {by} accepted", accepted, False, error=ToolMismatch)
    expect_equal(f"--destroy by {by} accepted", destroyed, False, error=ToolMismatch)
    expect_register("--get-dr0 by root", seen["dr0"], DISTINCT[0])
    expect_equal("--set-dr1 by root accepted", control, True, error=ToolMismatch)
    for n in REGISTERS:
        expect_register(f"dr{n} in the guest", observed[n], 0x1DEA if n == 1 else DISTINCT[n])


def _answers(read: Callable[[], Mapping[str, int]]) -> bool:
    """Whether the tool printed what it was asked for."""
    try:
        read()
    except ToolMismatch:
        return False
    return True
