"""Debug state across exits, preemption and migration (MIG)."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from harness.cases import Stress, axis, case
from harness.expect import (
    expect_equal,
    expect_exceptions,
    expect_register,
    expect_that,
    expect_trap,
    parameters,
)
from harness.guest import Handle, Program
from harness.guest.registers import DR6_BD, DR6_BS, DR6_CAUSES, DR6_INACTIVE, DR7_RESET, dr7
from harness.subjects import Subject
from suites.guestlib import BUSY, expect_debug_registers, force
from suites.vocabulary import DISTINCT, GUEST_EXITS, REGISTERS


@case(
    "MIG-01",
    rule="Armed, then one exit of each kind, then access: fires exactly once, DR0-3/6/7 unchanged",
    requirement=("S1.1", "S1.2", "S1.3", "S1.6"),
    refs=("SDM3 24.4.2",),
)
@axis("exit_kind", GUEST_EXITS)
@axis("register", REGISTERS, prefix="dr")
def test_armed_across_one_exit_of_each_kind(subject: Subject, exit_kind: str, register: int) -> None:
    program = Program("across an exit")
    watched = program.watched()
    addresses = list(DISTINCT)
    addresses[register] = watched
    for n, address in enumerate(addresses):
        program.set_dr(n, address)
    program.set_dr(6, DR6_INACTIVE)
    armed = dr7(register, "write", 8, "G")
    program.set_dr(7, armed)
    force(program, exit_kind, 3)
    between = program.snapshot()
    store = program.store(watched)
    after = program.snapshot()
    result = subject.run(program)
    everything = (addresses[0], addresses[1], addresses[2], addresses[3])
    expect_debug_registers(result.snapshot(between), everything, dr7=armed, ref="SDM3 24.4.2")
    hits = result.exceptions_of(store)
    expect_exceptions("the store", hits, "#DB")
    expect_trap(hits[0], dr=register)
    expect_debug_registers(result.snapshot(after), everything, dr7=armed, ref="SDM3 24.4.2")


#: An MSR whose writes exit and that takes the value that it has: IA32_APIC_BASE.
APIC_BASE = 0x1B
#: A count that lets the local APIC's timer end a HLT soon.
TIMER_COUNT = 50000
#: All four armed, a 1 in every bit of type and length, LE and GE: what an exit changes of DR7 shows, whatever bit.
ALL_ARMED = DR7_RESET | 0xFFFF_03FF


@case(
    "MIG-01",
    rule="An exit of every kind, one after another: no bit of DR0-3, DR6 and DR7 changes at any of them",
    requirement=("S1.1", "S1.2", "S1.3", "S1.6"),
    refs=("SDM3 24.4.2",),
)
def test_no_bit_changes_at_an_exit_of_any_kind(subject: Subject) -> None:
    program = Program("an exit of every kind")
    for n, value in enumerate(DISTINCT):
        program.set_dr(n, value)
    program.set_dr(7, ALL_ARMED)
    looks: list[tuple[str, Handle]] = []
    for kind in GUEST_EXITS:
        program.set_dr(6, DR6_INACTIVE | DR6_CAUSES)
        force(program, kind)
        looks.append((kind, program.snapshot()))
    result = subject.run(program)
    for kind, look in looks:
        seen = result.snapshot(look)
        for n, value in enumerate(DISTINCT):
            expect_register(f"dr{n} behind {kind}", seen[n], value, ref="SDM3 24.4.2")
        expect_register(f"dr6 behind {kind}", seen.dr6, DR6_INACTIVE | DR6_CAUSES, mask=DR6_CAUSES, ref="SDM3 24.4.2")
        expect_register(f"dr7 behind {kind}", seen.dr7, ALL_ARMED, ref="SDM3 24.4.2")


@case(
    "MIG-01",
    rule="What the guest writes to DR0-3 and DR6 right before an instruction that exits is there behind it",
    requirement=("S1.1", "S1.3", "S1.6"),
    refs=("SDM3 24.4.2",),
)
@axis("instruction", ("hlt", "wrmsr"))
def test_what_was_written_last_survives_the_exit(subject: Subject, instruction: str) -> None:
    """No exit between saves the registers, as the preparations of others do."""
    program = Program(f"written, then {instruction}")
    argument = {"hlt": TIMER_COUNT, "wrmsr": APIC_BASE}[instruction]
    # Outside loops and twice, so that the first values are what a register that is not saved falls back to.
    for value in (DISTINCT[0], DISTINCT[1]):
        program.execute(f"change_dr_{instruction}", argument, DR6_INACTIVE | DR6_CAUSES, value)
        after = program.snapshot()
        program.set_dr(6, DR6_INACTIVE)
        program.exit("cpuid")
    seen = subject.run(program).snapshot(after)
    for n in REGISTERS:
        expected = DISTINCT[1] ^ (0xFFFF_FFFF_FFFF_FFFF if n % 2 else 0)
        expect_register(f"dr{n} behind {instruction}", seen[n], expected, ref="SDM3 24.4.2")
    what = f"dr6 behind {instruction}"
    expect_register(what, seen.dr6, DR6_INACTIVE | DR6_CAUSES, mask=DR6_CAUSES, ref="SDM3 24.4.2")


@case(
    "MIG-01",
    rule="DR0-3, DR6 and DR7 survive exits by PAUSE, once the host has these switched on",
    requirement=("S1.1", "S1.2", "S1.3", "S1.6"),
    refs=("SDM3 24.4.2",),
    needs=("bhyvectl",),
)
def test_registers_survive_an_intercepted_pause(subject: Subject) -> None:
    pauses, name = 5, "number of times pause was intercepted"
    program = Program("intercepted PAUSE")
    program.sync(1)
    for n, value in enumerate(DISTINCT):
        program.set_dr(n, value)
    program.set_dr(6, DR6_INACTIVE | DR6_CAUSES)
    program.set_dr(7, ALL_ARMED)
    program.exit("pause", pauses)
    after = program.snapshot()
    program.sync(2)
    with subject.start(program, pin=0) as guest:
        guest.wait_phase(1)
        guest.set_capability("pause_exit", True)
        before = guest.stats()[name]
        guest.go()
        guest.wait_phase(2)
        exits = guest.stats()[name] - before
        guest.go()
        result = guest.finish()
    expect_that("exits by PAUSE", exits >= pauses, f"at least {pauses}", str(exits))
    seen = result.snapshot(after)
    for n, value in enumerate(DISTINCT):
        expect_register(f"dr{n}", seen[n], value, ref="SDM3 24.4.2")
    expect_register("dr6", seen.dr6, DR6_INACTIVE | DR6_CAUSES, mask=DR6_CAUSES, ref="SDM3 24.4.2")
    expect_register("dr7", seen.dr7, ALL_ARMED, ref="SDM3 24.4.2")


@case(
    "MIG-02",
    rule="Armed, then the vCPU moves to every host CPU in turn, access on each: fires exactly once per access",
    requirement=("S1.1", "S1.3"),
    needs=("migration",),
)
@axis("register", REGISTERS, prefix="dr")
def test_armed_across_migration(subject: Subject, register: int) -> None:
    moves, causes = (1, 0, 1, 0), (DR6_BS, DR6_BD)
    program = Program("across CPUs")
    watched = program.watched()
    addresses = list(DISTINCT)
    addresses[register] = watched
    for n, address in enumerate(addresses):
        program.set_dr(n, address)
    program.set_dr(7, dr7(register, "write", 8, "L"))
    stores = []
    for phase in range(1, len(moves) + 1):
        # Sticky causes of another kind go with the vCPU: BS and BD, as the store itself reports a breakpoint.
        program.set_dr(6, DR6_INACTIVE | causes[phase % 2])
        program.sync(phase)
        moved = program.snapshot()
        program.set_dr(6, DR6_INACTIVE)
        stores.append((moved, program.store(watched), program.snapshot()))
    with subject.start(program, pin=0) as guest:
        for phase, cpu in enumerate(moves, start=1):
            guest.wait_phase(phase)
            guest.pin(cpu)
            guest.go()
        result = guest.finish()
    for phase, (moved, store, after) in enumerate(stores, start=1):
        expect_register("dr6 on the next CPU", result.snapshot(moved).dr6, causes[phase % 2], mask=DR6_CAUSES)
        hits = result.exceptions_of(store)
        expect_exceptions("the store on the next CPU", hits, "#DB")
        expect_trap(hits[0], dr=register)
        for n, address in enumerate(addresses):
            expect_register(f"dr{n}", result.snapshot(after)[n], address)


@case(
    "MIG-03",
    rule="Armed, then preempted many times by a thread that itself uses debug registers on that CPU",
    requirement=("S1.1", "S1.3", "S1.4"),
    needs=("bhyve", "sentinel"),
)
@axis("register", REGISTERS, prefix="dr")
def test_armed_across_preemption_by_a_debugged_thread(subject: Subject, register: int) -> None:
    rounds = 8
    program = Program("preempted")
    watched = program.watched()
    program.arm(dr=register, address=watched, type="write", length=8)
    program.sync(1)
    with program.loop(rounds):
        program.exit("busy", BUSY)
        store = program.store(watched)
    after = program.snapshot()
    with subject.start(program, pin=0) as guest:
        guest.wait_phase(1)
        with subject.host.sentinel(0, watch=True) as sentinel:
            guest.go()
            result = guest.finish()
            report = sentinel.stop()
    hits = result.exceptions_of(store)
    expect_exceptions(f"{rounds} stores", hits, *["#DB"] * rounds)
    for hit in hits:
        expect_trap(hit, dr=register)
    expect_register(f"dr{register}", result.snapshot(after)[register], watched)
    expect_that("the sentinel ran on that CPU meanwhile", report.touches > 0, "touches", f"{report.touches}")
    expect_equal("hits of the sentinel's own watch", report.hits, report.touches)
    expect_equal("traps that the sentinel cannot explain", report.foreign, 0)


@case(
    "MIG-04",
    rule="Exit of each kind inside the #DB handler, before and after it reads DR6: the value is not lost or changed",
    requirement=("S1.3", "S1.6"),
    refs=("SDM3 24.4.2",),
)
@axis("exit_kind", tuple(kind for kind in GUEST_EXITS if kind != "hlt_timer"))
@axis("when", ("before", "after"))
def test_exit_inside_the_handler(subject: Subject, exit_kind: str, when: str) -> None:
    program = Program("exit inside the handler")
    watched = program.watched()
    program.handler(f"exit_{when}", "keep_dr6", exit_kind=exit_kind)
    program.arm(dr=2, address=watched, type="write", length=4)
    store = program.store(watched, 4)
    after = program.snapshot()
    result = subject.run(program)
    hits = result.exceptions_of(store)
    expect_exceptions("the store", hits, "#DB")
    expect_trap(hits[0], dr=2, ref="SDM3 24.4.2")
    expect_register("dr6 afterwards", result.snapshot(after).dr6, 1 << 2, mask=0xF00F, ref="SDM3 24.4.2")


#: Seconds for which a vCPU stands still: an emulated host has fewer of them to give away.
PAUSE = {True: 1, False: 10}
#: FreeBSD's name of the statistic that counts how often the vCPU left the guest.
EXITS = "total number of vm exits"


@case(
    "MIG-05",
    rule="vCPU stopped in the middle of its work for 10 s while another thread uses the debug registers: state intact",
    requirement=("S1.3",),
    priority=2,
    needs=("bhyve", "sentinel"),
)
@axis("register", REGISTERS, prefix="dr")
def test_state_survives_a_pause(subject: Subject, register: int) -> None:
    seconds = PAUSE[subject.platform.emulated]
    parameters(seconds_stopped=seconds)
    program = Program("paused")
    watched = program.watched()
    values = list(DISTINCT)
    values[register] = watched
    for n, value in enumerate(values):
        program.set_dr(n, value)
    armed = dr7(register, "write", 8, "G")
    program.set_dr(7, armed)
    program.set_dr(6, DR6_INACTIVE | DR6_BS)
    program.sync(1)
    after = program.snapshot()
    program.set_dr(6, DR6_INACTIVE)
    store = program.store(watched)
    with subject.start(program, pin=0) as guest:
        guest.wait_phase(1)
        # The guest looks for its go, exit by exit, when the whole process is stopped.
        guest.stop()
        with subject.host.sentinel(0, watch=True) as sentinel:
            before = guest.stats()[EXITS]
            subject.host.wait(seconds)
            meanwhile = guest.stats()[EXITS] - before
            report = sentinel.stop()
        guest.cont()
        guest.go()
        result = guest.finish()
    expect_equal("VM exits while the process was stopped", meanwhile, 0)
    expect_that("the other thread ran on that CPU meanwhile", report.touches > 0, "touches", f"{report.touches}")
    expect_equal("hits of its watch", report.hits, report.touches)
    expect_equal("traps that it cannot explain", report.foreign, 0)
    everything = (values[0], values[1], values[2], values[3])
    expect_debug_registers(result.snapshot(after), everything, dr6=DR6_INACTIVE | DR6_BS, dr7=armed)
    hits = result.exceptions_of(store)
    expect_exceptions("the store behind the pause", hits, "#DB")
    expect_trap(hits[0], dr=register)


#: vCPUs in all, spread over as many VMs: more than the CPUs of the host, so that they displace each other. FreeBSD in
#: an emulator has no time left for its own commands beside eight.
CROWD = {"bochs": 4}
CROWD_ELSEWHERE = 8
#: Exits that a member of the crowd chooses from.
CROWD_EXITS = ("cpuid", "out80", "in21", "rdmsr", "wrmsr", "lapic_mmio", "busy")


@dataclass(frozen=True, slots=True)
class Member:
    """One of a crowd of guests: its program, the register that watches, stores to what it watches, everything else that
    must leave no record, and one look at a register that must leave one."""

    program: Program
    register: int
    stores: list[Handle]
    others: list[Handle]
    control: Handle


def _member(stress: Stress, number: int, passes: int) -> Member:
    """A guest that is armed with values of its own, and in each pass leaves in a random way, looks at its registers,
    stores to what it watches and to what it does not."""
    program = Program(f"member {number} of a crowd")
    register = stress.random.randrange(4)
    watched, unwatched = program.watched(), program.watched()
    values = [stress.random.getrandbits(64) for _ in REGISTERS]
    values[register] = watched
    for n, value in enumerate(values):
        program.set_dr(n, value)
    program.set_dr(7, dr7(register, "write", 8, "G"))
    # The control: what a register does not hold is noticed.
    control = program.expect_dr(register, watched ^ 1 << 40)
    stores: list[Handle] = []
    others: list[Handle] = []
    # While the host moves vCPUs about, and once more behind its last move: nobody leaves before that.
    for phase in (1, 2):
        program.sync(phase)
        with program.loop(passes):
            for _ in range(4):
                force(program, stress.random.choice(CROWD_EXITS))
                others += [program.expect_dr(n, value) for n, value in enumerate(values)]
                others.append(program.expect_dr(7, dr7(register, "write", 8, "G")))
                stores.append(program.store(watched))
                others.append(program.store(unwatched))
    return Member(program, register, stores, others, control)


@case(
    "MIG-06",
    rule="All vCPUs armed with distinct values, random migration and exits: no hit lost, foreign or doubled",
    requirement=("S1.1", "S1.3"),
    needs=("migration", "two-vms"),
)
def test_a_crowd_of_armed_guests(subject: Subject, stress: Stress) -> None:
    passes, moves = 5 * stress.scale, 8 * stress.scale
    size = CROWD.get(subject.platform.kind, CROWD_ELSEWHERE)
    parameters(guests=size, passes=2 * passes, moves=moves)
    crowd = [_member(stress, number, passes) for number in range(size)]
    with ExitStack() as stack:
        guests = [
            stack.enter_context(
                subject.start(member.program, pin=number % 2, name=f"m{number}", seconds=60 * stress.scale)
            )
            for number, member in enumerate(crowd)
        ]
        for guest in guests:
            guest.wait_phase(1)
        for guest in guests:
            guest.go()
        for _ in range(moves):
            stress.random.choice(guests).pin(stress.random.randrange(2))
        for guest in guests:
            guest.wait_phase(2)
            guest.go()
        results = [guest.finish() for guest in guests]
    for number, (member, result) in enumerate(zip(crowd, results, strict=True)):
        noticed = result.mismatches(member.control)
        expect_equal(f"wrong values that member {number} noticed where there is one", len(noticed), 1)
        hits = [hit for store in member.stores for hit in result.exceptions_of(store)]
        expect_exceptions(f"watched stores of member {number}", hits, *["#DB"] * (passes * len(member.stores)))
        for hit in hits:
            expect_trap(hit, dr=member.register)
        strange = [record for handle in member.others for record in result.of(handle)]
        expect_equal(f"other hits and changed registers of member {number}", len(strange), 0)
