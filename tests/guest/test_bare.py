"""Real guests on bare CPU models: what fires, what must not, in every processor mode."""

from __future__ import annotations

import pytest

from harness.errors import GuestHang, TestDefect
from harness.guest import Kind, Mode, Program, tables
from harness.guest.registers import DR6_BS, DR6_BT, DR6_INACTIVE, DR7_RESET, RFLAGS_RF, VECTORS, dr7
from harness.subjects.bare import BareSubject

NARROW = [mode for mode in tables.modes() if tables.mode_width(mode) != 64]


def test_a_watch_fires_and_its_neighbour_does_not(bare: BareSubject) -> None:
    program = Program("watch and control")
    watched = program.watched(size=16, value=0x1111)
    program.arm(dr=2, address=watched, type="write", length=8)
    hit = program.store(watched, 8, 0x2222)
    beside = program.store(watched + 8, 8, 0x3333)
    load = program.load(watched)
    program.set_dr(7, dr7(2, "write", 8, ""))
    disabled = program.store(watched, 8, 0x4444)
    result = bare.run(program)
    (record,) = result.exceptions_of(hit)
    assert (record.vector, record.rip, record.dr6 & 0xF, record.value) == (1, record.next, 0b0100, 0x2222)
    for handle in (beside, load, disabled):
        assert result.exceptions_of(handle) == ()
    assert result.debug_exceptions == (record,)


def test_every_mode_watches_breaks_and_steps(bare: BareSubject) -> None:
    program = Program("all modes")
    watched = program.watched(low=True, value=0xFFFF_FFFF_0000_0000)
    handles = {}
    for mode in NARROW:
        program.arm(dr=1, address=watched, type="write", length=4)
        hit = program.store(watched, 4, 0xABCD, mode=mode)
        silent = program.store(watched + 4, 4, 0xFFFF_FFFF, mode=mode)
        program.arm_snippet(dr=3, snippet="nop", mode=mode)
        fault = program.execute("nop", mode=mode)
        program.disarm()
        step = program.execute("step_nops", mode=mode)
        handles[mode] = (hit, silent, fault, step)
    result = bare.run(program)
    for mode, (hit, silent, fault, step) in handles.items():
        (record,) = result.exceptions_of(hit)
        assert record.mode is Mode[mode.upper()]
        assert (record.rip, record.dr6 & 0xF, record.value & 0xFFFF_FFFF) == (record.next, 0b0010, 0xABCD), mode
        assert result.exceptions_of(silent) == (), mode
        (record,) = result.exceptions_of(fault)
        assert (record.rip, record.dr6 & 0xF, record.rflags & RFLAGS_RF) == (record.site, 0b1000, 0), mode
        if mode == "vm86_iopl0":
            # POPF cannot set TF there.
            assert [r.vector for r in result.exceptions_of(step)] == [13]
            continue
        steps = [r for r in result.exceptions_of(step) if r.site < r.rip <= r.next]
        assert [r.rip - r.site for r in steps] == [1, 2, 3, 4], mode
        assert all(r.dr6 & DR6_BS for r in steps)


def test_segment_bases_count(bare: BareSubject) -> None:
    program = Program("segment bases")
    watched = program.watched(low=True)
    program.arm(dr=0, address=watched, type="write", length=4)
    # 4 GiB - 4 KiB as base: the linear address wraps.
    places = {"compat": 0xFFFF_F000, "prot32": 0xFFFF_F000, "prot16": watched - 0x1000, "real": watched - 0x1000}
    handles = [
        program.store(watched, 4, 1, mode="compat16"),
        *(program.execute("store_mov_4", watched, 1, mode=mode, segment_base=base) for mode, base in places.items()),
    ]
    result = bare.run(program)
    for handle in handles:
        (record,) = result.exceptions_of(handle)
        assert (record.rip, record.dr6 & 0xF) == (record.next, 1)


def test_user_mode_may_not_touch_debug_registers(bare: BareSubject) -> None:
    program = Program("cpl 3")
    handles = [program.execute("read_dr7", mode=mode) for mode in ("user64", "compat", "compat16", "vm86")]
    handles.append(program.execute("read_dr7", result=True))
    result = bare.run(program)
    for handle in handles[:-1]:
        (record,) = result.exceptions_of(handle)
        assert (record.vector, record.rip, record.error) == (VECTORS["#GP"], record.site, 0)
    assert result.value(handles[-1]) == DR7_RESET


def test_exits_are_forced_and_change_nothing(bare: BareSubject) -> None:
    program = Program("every exit")
    watched = program.watched()
    program.arm(dr=0, address=watched, type="write", length=8)
    forced = {kind: program.exit(kind, 2, record=True) for kind in tables.exit_kinds()}
    hit = program.store(watched)
    after = program.snapshot()
    result = bare.run(program)
    for kind, handle in forced.items():
        (record,) = result.of(handle)
        assert record.kind is Kind.EXIT, kind
        assert (record.aux >= 2) == (kind == "hlt_timer"), kind
    assert len(result.exceptions_of(hit)) == 1
    assert result.snapshot(after).dr0 == watched


def test_a_fault_in_the_middle_does_not_end_the_program(bare: BareSubject) -> None:
    program = Program("given up")
    # WRMSR stands before the instruction under test here, and is not allowed at CPL 3.
    broken = program.execute("wrmsr_then_nop", 0xC0000102, 0, user=True)
    at_cpl_0 = program.execute("store_mov_8", 1 << 63)
    watched = program.watched()
    last = program.execute("store_mov_8", watched)
    assert len(program.ops) - 1 == last.op
    result = bare.run(program)
    assert [record.vector for record in result.exceptions_of(broken)] == [VECTORS["#GP"]]
    assert [record.vector for record in result.exceptions_of(at_cpl_0)] == [VECTORS["#GP"]]
    assert result.exceptions_of(last) == ()


def test_processors_start_with_reset_values_and_have_their_own_registers(bare: BareSubject) -> None:
    program = Program("two processors")
    watched = program.watched()
    with program.processor(1) as started:
        program.set_dr(1, 0x2222)
        program.set_dr(6, DR6_INACTIVE | DR6_BT)
        program.arm(dr=3, address=watched, type="write", length=8)
        program.barrier(2)
        hit = program.store(watched, 8, 7)
        program.exit("hlt_timer")
    program.barrier(2)
    silent = program.store(watched, 8, 8)
    program.wait_processor(1)
    with program.processor(1, init=False):
        kept = program.snapshot()
    program.wait_processor(1)
    with program.processor(1) as again:
        fresh = program.snapshot()
    program.wait_processor(1)
    result = bare.run(program)
    assert result.started(started)
    assert result.started(again)
    assert [record.cpu for record in result.exceptions_of(hit)] == [1]
    assert result.exceptions_of(silent) == ()
    assert (result.snapshot(kept).dr1, result.snapshot(kept).dr3) == (0x2222, watched)
    assert (result.snapshot(fresh).dr1, result.snapshot(fresh).dr3) == (0, 0)
    assert len(result.resets(1)) == 2
    for reset in result.resets(1):
        assert (reset.dr0, reset.dr1, reset.dr3, reset.dr6, reset.dr7) == (0, 0, 0, DR6_INACTIVE, DR7_RESET)


def test_mappings(bare: BareSubject) -> None:
    program = Program("mappings")
    watched = program.watched()
    alias = 0x4000_0000 + watched
    program.map(0x4000_0000, 0)
    program.arm(dr=0, address=watched, type="write", length=8)
    other_address = program.store(alias, 8, 5)
    same_frame = program.peek(watched)
    program.map(0x4000_0000, 0, present=False)
    program.handler("repair")
    program.arm(dr=0, address=alias, type="write", length=8)
    repaired = program.store(alias, 8, 6)
    program.handler()
    program.map(0x4020_0000, 0xE0_0000)
    program.map(0x4020_0000, 0xC0_0000, space=1)
    program.poke(0x4030_0000, 8, 1)
    program.use_space(1)
    program.poke(0x4030_0000, 8, 2)
    spaces = program.control_registers()
    program.use_space(0)
    first, second = program.peek(0xF0_0000), program.peek(0xD0_0000)
    result = bare.run(program)
    assert result.exceptions_of(other_address) == ()
    assert result.value(same_frame) == 5
    assert [record.vector for record in result.exceptions_of(repaired)] == [VECTORS["#PF"], VECTORS["#DB"]]
    assert result.exceptions_of(repaired)[0].aux == alias
    assert (result.value(first), result.value(second)) == (1, 2)
    assert result.control_registers(spaces).cr3 == Program.page_tables(1)


def test_system_calls_arrive(bare: BareSubject) -> None:
    program = Program("system calls")
    program.execute("syscall_setup")
    program.execute("sysenter_setup")
    program.arm_snippet(dr=0, snippet="syscall_entry")
    call = program.execute("syscall", user=True)
    program.arm_snippet(dr=0, snippet="sysenter_entry")
    enter = program.execute("sysenter", user=True)
    result = bare.run(program)
    (record,) = result.exceptions_of(call)
    assert (record.rip, record.cs & 3) == (result.syscall_entry, 0)
    (record,) = result.exceptions_of(enter)
    assert record.cs & 3 == 0


def test_descriptor_tables(bare: BareSubject) -> None:
    program = Program("descriptor tables")
    tables_ = program.descriptor_tables()
    limit = program.execute("lsl", tables.constants()["SELECTOR_DATA64K"], result=True)
    result = bare.run(program)
    found = result.descriptor_tables(tables_)
    assert (found.cs, found.ss, found.tr, found.idtr_limit) == (0x18, 0x10, 0xA0, 0xFFF)
    assert result.value(limit) == 0xFFFF


def test_registers_survive_exits(bare: BareSubject) -> None:
    program = Program("registers over exits")
    changed = program.execute("fuzz_registers", 0x0123_4567_89AB_CDEF, 50, result=True)
    rbp = program.execute("exits_with_rbp", 0x8000_0000_0000_0000, 5, result=True)
    result = bare.run(program)
    assert result.value(changed) == 0
    assert result.value(rbp) == 0x8000_0000_0000_0000


def test_task_switch_reports_the_trap_bit(bare: BareSubject) -> None:
    program = Program("task switch")
    silent = program.execute("task_switch", mode="prot32")
    trap = program.execute("task_switch", 0, 1 << 32, mode="prot32")
    result = bare.run(program)
    assert result.exceptions_of(silent) == ()
    assert [record.dr6 & DR6_BT for record in result.exceptions_of(trap)] == [DR6_BT]


def test_phases(bare: BareSubject) -> None:
    program = Program("phases")
    watched = program.watched()
    program.arm(dr=0, address=watched, type="write", length=8)
    program.sync(1)
    hit = program.store(watched)
    program.sync(2, "announce")
    program.sync(3)
    with bare.start(program) as guest:
        guest.wait_phase(1)
        guest.go()
        guest.wait_phase(2)
        guest.wait_phase(3)
        with pytest.raises(TestDefect):
            guest.pin(1)
        guest.go()
        result = guest.finish()
    assert len(result.exceptions_of(hit)) == 1


def test_a_guest_that_waits_for_ever_is_a_hang(bare: BareSubject) -> None:
    program = Program("never goes on")
    program.sync(1, "memory")
    with pytest.raises(GuestHang):
        bare.run(program, seconds=0.5)


def test_long_loops_leave_few_records(bare: BareSubject) -> None:
    program = Program("counting")
    watched = program.watched()
    program.arm(dr=2, address=watched, type="write", length=8)
    program.handler("count")
    with program.loop(2000):
        program.store(watched)
        right = program.expect_dr(2, watched)
    counted = program.counted()
    program.disarm()
    program.execute("step_loop", 1500)
    steps = program.counted()
    wrong = program.expect_dr(2, watched + 1)
    result = bare.run(program)
    assert result.exceptions == ()
    assert (result.counted(counted).count, result.counted(counted).dr6_all & 0xF) == (2000, 0b0100)
    # Two instructions a pass, and the three that switch stepping off.
    assert result.counted(steps).count == 2 * 1500 + 3
    assert result.counted(steps).dr6_any & 0xF == 0
    assert result.counted(steps).dr6_all & DR6_BS
    assert result.mismatches(right) == ()
    (record,) = result.mismatches(wrong)
    assert (record.value, record.aux) == (watched, watched + 1)


def test_second_tables(bare: BareSubject) -> None:
    program = Program("second tables")
    program.use_tables("second_idt")
    moved = program.execute("int3")
    program.poke(tables.constants()["IDT_SECOND"] + 16 * VECTORS["#BP"] + 5, 1, 0x6E)  # not present
    absent = program.execute("int3")
    program.use_tables("own")
    own = program.execute("int3")
    program.use_tables("second_gdt")
    limit = program.execute("lsl", tables.constants()["SELECTOR_DATA64K"], result=True)
    result = bare.run(program)
    assert [record.vector for record in result.exceptions_of(moved)] == [0x43]
    assert [record.vector for record in result.exceptions_of(absent)] == [VECTORS["#NP"]]
    assert [record.vector for record in result.exceptions_of(own)] == [VECTORS["#BP"]]
    assert result.value(limit) == 0xFFF


def test_an_instruction_across_two_pages(bare: BareSubject) -> None:
    program = Program("straddle")
    program.arm_snippet(dr=0, snippet="straddle")
    across = program.execute("straddle")
    result = bare.run(program)
    (record,) = result.exceptions_of(across)
    assert record.rip == record.site
    assert record.rip >> 12 != (record.next - 1) >> 12
