"""Guests that are saved and go on in another virtual machine (SNP)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harness.cases import axis, case, require
from harness.errors import ProbeMismatch
from harness.expect import expect_equal, expect_exceptions, expect_register, expect_silence, expect_that, expect_trap
from harness.guest import Program
from harness.guest.registers import DR6_BS, DR6_INACTIVE, dr7
from harness.subjects import RunningGuest, Subject
from suites.guestlib import expect_debug_registers
from suites.vocabulary import DISTINCT, REGISTERS

#: What a host has to be built with.
SAVING = "a bhyve that saves guests (BHYVE_SNAPSHOT)"
#: IA32_DEBUGCTL, and its bits for branch recording and for stepping by branches.
DEBUGCTL, LBR, BTF = 0x1D9, 1, 2


@contextmanager
def saved_and_restored(subject: Subject, program: Program, phase: int) -> Iterator[RunningGuest]:
    """A guest that was saved at a phase of its, in the virtual machine that it goes on in."""
    require(subject.host.can_save(), SAVING)
    with subject.start(program, name="saved", seconds=60) as guest:
        guest.wait_phase(phase)
        saved = guest.save()
    with subject.restore(saved, name="restored", seconds=60) as again:
        yield again


@case(
    "SNP-01",
    rule="Armed and parked, saved, destroyed and restored: the next access fires once; all debug registers are equal",
    requirement="S1.3",
    priority=2,
    needs=("bhyve", "bhyvectl"),
)
@axis("register", REGISTERS, prefix="dr")
def test_a_watch_survives_saving(subject: Subject, register: int) -> None:
    program = Program("saved while armed")
    watched, beside = program.watched(), program.watched()
    values = list(DISTINCT)
    values[register] = watched
    for n, value in enumerate(values):
        program.set_dr(n, value)
    armed = dr7(register, "write", 8, "G")
    program.set_dr(6, DR6_INACTIVE | DR6_BS)
    program.set_dr(7, armed)
    program.sync(1)
    program.sync(2)
    after = program.snapshot()
    program.set_dr(6, DR6_INACTIVE)
    other = program.store(beside)
    store = program.store(watched)
    with saved_and_restored(subject, program, 1) as guest:
        guest.go()
        guest.wait_phase(2)
        shown = guest.registers("dr0", "dr1", "dr2", "dr3", "dr7")
        guest.go()
        result = guest.finish()
    everything = (values[0], values[1], values[2], values[3])
    for n in REGISTERS:
        expect_register(f"--get-dr{n} of the restored guest", shown[f"dr{n}"], values[n])
    expect_register("--get-dr7 of the restored guest", shown["dr7"], armed)
    expect_debug_registers(result.snapshot(after), everything, dr6=DR6_INACTIVE | DR6_BS, dr7=armed)
    expect_silence("a store beside the watch", result.exceptions_of(other))
    hits = result.exceptions_of(store)
    expect_exceptions("the store behind the restoration", hits, "#DB")
    expect_trap(hits[0], dr=register)


@case(
    "SNP-02",
    rule="Saved with TF = 1 in the middle of a counted sequence: the count is exact after the restoration",
    requirement="S1.3",
    priority=3,
    needs=("bhyve", "bhyvectl"),
)
def test_steps_are_counted_across_saving(subject: Subject) -> None:
    passes = {True: 40_000, False: 4_000_000}[subject.platform.emulated]
    program = Program("saved while it steps")
    program.handler("count")
    program.sync(1, "announce")
    program.execute("step_loop", passes)
    counted = program.counted()
    program.sync(2)
    require(subject.host.can_save(), SAVING)
    with subject.start(program, name="saved", seconds=60) as guest:
        guest.wait_phase(1)
        saved = guest.save()
    require(saved.reached == (1,), "a guest that is slower than its host's own commands")
    with subject.restore(saved, name="restored", seconds=60) as guest:
        guest.wait_phase(2)
        guest.go()
        seen = guest.finish().counted(counted)
    # Two instructions a pass, and three more until TF is clear again.
    expect_equal("steps, those before and those behind", seen.count, 2 * passes + 3)
    expect_register("dr6.bs of every step", seen.dr6_all, DR6_BS, mask=DR6_BS)


@case(
    "SNP-03",
    rule="DEBUGCTL survives being saved and restored",
    requirement="S1.2",
    priority=3,
    needs=("bhyve", "bhyvectl", "debugctl"),
)
@axis("bits", (LBR, BTF), prefix="bits")
def test_debugctl_survives_saving(subject: Subject, bits: int) -> None:
    program = Program("saved with DEBUGCTL set")
    write = program.wrmsr(DEBUGCTL, bits)
    before = program.rdmsr(DEBUGCTL)
    program.sync(1)
    after = program.rdmsr(DEBUGCTL)
    with saved_and_restored(subject, program, 1) as guest:
        guest.go()
        result = guest.finish()
    require(not result.exceptions_of(write), "a DEBUGCTL that guests may write")
    expect_register("debugctl before", result.value(before), bits, mask=LBR | BTF)
    expect_register("debugctl of the restored guest", result.value(after), bits, mask=LBR | BTF)


@case(
    "SNP-04",
    rule="The first entry of a restored guest uses no field of its control block that a processor may have cached",
    requirement="S4.1",
    refs=("APM2 15.15",),
    priority=2,
    vendors=("amd",),
    needs=("bhyve", "bhyvectl", "observe"),
)
def test_nothing_is_cached_of_a_restored_guest(subject: Subject) -> None:
    program = Program("saved with a warm control block")
    program.exit("cpuid", 50)
    program.sync(1)
    program.exit("cpuid", 50)
    require(subject.host.can_save(), SAVING)
    with subject.start(program, name="saved", pin=0) as guest:
        guest.wait_phase(1)
        saved = guest.save()
    with subject.host.observe() as seen, subject.restore(saved, name="restored", pin=0) as again:
        again.go()
        again.finish()
    first = "clean bits of the first entry of the restored guest"
    expect_equal(first, seen.first, {0: 1}, ref="APM2 15.15", error=ProbeMismatch)
    # The control: behind the first one the processor may keep what it has.
    warm = sum(times for bits, times in seen.clean.items() if bits)
    expect_that("entries with cached fields", warm > 0, "some", str(warm), error=ProbeMismatch)
