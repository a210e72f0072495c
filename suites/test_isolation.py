"""Isolation between guest and host, and between guests (ISO)."""

from __future__ import annotations

from dataclasses import replace

from harness.cases import axis, case
from harness.errors import HostStateMismatch
from harness.expect import expect_equal, expect_exceptions, expect_register, expect_silence, expect_that
from harness.guest import Handle, Program, Result
from harness.guest.registers import DR6_BD, DR6_BS, DR6_CAUSES, DR6_INACTIVE, DR7_GD, DR7_RESET, dr7
from harness.subjects import HostDebugState, Subject
from suites.guestlib import BUSY, expect_debug_registers
from suites.vocabulary import DISTINCT, REGISTERS

#: "Exact" breakpoints, which processors keep in DR7 and take no notice of.
DR7_LE, DR7_GE = 1 << 8, 1 << 9
#: What the host plants: other values than any guest here uses, DR7 armed, locally and globally, on
#: addresses that nothing touches.
PLANTED = HostDebugState(
    dr0=0xFFFF_8000_1111_0008,
    dr1=0xFFFF_8000_2222_0010,
    dr2=0xFFFF_8000_3333_0018,
    dr3=0xFFFF_8000_4444_0020,
    dr6=DR6_INACTIVE | 0x6,
    dr7=dr7(0, "write", 8, "G") | dr7(2, "write", 4, "L") | dr7(3, "readwrite", 2, "LG") | DR7_LE | DR7_GE,
)
#: The same for a thread: ptrace(2) refuses to arm an address of the kernel's half, so the armed ones are in the first
#: page, which is never mapped.
THREAD = replace(PLANTED, dr0=0x108, dr2=0x210, dr3=0x320, dr7=PLANTED.dr7 & ~(DR7_LE | DR7_GE))
#: Other values in another order, for the opposite direction.
HOSTILE = (0x9999_0000_0001_0008, 0x8888_0000_0002_0010, 0x7777_0000_0003_0018, 0x6666_0000_0004_0020)


def hostile_guest(exits: int = 5, *, kind: str = "cpuid") -> tuple[Program, Handle]:
    """A guest that fills every debug register with values of its own and leaves many times."""
    program = Program("hostile values")
    for n, value in enumerate(HOSTILE):
        program.set_dr(n, value)
    program.set_dr(6, DR6_INACTIVE | DR6_BS | DR6_BD | 0x9)
    program.set_dr(7, DR7_RESET | 0x0F00_0303)
    program.exit(kind, exits)
    return program, program.snapshot()


def expect_host_state(observed: HostDebugState, planted: HostDebugState) -> None:
    """The host CPU holds what was planted, register by register."""
    for name in ("dr0", "dr1", "dr2", "dr3"):
        expect_equal(f"host {name}", getattr(observed, name), getattr(planted, name), error=HostStateMismatch)
    causes = planted.dr6 & DR6_CAUSES
    expect_equal("host dr6 causes", observed.dr6 & DR6_CAUSES, causes, error=HostStateMismatch)
    expect_equal("host dr7", observed.dr7, planted.dr7, error=HostStateMismatch)


@case(
    "RST-01",
    rule="DR0-DR3 read 0 at the first instruction even though a pattern stood in the host CPU just before",
    requirement=("S1.3", "S1.4"),
    refs=("SDM3 9.1.1",),
    needs=("witness",),
)
def test_reset_state_with_a_pattern_in_the_host(subject: Subject) -> None:
    planted = subject.host.plant(0, PLANTED)
    expect_host_state(planted, PLANTED)  # the control: the pattern is really there
    program = Program("first look after a pattern")
    first = program.snapshot()
    result = subject.run(program, pin=0)
    for n in REGISTERS:
        expect_register(f"dr{n} at the first instruction", result.reset[n], 0, ref="SDM3 9.1.1")
        expect_register(f"dr{n}, 64 bits", result.snapshot(first)[n], 0, ref="SDM3 9.1.1")
    expect_register("dr6", result.reset.dr6, DR6_INACTIVE, ref="SDM3 9.1.1")
    expect_register("dr7", result.reset.dr7, DR7_RESET, ref="SDM3 9.1.1")


@case(
    "ISO-05",
    rule="Host DR0-DR3, and DR7 and DR6 in full, come back from a guest's stay although no breakpoint is enabled",
    requirement=("S1.4",),
    priority=2,
    needs=("witness",),
)
def test_host_addresses_come_back_without_being_enabled(subject: Subject) -> None:
    # Types and lengths are set, nothing is enabled; causes of each kind stand in DR6.
    idle = replace(PLANTED, dr6=DR6_INACTIVE | DR6_CAUSES & ~0x6, dr7=PLANTED.dr7 & ~0xFF)
    planted = subject.host.plant(0, idle)
    expect_host_state(planted, idle)  # the control: they are really there
    program, _ = hostile_guest(5)
    subject.run(program, pin=0)
    expect_host_state(subject.host.state(0), planted)


@case(
    "ISO-01",
    rule="Guest-armed write watch on linear address X: host code touching its own X on the same CPU never traps",
    requirement=("S1.4",),
    needs=("witness",),
)
@axis("register", REGISTERS, prefix="dr")
def test_a_guest_watch_does_not_fire_in_the_host(subject: Subject, register: int) -> None:
    address = subject.host.witness_variable()
    subject.host.plant(0, HostDebugState())
    program = Program("watches the host's variable")
    program.set_dr(register, address)
    program.set_dr(7, dr7(register, "write", 8, "G"))
    program.sync(1)
    program.exit("cpuid", 20)
    with subject.start(program, pin=0) as guest:
        guest.wait_phase(1)
        hits = subject.host.touch(0, 1000)
        state = subject.host.state(0)
        guest.go()
        guest.finish()
    expect_equal("debug exceptions in the host", hits, 0, error=HostStateMismatch)
    expect_equal("host dr7 enable bits", state.dr7 & 0xFF, 0, error=HostStateMismatch)
    # The control: the same touches are seen when the host itself watches.
    subject.host.plant(0, HostDebugState(dr0=address, dr7=dr7(0, "write", 8, "G")))
    expect_equal("touches seen with a host watch", subject.host.touch(0, 100), 100)
    subject.host.plant(0, HostDebugState())


@case(
    "ISO-02",
    rule="Host-armed watch on the vCPU thread: the guest touching the same linear address never gets #DB",
    requirement=("S1.4", "S1.3"),
    needs=("dbregs",),
)
@axis("register", REGISTERS, prefix="dr")
def test_a_host_watch_does_not_fire_in_the_guest(subject: Subject, register: int) -> None:
    program = Program("touches what the host watches")
    watched = program.watched()
    program.sync(1)
    program.exit("busy", BUSY)
    stores = [program.store(watched) for _ in range(3)]
    after = program.snapshot()
    state = HostDebugState(**{f"dr{register}": watched}, dr7=dr7(register, "write", 8, "L"))
    with subject.start(program, pin=0) as guest:
        guest.wait_phase(1)
        guest.set_thread_debug_registers(state)
        guest.go()
        result = guest.finish()
    for store in stores:
        expect_silence("a store to what the host watches", result.exceptions_of(store))
    expect_debug_registers(result.snapshot(after), (0, 0, 0, 0))


@case(
    "ISO-03",
    rule="Host watch of an ordinary process keeps firing with the exact count while a guest shares the CPU",
    requirement=("S1.4",),
    needs=("sentinel",),
)
def test_a_process_keeps_its_watch_beside_a_guest(subject: Subject) -> None:
    program, _ = hostile_guest(10)
    program.sync(1)
    program.exit("busy", 6 * BUSY)
    with subject.start(program, pin=0) as guest:
        guest.wait_phase(1)
        with subject.host.sentinel(0, watch=True) as sentinel:
            guest.go()
            guest.finish()
            report = sentinel.stop()
    expect_that("the process ran", report.touches > 0, "touches", f"{report.touches}")
    expect_equal("hits of its watch", report.hits, report.touches, error=HostStateMismatch)
    expect_equal("traps it cannot explain", report.foreign, 0, error=HostStateMismatch)
    expect_equal("its dr0 at the end", report.registers.dr0, report.address, error=HostStateMismatch)


@case(
    "ISO-04",
    rule="Debug registers set on the vCPU thread through ptrace read back identical after many VM exits",
    requirement=("S1.4",),
    needs=("dbregs",),
)
@axis("kind", ("cpuid", "out80"))
def test_the_threads_own_registers_survive_running_a_guest(subject: Subject, kind: str) -> None:
    program = Program("many exits under a debugged thread")
    program.sync(1)
    for n, value in enumerate(HOSTILE):
        program.set_dr(n, value)
    program.set_dr(6, DR6_INACTIVE | 0x9)
    program.set_dr(7, DR7_RESET | 0x300)
    program.exit(kind, 300)
    program.sync(2)
    after = program.snapshot()
    with subject.start(program, pin=0) as guest:
        guest.wait_phase(1)
        guest.set_thread_debug_registers(THREAD)
        guest.go()
        guest.wait_phase(2)
        observed = guest.thread_debug_registers()
        guest.go()
        result = guest.finish()
    # DR7 of a thread that is off its CPU keeps no enable bits in bits 10-15 but those of the hardware.
    for name in ("dr0", "dr1", "dr2", "dr3"):
        expect_equal(f"thread's {name}", getattr(observed, name), getattr(THREAD, name), error=HostStateMismatch)
    expect_equal("thread's dr6 causes", observed.dr6 & 0xF00F, THREAD.dr6 & 0xF00F, error=HostStateMismatch)
    expect_equal("thread's dr7", observed.dr7 & 0xFFFF_03FF, THREAD.dr7 & 0xFFFF_03FF, error=HostStateMismatch)
    expect_debug_registers(
        result.snapshot(after), HOSTILE, dr6=DR6_INACTIVE | 0x9, dr7=DR7_RESET | 0x300
    )


@case(
    "ISO-05",
    rule="Hardware DR0-3, 6, 7 of the host CPU, planted by a helper module, read back identical after guest runs",
    requirement=("S1.4",),
    priority=2,
    needs=("witness",),
)
@axis("kind", ("cpuid", "out80", "busy", "first_touch"))
@axis("cpu", (0, 1), prefix="cpu")
def test_the_hosts_registers_survive_a_hostile_guest(subject: Subject, kind: str, cpu: int) -> None:
    expect_host_state(subject.host.plant(cpu, PLANTED), PLANTED)
    program, after = hostile_guest(BUSY if kind == "busy" else 20, kind=kind)
    result = subject.run(program, pin=cpu)
    expect_host_state(subject.host.state(cpu), PLANTED)
    for n, value in enumerate(HOSTILE):
        expect_register(f"guest dr{n}", result.snapshot(after)[n], value)


def _two_guests(subject: Subject, rounds: int) -> list[tuple[tuple[int, ...], int, list[Handle], Result]]:
    """Two VMs on one CPU, each with its own values, let go by turns so that they alternate."""
    prepared = []
    for values, causes, bits in ((DISTINCT, 0x1, 0x100), (HOSTILE, 0x8, 0x200)):
        program = Program("one of two")
        for n, value in enumerate(values):
            program.set_dr(n, value)
        program.set_dr(6, DR6_INACTIVE | causes)
        program.set_dr(7, DR7_RESET | bits)
        snapshots = []
        for phase in range(1, rounds + 1):
            program.sync(phase)
            program.exit("busy", BUSY // 4)
            snapshots.append(program.snapshot())
        prepared.append((values, causes, bits, snapshots, program))
    one, two = prepared
    with subject.start(one[4], pin=0, name="one") as first, subject.start(two[4], pin=0, name="two") as second:
        for phase in range(1, rounds + 1):
            first.wait_phase(phase)
            second.wait_phase(phase)
            first.go()
            second.go()
        results = (first.finish(), second.finish())
    return [
        (values, DR6_INACTIVE | causes, snapshots, result)
        for (values, causes, _, snapshots, _), result in zip(prepared, results, strict=True)
    ]


@case(
    "ISO-06",
    rule="Two VMs pinned to one CPU with different DR0-3/6/7 each read back their own values",
    requirement=("S1.3",),
    needs=("two-vms",),
)
def test_two_guests_on_one_cpu_keep_their_own(subject: Subject) -> None:
    for values, dr6, snapshots, result in _two_guests(subject, 3):
        bits = 0x100 if values == DISTINCT else 0x200
        for snapshot in snapshots:
            observed = result.snapshot(snapshot)
            expect_debug_registers(
                observed, (values[0], values[1], values[2], values[3]), dr6=dr6, dr7=DR7_RESET | bits
            )


@case(
    "ISO-06",
    rule="Two VMs pinned to one CPU with different XCR0 each keep their own, and what it switches on",
    requirement=("S5.1",),
    needs=("two-vms",),
)
def test_two_guests_on_one_cpu_keep_their_own_xcr0(subject: Subject) -> None:
    rounds = 3
    programs, reads, vectors = [], [], []
    for wide in (True, False):
        program = Program(f"XCR0 {'with' if wide else 'without'} AVX state")
        # XSETBV with the present value switches CR4.OSXSAVE on and changes nothing; the AVX load asks for AVX state.
        program.execute("xsetbv")
        watched = program.watched(size=64)
        if wide:
            program.load(watched, 32)
        mine = []
        for phase in range(1, rounds + 1):
            program.sync(phase)
            program.exit("busy", BUSY // 4)
            mine.append(program.execute("xgetbv", result=True))
        programs.append(program)
        reads.append(mine)
        vectors.append(program.load(watched, 32))
    with (
        subject.start(programs[0], pin=0, name="one") as first,
        subject.start(programs[1], pin=0, name="two") as second,
    ):
        for phase in range(1, rounds + 1):
            first.wait_phase(phase)
            second.wait_phase(phase)
            first.go()
            second.go()
        results = (first.finish(), second.finish())
    for expected, mine, vector, result in zip((0x7, 0x1), reads, vectors, results, strict=True):
        for read in mine:
            expect_register("xcr0", result.value(read), expected, mask=0xFFFF_FFFF)
        expect_silence("an AVX load afterwards", result.exceptions_of(vector))


@case(
    "ISO-08",
    rule="Sticky DR6 bits do not cross: guest BS, Bn, BD never appear in the host's DR6, nor the reverse",
    requirement=("S1.3", "S1.4"),
    refs=("SDM3 24.4.2",),
    needs=("witness",),
)
@axis("causes", (0x1, 0x2, 0x4, 0x8, DR6_BS, DR6_BD), prefix="dr6_")
def test_dr6_causes_do_not_cross(subject: Subject, causes: int) -> None:
    other = (DR6_CAUSES & ~causes) & 0xF
    subject.host.plant(0, HostDebugState(dr6=DR6_INACTIVE | other))
    program = Program("dr6 causes")
    program.set_dr(6, DR6_INACTIVE | causes)
    program.exit("cpuid", 10)
    program.exit("out80", 10)
    after = program.snapshot()
    result = subject.run(program, pin=0)
    expect_register("guest dr6", result.snapshot(after).dr6, causes, mask=DR6_CAUSES, ref="SDM3 24.4.2")
    observed = subject.host.state(0).dr6 & DR6_CAUSES
    expect_equal("host dr6 causes", observed, other, ref="SDM3 24.4.2", error=HostStateMismatch)


@case(
    "ISO-09",
    rule="After a VM is destroyed its CPU has inactive DR7 and working debug registers for a fresh process",
    requirement=("S1.4",),
    priority=2,
    needs=("witness", "sentinel"),
)
@axis("cpu", (0, 1), prefix="cpu")
def test_debug_registers_work_after_destroy(subject: Subject, cpu: int) -> None:
    subject.host.plant(cpu, HostDebugState())
    _leave_armed(subject, cpu)
    _expect_usable(subject, cpu)


@case(
    "ISO-09",
    rule="After vmm.ko is unloaded the CPU has inactive DR7 and working debug registers for a fresh process",
    requirement=("S1.4",),
    priority=2,
    needs=("witness", "sentinel"),
)
def test_debug_registers_work_after_unloading(subject: Subject) -> None:
    subject.host.plant(0, HostDebugState())
    _leave_armed(subject, 0)
    with subject.host.without_vmm():
        _expect_usable(subject, 0)


def _leave_armed(subject: Subject, cpu: int) -> None:
    """A guest that ends with all its breakpoints on, on an address that the host's witness uses as well."""
    program = Program("ends armed")
    for n in REGISTERS:
        program.set_dr(n, subject.host.witness_variable())
    program.set_dr(6, DR6_INACTIVE | DR6_BS)
    program.set_dr(7, DR7_RESET | 0x1111_00FF)
    program.exit("cpuid", 3)
    armed = program.snapshot()
    result = subject.run(program, pin=cpu)
    # The control: the guest really had them on.
    expect_register("guest dr7", result.snapshot(armed).dr7, DR7_RESET | 0x1111_00FF)


def _expect_usable(subject: Subject, cpu: int) -> None:
    state = subject.host.state(cpu)
    expect_equal("host dr7 enable bits", state.dr7 & 0xFF, 0, error=HostStateMismatch)
    expect_equal("debug exceptions of plain touches", subject.host.touch(cpu, 100), 0, error=HostStateMismatch)
    with subject.host.sentinel(cpu, watch=True) as sentinel:
        report = sentinel.stop()
    expect_that("a fresh process ran", report.touches > 0, "touches", f"{report.touches}")
    expect_equal("hits of its watch", report.hits, report.touches, error=HostStateMismatch)
    expect_equal("traps it cannot explain", report.foreign, 0, error=HostStateMismatch)


@case(
    "ISO-10",
    rule="Guest leaves with DR7.GD = 1: host debug-register accesses after the exit do not fault",
    requirement=("S1.2", "S1.4", "S1.6"),
    refs=("SDM3 27.5.1", "APM2 15.6"),
    needs=("witness",),
)
@axis("kind", ("cpuid", "out80", "busy"))
def test_leaving_with_general_detect_set(subject: Subject, kind: str) -> None:
    subject.host.plant(0, PLANTED)
    program = Program("leaves with GD set")
    program.handler("disarm")
    program.set_dr(7, DR7_RESET | DR7_GD)
    program.exit(kind, BUSY if kind == "busy" else 20)
    access = program.execute("read_dr0")
    result = subject.run(program, pin=0)
    found = result.exceptions_of(access)
    expect_exceptions("the guest's own access under GD", found, "#DB")
    expect_register("dr6.bd", found[0].dr6, DR6_BD, mask=DR6_BD)
    expect_host_state(subject.host.state(0), PLANTED)
