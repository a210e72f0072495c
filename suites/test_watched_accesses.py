"""Data watchpoints (DAT-08 to DAT-13): what counts as an access, and how a report meets faults and other reports."""

from __future__ import annotations

from harness.cases import axis, case
from harness.expect import (
    expect_dr6,
    expect_equal,
    expect_exceptions,
    expect_fault,
    expect_register,
    expect_silence,
    expect_trap,
)
from harness.guest import Program
from harness.guest.registers import RFLAGS_RF, dr7
from harness.subjects import Subject
from suites.guestlib import force
from suites.vocabulary import LENGTHS, REGISTERS

#: A page that programs map where they want it, and a frame for it that nothing else uses.
ELSEWHERE, FRAME = 0x4000_0000, 0x00A0_0000

OLD, NEW = 0x1122_3344_5566_7788, 0x0F0E_0D0C_0B0A_0908

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
    program.map(ELSEWHERE, FRAME, present=fault != "not_present", writable=fault != "read_only")
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
