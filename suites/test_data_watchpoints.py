"""Data watchpoints (DAT): the core of the debug-register switch."""

from __future__ import annotations

from harness.cases import axis, case
from harness.expect import expect_equal, expect_exceptions, expect_register, expect_silence, expect_trap
from harness.guest import Program
from harness.guest.registers import dr7
from harness.subjects import Subject
from suites.guestlib import force, run_with
from suites.vocabulary import CORE_EXITS, ENABLES, LENGTHS, REGISTERS

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
@axis("size", (2, 4, 8, 16), prefix="access")
def test_one_byte_of_overlap_is_enough(subject: Subject, length: int, size: int) -> None:
    program = Program("overlap")
    base = program.watched(size=64) + 24
    program.arm(dr=2, address=base, type="write", length=length)
    last_byte = program.store(base - size + 1, size)
    first_byte = program.store(base + length - 1, size)
    misses = [program.store(base - size, size), program.store(base + length, size)]
    result = subject.run(program)
    for what, handle in (("overlap at the low end", last_byte), ("overlap at the high end", first_byte)):
        hits = result.exceptions_of(handle)
        expect_exceptions(what, hits, "#DB", ref="SDM3 17.2.5")
        expect_trap(hits[0], dr=2)
    for handle in misses:
        expect_silence("an access that ends or begins beside the range", result.exceptions_of(handle))


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
    "DAT-09",
    rule="Locked read-modify-write, XCHG and CMPXCHG (also the failing compare) fire once",
    requirement=("S1.1",),
    refs=("SDM3 17.3.1.2",),
    priority=2,
)
@axis("how", ("xchg", "lock_add", "cmpxchg", "push"))
@axis("exit_kind", ("none", "cpuid"))
def test_other_stores_fire_once(subject: Subject, how: str, exit_kind: str) -> None:
    program = Program("other stores")
    # PUSH moves the stack here, so the handler's own frames need room below.
    watched = program.watched(size=8192) + 8000
    program.poke(watched, 8, OLD)
    program.arm(dr=3, address=watched, type="write", length=8)
    force(program, exit_kind)
    store = program.execute(f"store_{how}_8", watched, NEW, OLD)
    result = subject.run(program)
    hits = result.exceptions_of(store)
    expect_exceptions(how, hits, "#DB", ref="SDM3 17.3.1.2")
    expect_trap(hits[0], dr=3)


@case(
    "DAT-11",
    rule="Several matching registers report together in one #DB; earlier B bits stay until cleared",
    requirement=("S1.1", "S1.3"),
    refs=("SDM3 17.2.3",),
    priority=2,
)
@axis("exit_kind", ("none", "cpuid", "out80"))
def test_all_matching_registers_report_together(subject: Subject, exit_kind: str) -> None:
    program = Program("all four at once")
    watched = program.watched()
    bits = 0
    for n in REGISTERS:
        program.set_dr(n, watched)
        bits |= dr7(n, "write", 8, "L")
    program.handler("keep_dr6")
    program.set_dr(7, bits)
    force(program, exit_kind)
    store = program.store(watched)
    after = program.snapshot()
    result = subject.run(program)
    hits = result.exceptions_of(store)
    expect_exceptions("the store", hits, "#DB", ref="SDM3 17.2.3")
    expect_register("dr6", hits[0].dr6, 0xF, mask=0xF, ref="SDM3 17.2.3")
    expect_register("dr6 afterwards", result.snapshot(after).dr6, 0xF, mask=0xF, ref="SDM3 17.2.3")


@case(
    "DAT-13",
    rule="A watched store that takes a nested-page first-touch fault fires once after the page was mapped",
    requirement=("S1.1", "S1.3"),
    refs=("SDM3 27.3.4",),
)
@axis("register", REGISTERS, prefix="dr")
@axis("length", LENGTHS, prefix="len")
def test_first_touch_of_a_watched_page(subject: Subject, register: int, length: int) -> None:
    program = Program("first touch")
    untouched = 0x0090_0000 + register * 0x1_0000 + length * 0x1000
    program.arm(dr=register, address=untouched, type="write", length=length)
    first = program.store(untouched, length, NEW)
    second = program.store(untouched, length, NEW)
    result = subject.run(program)
    for what, handle in (("the first touch", first), ("the second store", second)):
        hits = result.exceptions_of(handle)
        expect_exceptions(what, hits, "#DB", ref="SDM3 27.3.4")
        expect_trap(hits[0], dr=register)
