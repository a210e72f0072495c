"""Data watchpoints (DAT-14, DAT-15): linear addresses, the frames behind them, and memory that is emulated."""

from __future__ import annotations

from harness.cases import axis, case
from harness.expect import (
    expect_equal,
    expect_exceptions,
    expect_silence,
    expect_that,
    expect_trap,
)
from harness.guest import Program
from harness.guest.registers import dr7
from harness.subjects import Subject
from suites.guestlib import force
from suites.vocabulary import REGISTERS

#: A page that programs map where they want it.
ELSEWHERE = 0x4000_0000
#: Another frame for it, which nothing else uses.
OTHER_FRAME = 0x00A0_0000
#: The local APIC's task-priority register: memory that the hypervisor answers for.
APIC_TPR = 0xFEE0_0080

OLD, NEW = 0x1122_3344_5566_7788, 0x0F0E_0D0C_0B0A_0908


@case(
    "DAT-14",
    rule="A watch is by linear address: an alias of the same frame does not fire",
    requirement=("S1.1",),
    refs=("SDM3 17.2.1",),
    priority=2,
)
@axis("watch", ("identity", "alias"))
@axis("exit_kind", ("none", "cpuid", "out80"))
def test_an_alias_does_not_fire(subject: Subject, watch: str, exit_kind: str) -> None:
    program = Program("alias")
    frame = program.watched()
    program.map(ELSEWHERE, 0)
    program.map(ELSEWHERE + 0x20_0000, 0x20_0000)
    names = {"identity": frame, "alias": ELSEWHERE + frame}
    watched = names.pop(watch)
    (other,) = names.values()
    program.arm(dr=3, address=watched, type="readwrite", length=8)
    force(program, exit_kind)
    through_other = program.store(other, 8, NEW)
    through_watched = program.store(watched, 8, OLD)
    program.disarm()
    content = program.peek(other)
    result = subject.run(program)
    expect_silence("a store to the frame by its other address", result.exceptions_of(through_other), ref="SDM3 17.2.1")
    hits = result.exceptions_of(through_watched)
    expect_exceptions("a store by the watched address", hits, "#DB", ref="SDM3 17.2.1")
    expect_trap(hits[0], dr=3)
    expect_equal("both addresses name one frame", result.value(content), OLD)


@case(
    "DAT-14",
    rule="A watch is by linear address: it goes on when CR3 puts another frame there",
    requirement=("S1.1",),
    refs=("SDM3 17.2.1",),
    priority=2,
)
@axis("exit_kind", ("none", "cpuid", "out80"))
def test_a_watch_survives_another_address_space(subject: Subject, exit_kind: str) -> None:
    program = Program("another address space")
    program.map(ELSEWHERE, OTHER_FRAME, space=0)
    program.map(ELSEWHERE, OTHER_FRAME + 0x20_0000, space=1)
    target = ELSEWHERE + 128
    program.poke(target, 8, 1)
    program.arm(dr=1, address=target, type="write", length=8)
    first = program.store(target, 8, 2)
    program.use_space(1)
    force(program, exit_kind)
    second = program.store(target, 8, 3)
    beside = program.store(target + 8, 8, 4)
    program.use_space(0)
    program.disarm()
    content = program.peek(target)
    result = subject.run(program)
    for what, handle in (("the store in the first space", first), ("the store in the second", second)):
        hits = result.exceptions_of(handle)
        expect_exceptions(what, hits, "#DB", ref="SDM3 17.2.1")
        expect_trap(hits[0], dr=1)
    expect_silence("a store beside it in the second space", result.exceptions_of(beside))
    expect_equal("the first space's frame at the end", result.value(content), 2)


@case(
    "DAT-14",
    rule="A watch is by linear address: what a device's model puts into the frame does not fire",
    requirement=("S1.1",),
    refs=("SDM3 17.2.1",),
    priority=2,
    needs=("bhyve",),
)
@axis("register", REGISTERS, prefix="dr")
def test_a_write_past_the_processor_does_not_fire(subject: Subject, register: int) -> None:
    """Devices of bhyve are its process: their DMA is a write to the guest's memory from outside, as this one is."""
    program = Program("written from outside")
    watched = program.watched(value=OLD)
    program.arm(dr=register, address=watched, type="readwrite", length=8)
    program.sync(1)
    # No access by the guest comes between the host's write and this.
    untouched = program.note(1)
    load = program.load(watched)
    program.disarm()
    content = program.peek(watched)
    with subject.start(program) as guest:
        guest.wait_phase(1)
        guest.write_memory(watched, NEW.to_bytes(8, "little"))
        guest.go()
        result = guest.finish()
    on_load = result.exceptions_of(load)
    expect_equal("debug exceptions in all", len(result.debug_exceptions), len(on_load), ref="SDM3 17.2.1")
    expect_that("the guest went on", bool(result.of(untouched)), "a note", f"{len(result.of(untouched))} notes")
    expect_exceptions("the guest's own load (control)", on_load, "#DB", ref="SDM3 17.2.1")
    expect_trap(on_load[0], dr=register)
    expect_equal("memory holds what the host wrote", result.value(content), NEW)


@case(
    "DAT-15",
    rule="A watched access to memory that the hypervisor emulates fires after the instruction",
    requirement=("S1.1",),
    refs=("SDM3 32.2",),
    priority=2,
)
@axis("access", ("store", "load"))
@axis("register", (0, 3), prefix="dr")
def test_a_watch_on_emulated_memory(subject: Subject, access: str, register: int) -> None:
    program = Program("emulated memory")
    plain = program.watched()
    program.arm(dr=register, address=plain, type="readwrite", length=4)
    control = program.execute(f"mmio_{access}_4", plain, 0)
    program.set_dr(7, dr7(register, "readwrite", 4, ""))
    disabled = program.execute(f"mmio_{access}_4", APIC_TPR, 0)
    program.arm(dr=register, address=APIC_TPR, type="readwrite", length=4)
    emulated = program.execute(f"mmio_{access}_4", APIC_TPR, 0)
    result = subject.run(program)
    expect_exceptions("the same instruction on plain memory", result.exceptions_of(control), "#DB")
    expect_silence("the access with the watch disabled", result.exceptions_of(disabled))
    hits = result.exceptions_of(emulated)
    expect_exceptions("the access that the hypervisor completes", hits, "#DB", ref="SDM3 32.2")
    expect_trap(hits[0], dr=register)
