"""DEBUGCTL, branch records, bus locks and transactional memory (CTL).

bhyve offers DEBUGCTL to no guest: what is pinned down is that policy, and that neither side reaches the other's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harness.cases import axis, case
from harness.errors import HostStateMismatch
from harness.expect import expect_equal, expect_exceptions, expect_register
from harness.guest import Program
from harness.guest.registers import DR6_BS, DR6_INACTIVE, DR7_RESET
from harness.subjects import Subject
from suites.guestlib import BUSY, force
from suites.vocabulary import GUEST_EXITS

DEBUGCTL = 0x1D9
#: Last branch and last exception, from and to: the pair that both vendors have had at these numbers.
BRANCH_RECORDS = (0x1DB, 0x1DC, 0x1DD, 0x1DE)
#: VM exits of a run: an emulator takes a second for what a processor does in a thousandth of that.
EXITS = {True: 2000, False: 10_000}
LBR, BTF, BUS_LOCK = 1 << 0, 1 << 1, 1 << 2
#: Bits that some processor defines; the others fault on any.
BITS = (*range(16),)
DR6_BLD, DR6_RTM, DR7_RTM = 1 << 11, 1 << 16, 1 << 11
REF = "SDM3 17.4.1"


@contextmanager
def host_debugctl(subject: Subject, cpu: int, value: int) -> Iterator[int]:
    """DEBUGCTL of a host CPU, set for the time of the context; what reads back."""
    before = subject.host.rdmsr(cpu, DEBUGCTL)
    subject.host.wrmsr(cpu, DEBUGCTL, value)
    try:
        yield subject.host.rdmsr(cpu, DEBUGCTL)
    finally:
        subject.host.wrmsr(cpu, DEBUGCTL, before)


@case(
    "CTL-01",
    rule="Guest RDMSR and WRMSR of DEBUGCTL: #GP by default, and nothing of it reaches the debug registers",
    requirement="S1.2",
    refs=(REF,),
    needs=("bhyve",),
)
def test_debugctl_faults_by_default(subject: Subject) -> None:
    program = Program("DEBUGCTL")
    read = program.rdmsr(DEBUGCTL)
    writes = [(value, program.wrmsr(DEBUGCTL, value)) for value in (0, LBR, BTF, LBR | BTF)]
    after = program.snapshot()
    steps = program.execute("step_nops")
    result = subject.run(program)
    for what, handle in (("RDMSR", read), *((f"WRMSR of {value:#x}", write) for value, write in writes)):
        faults = result.exceptions_of(handle)
        expect_exceptions(what, faults, "#GP", ref=REF)
        expect_register("error code", faults[0].error, 0, ref=REF)
    expect_register("dr6", result.snapshot(after).dr6, DR6_INACTIVE, ref=REF)
    expect_register("dr7", result.snapshot(after).dr7, DR7_RESET, ref=REF)
    # With BTF in force only branches would be stepped.
    inside = [record for record in result.exceptions_of(steps) if record.site < record.rip <= record.next]
    expect_equal("stepped instructions", len(inside), 4, ref=REF)


@case(
    "CTL-01",
    rule="In the lenient mode DEBUGCTL reads 0 and swallows writes: single steps stay single steps",
    requirement="S1.2",
    refs=(REF,),
    needs=("bhyve",),
)
def test_debugctl_is_nothing_in_the_lenient_mode(subject: Subject) -> None:
    program = Program("lenient DEBUGCTL")
    first = program.rdmsr(DEBUGCTL)
    write = program.wrmsr(DEBUGCTL, LBR | BTF)
    program.exit("cpuid", 2)
    then = program.rdmsr(DEBUGCTL)
    steps = program.execute("step_nops")
    result = subject.run(program, lenient_msrs=True)
    expect_exceptions("WRMSR", result.exceptions_of(write), ref=REF)
    expect_register("DEBUGCTL at first", result.value(first), 0, ref=REF)
    expect_register("DEBUGCTL after a write", result.value(then), 0, ref=REF)
    inside = [record for record in result.exceptions_of(steps) if record.site < record.rip <= record.next]
    expect_equal("stepped instructions", len(inside), 4, ref=REF)


@case(
    "CTL-02",
    rule="Every single bit of DEBUGCTL written by the guest leaves host DEBUGCTL of that CPU unchanged",
    requirement="S1.2",
    refs=(REF, "APM2 15.23"),
    needs=("bhyve", "debugctl"),
)
@axis("lenient", (False, True))
def test_guest_writes_do_not_reach_the_host(subject: Subject, lenient: bool) -> None:
    program = Program("every bit of DEBUGCTL")
    for bit in BITS:
        program.wrmsr(DEBUGCTL, 1 << bit)
        program.exit("cpuid")
    with host_debugctl(subject, 0, LBR) as planted:
        subject.run(program, pin=0, lenient_msrs=lenient)
        after = subject.host.rdmsr(0, DEBUGCTL)
    expect_equal("host DEBUGCTL", after, planted, ref=REF, error=HostStateMismatch)


@case(
    "CTL-03",
    rule="Host DEBUGCTL, with branch recording on, is the same after many VM exits of each kind",
    requirement="S1.4",
    refs=("SDM3 27.5.1",),
    needs=("bhyve", "host-debugctl"),
)
@axis("kind", ("cpuid", "out80", "first_touch", "hlt_timer", "busy"))
def test_the_hosts_debugctl_survives(subject: Subject, kind: str) -> None:
    program = Program("many exits under branch recording")
    exits = EXITS[subject.platform.emulated]
    program.exit(kind, {"busy": exits // 100 * BUSY, "hlt_timer": 100}.get(kind, exits))
    with host_debugctl(subject, 0, LBR) as planted:
        subject.run(program, pin=0, seconds=120)
        after = subject.host.rdmsr(0, DEBUGCTL)
    expect_equal("host DEBUGCTL", after, planted, ref="SDM3 27.5.1", error=HostStateMismatch)


@case(
    "CTL-03",
    rule="Host DEBUGCTL, with branch recording and branch stepping on, is the same after an exit of every kind",
    requirement="S1.4",
    refs=("SDM3 27.5.1",),
    needs=("bhyve", "host-debugctl"),
)
def test_no_bit_of_the_hosts_debugctl_is_lost(subject: Subject) -> None:
    program = Program("an exit of every kind")
    for kind in GUEST_EXITS:
        # A bit that one exit loses is gone for good: the next entry puts aside what is left.
        force(program, kind)
    with host_debugctl(subject, 0, LBR | BTF) as planted:
        subject.run(program, pin=0)
        after = subject.host.rdmsr(0, DEBUGCTL)
    expect_equal("host DEBUGCTL", after, planted, ref="SDM3 27.5.1", error=HostStateMismatch)


@case(
    "CTL-04",
    rule="Host BTF set: the guest's single steps stay single steps, and the host's DEBUGCTL survives them",
    requirement=("S1.2", "S1.4"),
    refs=("SDM3 17.4.3",),
    priority=2,
    needs=("bhyve", "debugctl"),
)
def test_the_hosts_branch_stepping_stays_there(subject: Subject) -> None:
    program = Program("steps under the host's BTF")
    steps = [program.execute("step_nops") for _ in range(3)]
    program.exit("cpuid", 20)
    steps.append(program.execute("step_nops"))
    with host_debugctl(subject, 0, BTF) as planted:
        result = subject.run(program, pin=0)
        after = subject.host.rdmsr(0, DEBUGCTL)
    for handle in steps:
        inside = [record for record in result.exceptions_of(handle) if record.site < record.rip <= record.next]
        expect_equal("stepped instructions", len(inside), 4, ref="SDM3 17.4.3")
        for record in inside:
            expect_register("dr6.bs", record.dr6, DR6_BS, mask=DR6_BS, ref="SDM3 17.4.3")
    expect_equal("host DEBUGCTL", after, planted, ref="SDM3 17.4.3", error=HostStateMismatch)


@case(
    "CTL-05",
    rule="Guest branch-record MSRs follow the policy of unknown ones: #GP, or 0 in the lenient mode; no host address",
    requirement="S1.4",
    refs=("APM2 15.23",),
    priority=2,
    needs=("bhyve",),
)
@axis("lenient", (False, True))
def test_branch_records_are_not_offered(subject: Subject, lenient: bool) -> None:
    program = Program("branch records")
    program.exit("cpuid", 10)
    reads = [(msr, program.rdmsr(msr)) for msr in BRANCH_RECORDS]
    result = subject.run(program, lenient_msrs=lenient)
    for msr, read in reads:
        faults = result.exceptions_of(read)
        expect_exceptions(f"RDMSR of {msr:#x}", faults, *([] if lenient else ["#GP"]), ref="APM2 15.23")
        if lenient:
            expect_register(f"MSR {msr:#x}", result.value(read), 0, ref="APM2 15.23")


@case(
    "CTL-06",
    rule="Bus-lock detection is offered or hidden as a whole: CPUID bit, DR6 bit 11, DEBUGCTL bit 2",
    requirement="S1.2",
    refs=("SDM3 17.3.1.6?",),
    priority=2,
    needs=("bhyve",),
)
@axis("exit_kind", ("none", "cpuid"))
def test_bus_lock_detection_is_whole(subject: Subject, exit_kind: str) -> None:
    program = Program("bus lock")
    program.set_dr(6, DR6_INACTIVE & ~DR6_BLD)
    program.exit(exit_kind)
    cleared = program.snapshot()
    program.set_dr(6, DR6_INACTIVE)
    write = program.wrmsr(DEBUGCTL, BUS_LOCK)
    watched = program.watched(16, align=64)
    store = program.store(watched, 8, how="lock_add")
    after = program.snapshot()
    result = subject.run(program)
    offered = result.has_bus_lock_detect
    expected = 0 if offered else DR6_BLD
    expect_register("dr6.bld after it was cleared", result.snapshot(cleared).dr6, expected, mask=DR6_BLD)
    expect_exceptions("WRMSR of DEBUGCTL.BLD", result.exceptions_of(write), *([] if offered else ["#GP"]))
    expect_exceptions("a locked access", result.exceptions_of(store))
    expect_register("dr6.bld at the end", result.snapshot(after).dr6, DR6_BLD, mask=DR6_BLD)


@case(
    "CTL-07",
    rule="RTM is offered or hidden as a whole: DR7 bit 11 is writable, DR6 bit 16 can be cleared, or both are fixed",
    requirement="S1.2",
    refs=("SDM3 17.3.3",),
    priority=3,
    vendors=("intel",),
)
@axis("exit_kind", ("none", "cpuid"))
def test_transactional_debugging_is_whole(subject: Subject, exit_kind: str) -> None:
    program = Program("RTM")
    program.set_dr(6, DR6_INACTIVE & ~DR6_RTM)
    program.set_dr(7, DR7_RESET | DR7_RTM)
    program.exit(exit_kind)
    after = program.snapshot()
    result = subject.run(program)
    seen = result.snapshot(after)
    expect_register("dr6.rtm", seen.dr6, 0 if result.has_rtm else DR6_RTM, mask=DR6_RTM, ref="SDM3 17.3.3")
    expect_register("dr7.rtm", seen.dr7, DR7_RTM if result.has_rtm else 0, mask=DR7_RTM, ref="SDM3 17.3.3")
