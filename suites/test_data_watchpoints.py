"""Data watchpoints (DAT-01 to DAT-07): the core of the debug-register switch, and which bytes are watched."""

from __future__ import annotations

from harness.cases import axis, case, require_feature
from harness.expect import (
    expect_dr6,
    expect_equal,
    expect_exceptions,
    expect_register,
    expect_silence,
    expect_that,
    expect_trap,
)
from harness.guest import Program
from harness.guest.registers import dr7
from harness.subjects import Subject
from suites.guestlib import force, run_with
from suites.vocabulary import CORE_EXITS, ENABLES, LENGTHS, REGISTERS

#: The first page of a stretch that nothing else uses.
UNUSED = 0x00A0_0000

OLD, NEW = 0x1122_3344_5566_7788, 0x0F0E_0D0C_0B0A_0908


def _mask(length: int) -> int:
    return (1 << 8 * length) - 1


@case(
    "DAT-01",
    rule="A write watch fires once per store: trap class, value already stored, Bn of its register",
    requirement=("S1.1", "S1.2", "S1.3", "S1.6"),
    refs=("SDM3 17.3.1.2",),
)
@axis("register", REGISTERS, prefix="dr")
@axis("enable", ENABLES)
@axis("length", LENGTHS, prefix="len")
@axis("exit_kind", CORE_EXITS)
def test_write_watch_fires_once_per_store(
    subject: Subject, register: int, enable: str, length: int, exit_kind: str
) -> None:
    program = Program("write watch")
    watched = program.watched(value=OLD)
    program.arm(dr=register, address=watched, type="write", length=length, enable=enable)
    force(program, exit_kind)
    store = program.store(watched, length, NEW)
    after = program.snapshot()
    program.set_dr(7, dr7(register, "write", length, ""))
    disabled = program.store(watched, length, NEW)
    result = run_with(subject, program, exit_kind)
    hits = result.exceptions_of(store)
    expect_exceptions("the store", hits, "#DB", ref="SDM3 17.3.1.2")
    expect_trap(hits[0], dr=register)
    stored = OLD & ~_mask(length) | NEW & _mask(length)
    expect_equal("memory when the handler ran", hits[0].value, stored, ref="SDM3 17.3.1.2")
    expect_register("dr7 afterwards", result.snapshot(after).dr7, dr7(register, "write", length, enable))
    expect_register(f"dr{register} afterwards", result.snapshot(after)[register], watched)
    expect_silence("the store with the watch disabled", result.exceptions_of(disabled))


@case(
    "DAT-02",
    rule="A read-write watch fires on a load as well as on a store",
    requirement=("S1.1", "S1.2", "S1.3", "S1.6"),
    refs=("SDM3 17.3.1.2",),
)
@axis("register", REGISTERS, prefix="dr")
@axis("enable", ENABLES)
@axis("length", LENGTHS, prefix="len")
@axis("exit_kind", CORE_EXITS)
def test_read_write_watch_fires_on_loads_and_stores(
    subject: Subject, register: int, enable: str, length: int, exit_kind: str
) -> None:
    program = Program("read-write watch")
    watched = program.watched(value=OLD)
    program.arm(dr=register, address=watched, type="readwrite", length=length, enable=enable)
    force(program, exit_kind)
    load = program.load(watched, length)
    store = program.store(watched, length, NEW)
    program.set_dr(7, dr7(register, "readwrite", length, ""))
    disabled = program.load(watched, length)
    result = run_with(subject, program, exit_kind)
    for what, handle in (("the load", load), ("the store", store)):
        hits = result.exceptions_of(handle)
        expect_exceptions(what, hits, "#DB", ref="SDM3 17.3.1.2")
        expect_trap(hits[0], dr=register)
    expect_silence("the load with the watch disabled", result.exceptions_of(disabled))


@case(
    "DAT-03",
    rule="A write watch does not fire on a load; neither type fires on an instruction fetch",
    requirement=("S1.1",),
    refs=("SDM3 17.2.4",),
)
@axis("register", REGISTERS, prefix="dr")
@axis("exit_kind", ("none", "cpuid", "out80"))
def test_write_watch_ignores_loads_and_fetches(subject: Subject, register: int, exit_kind: str) -> None:
    program = Program("what a write watch ignores")
    watched = program.watched(value=OLD)
    program.arm(dr=register, address=watched, type="write", length=8)
    force(program, exit_kind)
    load = program.load(watched)
    store = program.store(watched)
    program.arm_snippet(dr=register, snippet="nop", extra=3 << (16 + 4 * register))
    fetch = program.execute("nop")
    result = subject.run(program)
    expect_silence("a load", result.exceptions_of(load), ref="SDM3 17.2.4")
    expect_exceptions("a store (control)", result.exceptions_of(store), "#DB")
    expect_silence("an instruction fetch under a read-write watch", result.exceptions_of(fetch), ref="SDM3 17.2.4")


@case(
    "DAT-04",
    rule="Bytes just below and just above the range do not fire; each single byte of the range does",
    requirement=("S1.1",),
    refs=("SDM3 17.2.5",),
)
@axis("length", LENGTHS, prefix="len")
@axis("register", REGISTERS, prefix="dr")
def test_every_byte_of_the_range_and_no_other(subject: Subject, length: int, register: int) -> None:
    program = Program("bytes of the range")
    base = program.watched(size=32) + 8
    program.arm(dr=register, address=base, type="write", length=length)
    below = program.store(base - 1, 1)
    inside = [program.store(base + offset, 1) for offset in range(length)]
    above = program.store(base + length, 1)
    result = subject.run(program)
    expect_silence("the byte below", result.exceptions_of(below), ref="SDM3 17.2.5")
    for offset, handle in enumerate(inside):
        hits = result.exceptions_of(handle)
        expect_exceptions(f"byte {offset}", hits, "#DB", ref="SDM3 17.2.5")
        expect_trap(hits[0], dr=register)
    expect_silence("the byte above", result.exceptions_of(above), ref="SDM3 17.2.5")


@case(
    "DAT-05",
    rule="An access that overlaps the range by one byte at either end fires, for every access size",
    requirement=("S1.1",),
    refs=("SDM3 17.2.5",),
)
@axis("length", LENGTHS, prefix="len")
@axis("size", (2, 4, 8, 16, 32), prefix="access")
def test_one_byte_of_overlap_is_enough(subject: Subject, length: int, size: int) -> None:
    program = Program("overlap")
    base = program.watched(size=128) + 40
    program.arm(dr=2, address=base, type="write", length=length)
    last_byte = program.store(base - size + 1, size)
    first_byte = program.store(base + length - 1, size)
    misses = [program.store(base - size, size), program.store(base + length, size)]
    result = subject.run(program)
    require_feature(size < 32 or result.features.avx, "AVX")
    for what, handle in (("overlap at the low end", last_byte), ("overlap at the high end", first_byte)):
        hits = result.exceptions_of(handle)
        expect_exceptions(what, hits, "#DB", ref="SDM3 17.2.5")
        expect_trap(hits[0], dr=2)
    for handle in misses:
        expect_silence("an access that ends or begins beside the range", result.exceptions_of(handle))


@case(
    "DAT-05",
    rule="A masked vector store fires for a lane that it stores; whether it does for a masked-off one is recorded",
    requirement=("S1.1",),
    refs=("SDM3 17.2.5",),
)
@axis("lane", (0, 3, 7), prefix="lane")
def test_lanes_of_a_masked_store(subject: Subject, lane: int) -> None:
    program = Program("masked store")
    base = program.watched(size=64)
    program.arm(dr=1, address=base + 4 * lane, type="write", length=4)
    stored = program.execute("store_masked_32", base, 0, 1 << lane)
    masked_off = program.execute("store_masked_32", base, 0, 0xFF & ~(1 << lane))
    program.disarm()
    silent = program.execute("store_masked_32", base, 0, 1 << lane)
    result = subject.run(program)
    require_feature(result.features.avx, "AVX")
    hits = result.exceptions_of(stored)
    expect_exceptions("a store to the watched lane", hits, "#DB", ref="SDM3 17.2.5")
    expect_trap(hits[0], dr=1)
    fired = len(result.exceptions_of(masked_off))
    expect_that("reports for the masked-off lane", fired in (0, 1), "0 or 1 (recorded, not judged)", f"{fired}")
    expect_silence("the store with the watch off", result.exceptions_of(silent))


@case(
    "DAT-06",
    rule="Low address bits below the length are ignored: the aligned block is watched",
    requirement=("S1.1",),
    refs=("SDM3 17.2.5",),
    priority=2,
)
@axis("length", (2, 4, 8), prefix="len")
def test_low_address_bits_are_ignored(subject: Subject, length: int) -> None:
    program = Program("unaligned watch address")
    base = program.watched(size=32) + 8
    program.arm(dr=0, address=base + length - 1, type="write", length=length)
    inside = program.store(base, 1)
    outside = program.store(base + length, 1)
    result = subject.run(program)
    expect_exceptions("the first byte of the block", result.exceptions_of(inside), "#DB", ref="SDM3 17.2.5")
    expect_silence("the byte behind the block", result.exceptions_of(outside), ref="SDM3 17.2.5")


@case(
    "DAT-07",
    rule="Two registers together cover one misaligned quadword, each of its bytes and no other",
    requirement=("S1.1", "S1.3"),
    refs=("SDM3 17.2.5",),
    priority=2,
)
@axis("exit_kind", ("none", "cpuid", "out80"))
def test_two_registers_cover_a_misaligned_quadword(subject: Subject, exit_kind: str) -> None:
    program = Program("misaligned quadword")
    base = program.watched(size=32) + 4
    program.set_dr(0, base)
    program.set_dr(1, base + 4)
    program.set_dr(7, dr7(0, "write", 4, "L") | dr7(1, "write", 4, "L"))
    force(program, exit_kind)
    below = program.store(base - 1, 1)
    whole = program.store(base, 8)
    low, high = program.store(base + 3, 1), program.store(base + 4, 1)
    above = program.store(base + 8, 1)
    result = subject.run(program)
    for what, handle, causes in (("the quadword", whole, 3), ("its fourth byte", low, 1), ("its fifth byte", high, 2)):
        hits = result.exceptions_of(handle)
        expect_exceptions(what, hits, "#DB", ref="SDM3 17.2.5")
        expect_dr6(hits[0], causes, ref="SDM3 17.2.5")
    expect_silence("the byte below", result.exceptions_of(below), ref="SDM3 17.2.5")
    expect_silence("the byte above", result.exceptions_of(above), ref="SDM3 17.2.5")


@case(
    "DAT-07",
    rule="An access over the border of a cache line or page fires if any of its bytes matches",
    requirement=("S1.1",),
    refs=("SDM3 17.2.5",),
    priority=2,
)
@axis("border", (0x0010_8040, 0x0010_9000, UNUSED), prefix="at_")
@axis("byte", (-4, -1, 0, 3), prefix="byte")
def test_access_over_a_border(subject: Subject, border: int, byte: int) -> None:
    program = Program("over a border")
    program.poke(border - 8, 8, 0)
    program.poke(border, 8, 0)
    program.arm(dr=1, address=border + byte, type="write", length=1)
    over = program.store(border - 4, 8)
    beside = program.store(border + 4, 4) if byte < 0 else program.store(border - 4, 4)
    result = subject.run(program)
    hits = result.exceptions_of(over)
    expect_exceptions("the store over the border", hits, "#DB", ref="SDM3 17.2.5")
    expect_trap(hits[0], dr=1)
    expect_silence("a store on the other side only", result.exceptions_of(beside), ref="SDM3 17.2.5")
