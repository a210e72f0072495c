"""Data watchpoints (DAT): the core of the debug-register switch."""

from __future__ import annotations

from harness.cases import axis, case, require_feature
from harness.expect import (
    expect_dr6,
    expect_equal,
    expect_exceptions,
    expect_fault,
    expect_register,
    expect_silence,
    expect_that,
    expect_trap,
)
from harness.guest import Program
from harness.guest.registers import RFLAGS_RF, dr7
from harness.subjects import Subject
from suites.guestlib import force, run_with
from suites.vocabulary import CORE_EXITS, ENABLES, LENGTHS, REGISTERS

#: A page that programs map where they want it.
ELSEWHERE = 0x4000_0000
#: Another frame for it, which nothing else uses.
OTHER_FRAME = 0x00A0_0000
#: The local APIC's task-priority register: memory that the hypervisor answers for.
APIC_TPR = 0xFEE0_0080

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
@axis("border", (0x0010_8040, 0x0010_9000, OTHER_FRAME), prefix="at_")
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


#: Accesses that an instruction makes beside its operands: snippet -> type of the watch that sees it.
IMPLICIT = {
    "store_push_8": "write",
    "store_pushf_8": "write",
    "store_call_8": "write",
    "store_enter_8": "write",
    "store_int_frame_8": "write",
    "store_fxsave": "write",
    "store_xsave": "write",
    "store_stosb": "write",
    "copy_movsb": "write",
    "load_pop_8": "readwrite",
    "load_ret_8": "readwrite",
}


@case(
    "DAT-08",
    rule="Implicit accesses fire: stack, frames of interrupts, what XSAVE saves, destination of string instructions",
    requirement=("S1.1",),
    refs=("SDM3 17.3.1.2",),
    priority=2,
)
@axis("snippet", tuple(IMPLICIT))
def test_implicit_accesses_fire(subject: Subject, snippet: str) -> None:
    # Loads from the stack run at CPL 3: at CPL 0 the handler's own frame would be such an access again.
    user = snippet.startswith("load_")
    program = Program("implicit access")
    # Room for frames below, and an address that ends in 8 for the frame of an interrupt, in 0 for what saves state.
    watched = program.watched(size=8192, align=4096) + (4096 + 8 if snippet == "store_int_frame_8" else 4096)
    source = program.watched()
    # Touched before: a page fault of the nested tables in the middle is what DAT-13 is about.
    program.poke(watched, 8, OLD)
    program.arm(dr=2, address=watched, type=IMPLICIT[snippet], length=8)
    access = program.execute(snippet, watched, source, 1, user=user)
    program.disarm()
    silent = program.execute(snippet, watched, source, 1, user=user)
    result = subject.run(program)
    hits = result.exceptions_of(access)
    # RET is prepared by a store to the same place, which is watched as well.
    expect_exceptions(snippet, hits[-1:], "#DB", ref="SDM3 17.3.1.2")
    expect_equal("debug exceptions", len(hits), 2 if snippet == "load_ret_8" else 1, ref="SDM3 17.3.1.2")
    expect_dr6(hits[-1], 1 << 2, ref="SDM3 17.3.1.2")
    expect_register("rf of the image", hits[-1].rflags, 0, mask=RFLAGS_RF, ref="SDM3 17.3.1.1")
    # An interrupt is reported at its handler; everything else behind the instruction or at its target.
    behind = hits[-1].rip != hits[-1].site if snippet == "store_int_frame_8" else hits[-1].rip == hits[-1].next
    expect_equal("reported behind the access", behind, True, ref="SDM3 17.3.1.2")
    expect_silence("the same access with the watch off", result.exceptions_of(silent))


#: Stores other than MOV -> snippet, what CMPXCHG compares with, offset of the access from the watched quadword.
LOCKED = {
    "xchg": ("store_xchg_8", 0, 0),
    "lock_add": ("store_lock_add_8", 0, 0),
    "split_lock": ("store_lock_add_8", 0, -4),
    "cmpxchg": ("store_cmpxchg_8", OLD, 0),
    "cmpxchg_failing": ("store_cmpxchg_8", NEW, 0),
    "cmpxchg16": ("store_cmpxchg_16", OLD, 0),
    "push": ("store_push_8", 0, 0),
}


@case(
    "DAT-09",
    rule="Locked read-modify-write, XCHG and CMPXCHG (also the failing compare) fire once",
    requirement=("S1.1",),
    refs=("SDM3 17.3.1.2",),
    priority=2,
)
@axis("how", tuple(LOCKED))
@axis("exit_kind", ("none", "cpuid"))
def test_other_stores_fire_once(subject: Subject, how: str, exit_kind: str) -> None:
    snippet, compare, offset = LOCKED[how]
    program = Program("other stores")
    # PUSH moves the stack here, so the handler's own frames need room below.
    watched = program.watched(size=8192) + 7936
    for at in (-64, 0, 8):
        program.poke(watched + at, 8, OLD)
    program.arm(dr=3, address=watched, type="write", length=8)
    force(program, exit_kind)
    store = program.execute(snippet, watched + offset, NEW, compare)
    beside = program.execute(snippet, watched - 64, NEW, compare)
    result = subject.run(program)
    hits = result.exceptions_of(store)
    expect_exceptions(how, hits, "#DB", ref="SDM3 17.3.1.2")
    expect_trap(hits[0], dr=3)
    expect_silence("the same on another cache line", result.exceptions_of(beside))


#: How a store faults -> the exception, whether at CPL 3, whether a repair and a second try make it succeed.
FAULTS = {
    "not_present": ("#PF", False, True),
    "read_only": ("#PF", True, True),
    "unaligned": ("#AC", True, False),
    "non_canonical": ("#GP", False, False),
}


@case(
    "DAT-10",
    rule="A store that faults does not report; after repair and retry it reports exactly once",
    requirement=("S1.1",),
    refs=("SDM3 17.3.1.2",),
    priority=2,
)
@axis("fault", tuple(FAULTS))
@axis("exit_kind", ("none", "cpuid"))
def test_a_faulting_store_does_not_report(subject: Subject, fault: str, exit_kind: str) -> None:
    vector, user, repairable = FAULTS[fault]
    program = Program(f"faulting store: {fault}")
    target = {"unaligned": program.watched(size=32) + 4, "non_canonical": 1 << 47}.get(fault, ELSEWHERE + 64)
    snippet = "store_checked_8" if fault == "unaligned" else "store_mov_8"
    program.alignment_check(fault == "unaligned")
    program.map(ELSEWHERE, OTHER_FRAME, present=fault != "not_present", writable=fault != "read_only")
    # Four bytes: the watch is aligned even where the store is not.
    program.arm(dr=0, address=target, type="write", length=4)
    force(program, exit_kind)
    alone = program.execute(snippet, target, NEW, user=user)
    program.handler("repair")
    repaired = program.execute(snippet, target, NEW, user=user)
    result = subject.run(program)
    expect_exceptions("the store that faults", result.exceptions_of(alone), vector, ref="SDM3 17.3.1.2")
    after = ("#DB",) if repairable else ()
    found = result.exceptions_of(repaired)
    expect_exceptions("the store that is repaired", found, vector, *after, ref="SDM3 17.3.1.2")
    for hit in found[1:]:
        expect_trap(hit, dr=0)


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
    "DAT-12",
    rule="RF in the frame does not suppress data watchpoints",
    requirement=("S1.1",),
    refs=("SDM3 17.3.1.1",),
    priority=3,
)
@axis("register", REGISTERS, prefix="dr")
def test_rf_does_not_suppress_a_data_watch(subject: Subject, register: int) -> None:
    program = Program("breakpoint and watch on one store")
    watched = program.watched()
    other = (register + 1) % 4
    program.set_dr(register, watched)
    program.arm_snippet(dr=other, snippet="store_mov_8", extra=dr7(register, "write", 8, "L"))
    both = program.store(watched)
    program.set_dr(7, dr7(other, "execute", 1, "L"))
    breakpoint_only = program.store(watched)
    result = subject.run(program)
    found = result.exceptions_of(both)
    expect_exceptions("the store", found, "#DB", "#DB", ref="SDM3 17.3.1.1")
    expect_fault(found[0], dr=other)
    expect_trap(found[1], dr=register)
    expect_exceptions("the store without the watch", result.exceptions_of(breakpoint_only), "#DB")


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
