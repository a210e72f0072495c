"""Probes and profiling that go on beside guests, and change nothing for them (HST-05, HST-08, HST-09)."""

from __future__ import annotations

from harness.cases import case
from harness.errors import ProbeMismatch
from harness.expect import expect_equal, expect_register, parameters
from harness.guest import Program
from harness.subjects import Subject
from suites.corpus import corpus, page
from suites.guestlib import BUSY, expect_nothing_wrong
from suites.vocabulary import DISTINCT, REGISTERS

#: How often probes go on and off, by kind of host: each time costs the emulated host what a processor does in a
#: thousandth of that, and FreeBSD in an emulator half a minute beside two guests.
TOGGLES = {"emulated": 5, "bochs": 2}
TOGGLES_OF_A_PROCESSOR = 100
#: Seconds for guests that run as long as that takes.
LONG = 240


@case(
    "HST-05",
    rule="Probes switched on and off many times while guests run: no crash, guest results unchanged",
    requirement=("S2.1", "S3.3"),
    needs=("observe", "two-vms"),
)
def test_probes_on_and_off_while_guests_run(subject: Subject) -> None:
    toggles = TOGGLES.get(subject.platform.kind, TOGGLES_OF_A_PROCESSOR)
    parameters(times_on_and_off=toggles, guests=2)
    programs = []
    for seed in (0x0F0F_1234_5678_9ABC, 0x7777_6666_5555_4444):
        program = Program("toggled")
        watched = program.watched()
        for n, value in enumerate(DISTINCT):
            program.set_dr(n, value ^ seed & 0xFFFF_0000)
        program.arm(dr=1, address=watched, type="write", length=8)
        program.sync(1)
        program.exit("hlt_timer", 2)
        changed = program.execute("fuzz_registers", seed, 200, result=True)
        program.exit("hlt_timer", 2)
        store = program.store(watched)
        after = program.snapshot()
        program.sync(2)
        programs.append((program, changed, store, after, seed))
    (one, *_), (two, *_) = programs
    with (
        subject.start(one, pin=0, name="one", seconds=LONG) as first,
        subject.start(two, pin=1, name="two", seconds=LONG) as second,
    ):
        first.wait_phase(1)
        second.wait_phase(1)
        first.go()
        second.go()
        subject.host.toggle_probes(toggles)
        first.wait_phase(2)
        second.wait_phase(2)
        first.go()
        second.go()
        results = (first.finish(), second.finish())
    for (_, changed, store, after, seed), result in zip(programs, results, strict=True):
        expect_equal("guest registers that changed across exits", result.value(changed), 0)
        expect_equal("hits of the watch", len(result.exceptions_of(store)), 1)
        for n in (0, 2, 3):
            expect_register(f"dr{n}", result.snapshot(after)[n], DISTINCT[n] ^ seed & 0xFFFF_0000)


@case(
    "HST-08",
    rule="Interrupts at a high rate while guests run meet the right thread on the right CPU; guests do not notice them",
    requirement="S2.1",
    priority=2,
    needs=("profile", "two-vms"),
    hazard=True,
)
def test_profiling_interrupts_while_guests_run(subject: Subject) -> None:
    programs, changed, after = [], [], []
    for seed in (0x0123_4567_89AB_CDEF, 0x7EDC_BA98_7654_3210):
        program = Program("profiled")
        for n, value in enumerate(DISTINCT):
            program.set_dr(n, value ^ seed)
        program.sync(1)
        program.exit("busy", 20 * BUSY)
        changed.append(program.execute("fuzz_registers", seed, 300, result=True))
        after.append((program.snapshot(), seed))
        program.sync(2)
        programs.append(program)
    with (
        subject.start(programs[0], pin=0, name="one", seconds=LONG) as one,
        subject.start(programs[1], pin=1, name="two", seconds=LONG) as two,
    ):
        for guest in (one, two):
            guest.wait_phase(1)
        threads = [guest.thread_number() for guest in (one, two)]
        with subject.host.profile() as seen:
            for guest in (one, two):
                guest.go()
            for guest in (one, two):
                guest.wait_phase(2)
        for guest in (one, two):
            guest.go()
        results = (one.finish(), two.finish())
    for cpu, thread in enumerate(threads):
        met = [one for one in seen.threads if one.tid == thread]
        shown = [(one.cpu, one.execname, one.name) for one in met]
        expect_equal(f"whom interrupts on CPU {cpu} met", shown, [(cpu, "bhyve", "vcpu 0")], error=ProbeMismatch)
    for handle, (snapshot, seed), result in zip(changed, after, results, strict=True):
        expect_equal("guest registers that changed across exits", result.value(handle), 0)
        for n in REGISTERS:
            expect_register(f"dr{n}", result.snapshot(snapshot)[n], DISTINCT[n] ^ seed)


@case(
    "HST-09",
    rule="DTrace on and off gives identical guest-visible results for the whole corpus",
    requirement=("S2.1", "S3.3"),
    needs=("observe",),
)
def test_observing_changes_nothing(subject: Subject) -> None:
    alone = page(subject.run(corpus(), pin=0))
    with subject.host.observe() as seen:
        observed = page(subject.run(corpus(), pin=0))
    expect_nothing_wrong(seen)
    expect_equal("records", len(observed), len(alone))
    different = [number for number, pair in enumerate(zip(alone, observed, strict=True)) if pair[0] != pair[1]]
    expect_equal("records that differ", different, [])
