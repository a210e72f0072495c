"""What may take a host down (HAZ): run with --hazards only, each written into the journal before it begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from harness.cases import Stress, axis, case, variant
from harness.errors import GuestHang, HostStateMismatch
from harness.expect import expect_equal, expect_that, parameters
from harness.guest import Kind, Program, Result, tables
from harness.guest.registers import DR6_INACTIVE, DR7_GD, DR7_RESET, dr7
from harness.subjects import RunningGuest, Subject
from suites.corpus import page
from suites.vocabulary import REGISTERS

#: In a gate of the IDT: which stack of the TSS the handler gets (SDM volume 3, 6.14.4).
GATE_SIZE, GATE_IST = 16, 4
#: Above the low half of the second argument of a 32-bit snippet: the handler of #AC runs at CPL 3.
AC_AT_CPL3 = tables.constants()["TASK_GATE_USER"] << 32
#: FreeBSD's name of the statistic that counts how often a vCPU left its guest, for whatever reason.
EXITS = "total number of vm exits"
#: Seconds of the host in which its timer interrupts each CPU many times.
LONG_ENOUGH = 1


def expect_alive(guest: RunningGuest, subject: Subject) -> None:
    """The host has its CPU back again and again. What came before the guest was at its loop does not count."""
    subject.host.wait(LONG_ENOUGH)
    early = guest.stats()[EXITS]
    subject.host.wait(LONG_ENOUGH)
    late = guest.stats()[EXITS]
    expect_that("times that the host had its CPU", late > early, f"more than {early}", str(late), error=GuestHang)


@case(
    "HAZ-01",
    rule="While each delivery of a guest's #DB raises the next #DB, the host answers and the VM can be ended",
    requirement="S1.1",
    refs=("SDM3 25.2?", "APM2 15.12?"),
    priority=2,
    needs=("bhyve",),
    hazard=True,
)
def test_endless_debug_exceptions_leave_the_host_alive(subject: Subject) -> None:
    known = tables.constants()
    program = Program("#DB for ever")
    # The handler always gets the same stack (that of #DF), and the first thing pushed there is watched.
    top = known["STACKS"] + known["CPU_STACKS"]
    program.poke(known["IDT_SECOND"] + 1 * GATE_SIZE + GATE_IST, 1, 1)
    program.use_tables("second_idt")
    program.sync(1)
    program.arm(dr=0, address=top - 8, type="write", length=8)
    program.store(top - 8)
    program.sync(2)
    # Not the CPU that the host's own work is on.
    with subject.start(program, pin=1) as guest:
        guest.wait_phase(1)
        guest.go()
        expect_alive(guest, subject)


@case(
    "HAZ-01",
    rule="While each delivery of a guest's #AC raises the next #AC, the host answers and the VM can be ended",
    requirement="S1.1",
    refs=("SDM3 25.2?", "APM2 15.12?"),
    priority=2,
    needs=("bhyve",),
    hazard=True,
)
@axis("intercepted", (variant(False, "endless-ac", id="delivered"), variant(True, "traced-ac", id="intercepted")))
def test_endless_alignment_checks_leave_the_host_alive(subject: Subject, intercepted: bool) -> None:
    """The handler runs at CPL 3 on the stack that is there, which is not aligned: pushing its frame is the next #AC.

    With all exceptions intercepted the processor does not deliver them by itself, so that it cannot be caught.
    """
    program = Program("#AC for ever")
    program.sync(1)
    program.execute("endless_ac", 0, AC_AT_CPL3, mode="prot32")
    program.sync(2)
    with (
        subject.host.tunable("hw.vmm.trace_guest_exceptions", int(intercepted)),
        subject.start(program, pin=1) as guest,
    ):
        guest.wait_phase(1)
        guest.go()
        expect_alive(guest, subject)


#: Exits whose number does not depend on the host's clock.
STORM_EXITS = ("cpuid", "out80", "in21", "lapic_mmio", "rdmsr", "wrmsr", "pause", "cr_write", "cr8", "cr3")
#: Sequences under the trap flag, and what else raises #DB or comes near it.
STORM_STEPS = ("step_nops", "step_store", "step_mov_ss", "step_pushf", "step_cr3", "step_cli")
STORM_EVENTS = ("int3", "icebp", "nop", "add_memory", "cpuid")
#: Rounds of one program, which the guest goes through so often, and programs of a run: about a minute's, so that
#: ``--stress=10`` makes ten of it.
ROUNDS, PASSES, STORMS = 40, 4, 120
#: How often a vCPU is moved while it goes through one program.
MOVES = 6


def judged(result: Result) -> list[tuple[object, ...]]:
    """What two runs of a storm must agree in: every field of every record, but the B bits of breakpoints that are not
    enabled, which a processor may set or not (SDM volume 3, 17.2.3)."""
    records = []
    for record in result.records:
        enabled = sum(1 << n for n in REGISTERS if record.dr7 >> 2 * n & 3)
        records.append(replace(record, dr6=record.dr6 & (~0xF | enabled)) if record.kind is Kind.EXCEPTION else record)
    return page(replace(result, records=tuple(records)))


def storm(stress: Stress) -> Program:
    """A program of chance: in every round debug registers, then a few of everything that meets them."""
    program = Program("storm")
    chance = stress.random
    watched = [program.watched(value=tables.constants()["SELECTOR_DATA"]) for _ in REGISTERS]
    actions: tuple[Callable[[int], object], ...] = (
        lambda n: program.store(watched[n], chance.choice((1, 2, 4, 8)), chance.getrandbits(8)),
        lambda n: program.load(watched[n], chance.choice((1, 2, 4, 8))),
        lambda n: program.exit(chance.choice(STORM_EXITS)),
        lambda n: program.execute(chance.choice(STORM_STEPS), watched[n], 1),
        lambda n: program.execute(chance.choice(STORM_EVENTS), watched[n]),
        lambda n: program.execute(chance.choice(("mov_ss_nop", "mov_ss_mov_ss", "mov_ss_cpuid")), selector),
        lambda n: program.set_dr(7, DR7_RESET | DR7_GD),
        lambda n: program.execute(f"read_dr{chance.randrange(4)}"),
    )
    selector = program.watched(value=tables.constants()["SELECTOR_DATA"])
    program.sync(1)
    with program.loop(PASSES):
        for _ in range(ROUNDS):
            for n in chance.sample(REGISTERS, 2):
                program.set_dr(n, chance.choice((watched[n], selector, chance.getrandbits(64))))
            armed = 0
            for n in REGISTERS:
                kind = chance.choice(("write", "readwrite"))
                armed |= dr7(n, kind, chance.choice((1, 2, 4, 8)), chance.choice(("", "L", "G")))
            program.set_dr(7, armed)
            program.set_dr(6, DR6_INACTIVE | chance.getrandbits(4))
            for _ in range(3):
                chance.choice(actions)(chance.randrange(4))
            program.snapshot()
    program.disarm()
    program.sync(2)
    return program


@case(
    "HAZ-02",
    rule="A storm of debug events and exits leaves the same records when its vCPU is moved, and no trace in the host",
    requirement=("S1.3", "S1.4"),
    priority=2,
    needs=("migration", "sentinel", "exact-traps"),
    hazard=True,
)
def test_a_storm_of_debug_events(subject: Subject, stress: Stress) -> None:
    storms = STORMS * stress.scale
    parameters(storms=storms, rounds=ROUNDS * PASSES, moves=MOVES)
    for _ in range(storms):
        program = storm(stress)
        with subject.start(program, pin=0, seconds=60) as guest:
            for phase in (1, 2):
                guest.wait_phase(phase)
                guest.go()
            alone = judged(guest.finish())
        with (
            subject.host.sentinel(0, watch=True) as first,
            subject.host.sentinel(1, watch=True) as second,
            subject.start(program, pin=0, seconds=120) as guest,
        ):
            guest.wait_phase(1)
            guest.go()
            for move in range(MOVES):
                guest.pin((move + 1) % 2)
            guest.wait_phase(2)
            guest.go()
            disturbed = judged(guest.finish())
            reports = (first.stop(), second.stop())
        expect_that("records of the storm", len(alone) > ROUNDS * PASSES, "one a round and more", str(len(alone)))
        expect_equal("records under moves", len(disturbed), len(alone))
        different = [number for number, pair in enumerate(zip(alone, disturbed, strict=True)) if pair[0] != pair[1]]
        expect_equal("records that differ", different, [])
        for cpu, report in enumerate(reports):
            shown = f"hits of the watch of another process on CPU {cpu}"
            expect_equal(shown, report.hits, report.touches, error=HostStateMismatch)
            shown = f"traps that another process on CPU {cpu} cannot explain"
            expect_equal(shown, report.foreign, 0, error=HostStateMismatch)
