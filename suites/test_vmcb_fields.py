"""What a guest sees of the VMCB's fields once the host changed them (VCB): a stale copy of the processor would show.

Only where the processor keeps fields whose clean bit is set can these tests fail; elsewhere they are not observable.
"""

from __future__ import annotations

import struct

from harness.cases import axis, case
from harness.errors import TestDefect
from harness.expect import expect_equal, expect_exceptions, expect_register, expect_that
from harness.guest import DescriptorTables, Handle, Program, Result, tables
from harness.guest.registers import DR6_CAUSES, DR6_INACTIVE, DR7_RESET, dr7
from harness.subjects import RunningGuest, Subject
from suites.guestlib import BUSY
from suites.vmcb import AMD, REF, STALE, Change

CR0_AM, CR4_TSD, EFER_SCE = 1 << 18, 1 << 2, 1 << 0
#: Bit 13 of a descriptor's access rights: 64-bit code.
LONG_CODE = 1 << 13
LAPIC_TPR = 0xFEE0_0080
#: Linear address that space 0 and space 1 map to different frames.
WINDOW = 0x4000_0000


def after_change(subject: Subject, program: Program, change: Change) -> Result:
    """Run a program whose host changes something at its phase 1, on one CPU so that nothing else marks the fields."""
    with subject.start(program, pin=0) as guest:
        guest.wait_phase(1)
        change(guest)
        guest.go()
        return guest.finish()


@case(
    "VCB-04",
    rule="The host changes DR6 or DR7 between runs: the guest sees the value",
    requirement=("S4.1", "S4.3"),
    refs=(REF,),
    vendors=AMD,
    needs=STALE,
)
@axis("register", ("dr6", "dr7"))
def test_the_guest_sees_changed_debug_registers(subject: Subject, register: str) -> None:
    value = {"dr6": DR6_INACTIVE | 0xA, "dr7": DR7_RESET | 0x300}[register]
    program = Program("changed debug registers")
    program.exit("cpuid", 3)
    program.sync(1)
    after = program.snapshot()
    seen = after_change(subject, program, lambda guest: guest.set_registers(**{register: value})).snapshot(after)
    expect_register("dr6", seen.dr6, value if register == "dr6" else DR6_INACTIVE, mask=DR6_CAUSES, ref=REF)
    expect_register("dr7", seen.dr7, value if register == "dr7" else DR7_RESET, ref=REF)


@case(
    "VCB-04",
    rule="The host arms a watch by DR7 alone: the guest's next access hits",
    requirement=("S4.1", "S4.3"),
    refs=(REF,),
    vendors=AMD,
    needs=STALE,
)
def test_a_watch_armed_by_the_host_is_live_at_once(subject: Subject) -> None:
    program = Program("armed from outside")
    watched = program.watched()
    program.set_dr(1, watched)
    program.exit("cpuid", 3)
    program.sync(1)
    store = program.store(watched)
    result = after_change(subject, program, lambda guest: guest.set_registers(dr7=dr7(1, "write", 8, "L")))
    expect_exceptions("the store", result.exceptions_of(store), "#DB", ref=REF)


@case(
    "VCB-04",
    rule="The host changes DR6, DR7 and CR2 while the guest leaves all the time: none is lost, whatever exit was last",
    requirement=("S4.1", "S4.3"),
    refs=(REF,),
    vendors=AMD,
    needs=STALE,
)
@axis("exit_kind", ("busy", "in21", "rdmsr", "cpuid"))
def test_no_change_is_lost_behind_any_exit(subject: Subject, exit_kind: str) -> None:
    turns = 12
    program = Program("changed between exits")
    program.sync(1, "announce")
    program.exit(exit_kind, {"busy": 20 * BUSY}.get(exit_kind, 3000))
    program.sync(2)
    debug, control = program.snapshot(), program.control_registers()
    last = {"dr6": DR6_INACTIVE, "dr7": DR7_RESET, "cr2": 0}
    with subject.start(program, pin=0) as guest:
        guest.wait_phase(1)
        for turn in range(1, turns + 1):
            changed = {"dr6": DR6_INACTIVE | turn, "dr7": DR7_RESET | 0x1000_0000 * turn, "cr2": 0x1000 * turn}
            guest.set_registers(**changed)
            last.update(changed)
            seen = guest.registers(*last)
            for name, value in last.items():
                expect_register(f"{name} while the guest runs", seen[name], value, ref=REF)
        guest.wait_phase(2)
        guest.go()
        result = guest.finish()
    expect_register("dr6 in the guest", result.snapshot(debug).dr6, last["dr6"], mask=DR6_CAUSES, ref=REF)
    expect_register("dr7 in the guest", result.snapshot(debug).dr7, last["dr7"], ref=REF)
    expect_register("cr2 in the guest", result.control_registers(control).cr2, last["cr2"], ref=REF)


@case(
    "VCB-05",
    rule="The host changes CR0, CR4 or EFER: the guest sees the value",
    requirement=("S4.1", "S4.3"),
    refs=(REF,),
    vendors=AMD,
    needs=STALE,
)
@axis("register", ("cr0", "cr4", "efer"))
def test_the_guest_sees_changed_control_registers(subject: Subject, register: str) -> None:
    bit = {"cr0": CR0_AM, "cr4": CR4_TSD, "efer": EFER_SCE}[register]
    program = Program("changed control registers")
    before = program.control_registers()
    program.sync(1)
    after = program.control_registers()

    def toggle(guest: RunningGuest) -> None:
        guest.set_registers(**{register: guest.registers(register)[register] ^ bit})

    result = after_change(subject, program, toggle)
    first, then = result.control_registers(before), result.control_registers(after)
    for name in ("cr0", "cr3", "cr4", "efer"):
        expected = getattr(first, name) ^ (bit if name == register else 0)
        expect_register(f"{name} in the guest", getattr(then, name), expected, ref=REF)


@case(
    "VCB-05",
    rule="The host changes CR3: the other mapping is live",
    requirement=("S4.1", "S4.3"),
    refs=(REF,),
    vendors=AMD,
    needs=STALE,
)
def test_another_address_space_is_live(subject: Subject) -> None:
    program = Program("another address space")
    one, other = 0x20_0000, 0x40_0000
    program.map(WINDOW, one, space=0)
    program.map(WINDOW, other, space=1)
    program.poke(one + 0x1000, 8, 0x1111)
    program.poke(other + 0x1000, 8, 0x2222)
    before = program.peek(WINDOW + 0x1000)
    program.sync(1)
    after = program.peek(WINDOW + 0x1000)
    cr3 = program.control_registers()
    space = Program.page_tables(1)
    result = after_change(subject, program, lambda guest: guest.set_registers(cr3=space))
    expect_equal("what the window showed", result.value(before), 0x1111)
    expect_equal("what the window shows", result.value(after), 0x2222, ref=REF)
    expect_register("cr3 in the guest", result.control_registers(cr3).cr3, space, ref=REF)


@case(
    "VCB-06",
    rule="The host changes CR2: the guest reads the right CR2",
    requirement=("S4.1", "S4.3"),
    refs=(REF,),
    vendors=AMD,
    needs=STALE,
)
def test_the_guest_sees_a_changed_fault_address(subject: Subject) -> None:
    program = Program("changed cr2")
    program.exit("cpuid", 3)
    program.sync(1)
    after = program.control_registers()
    result = after_change(subject, program, lambda guest: guest.set_registers(cr2=0x1234_5678_9000))
    expect_register("cr2 in the guest", result.control_registers(after).cr2, 0x1234_5678_9000, ref=REF)


@case(
    "VCB-07",
    rule="The host changes GDTR, then IDTR: SGDT, SIDT, a selector's limit and the next interrupt use the new table",
    requirement=("S4.1", "S4.3"),
    refs=(REF,),
    vendors=AMD,
    needs=STALE,
)
@axis("table", ("gdtr", "idtr"))
def test_new_tables_are_in_use(subject: Subject, table: str) -> None:
    known = tables.constants()
    base = known["GDT_SECOND" if table == "gdtr" else "IDT_SECOND"]
    program = Program("new tables")
    program.exit("cpuid", 3)
    program.sync(1)
    limit = program.execute("lsl", known["SELECTOR_DATA64K"], result=True)
    breakpoint = program.execute("int3")
    shown = program.descriptor_tables()

    def change(guest: RunningGuest) -> None:
        _, size, _ = guest.descriptor(table)
        guest.set_descriptor(table, base, size)

    result = after_change(subject, program, change)
    seen: DescriptorTables = result.descriptor_tables(shown)
    expect_register(f"{table} base in the guest", getattr(seen, f"{table}_base"), base, ref=REF)
    expect_register("limit of the selector", result.value(limit), 0xFFF if table == "gdtr" else 0xFFFF, ref=REF)
    vectors = [record.vector for record in result.exceptions_of(breakpoint)]
    expect_equal("vector of INT3", vectors, [0x43 if table == "idtr" else 3], ref=REF)


@case(
    "VCB-08",
    rule="The host changes a selector of CS, DS, ES, SS: the guest reads it; FS, GS and LDTR need no bit and are right",
    requirement=("S4.1", "S4.3"),
    refs=(REF,),
    vendors=AMD,
    needs=STALE,
)
@axis("segment", ("cs", "ds", "es", "ss", "fs", "gs"))
def test_the_guest_reads_a_changed_selector(subject: Subject, segment: str) -> None:
    known = tables.constants()
    selector = known["SELECTOR_SYSCALL" if segment == "cs" else "SELECTOR_BASED"]
    program = Program("changed selector")
    program.exit("cpuid", 3)
    before = program.descriptor_tables()
    program.sync(1)
    after = program.descriptor_tables()
    result = after_change(subject, program, lambda guest: guest.set_registers(**{segment: selector}))
    first, then = result.descriptor_tables(before), result.descriptor_tables(after)
    for name in ("cs", "ds", "es", "ss", "fs", "gs"):
        expected = selector if name == segment else getattr(first, name)
        expect_register(f"{name} in the guest", getattr(then, name), expected, ref=REF)


@case(
    "VCB-08",
    rule="The host changes the base of DS or ES: the guest's next access goes there",
    requirement=("S4.1", "S4.3"),
    refs=(REF,),
    vendors=AMD,
    needs=STALE,
)
@axis("segment", ("ds", "es"))
def test_an_access_goes_by_the_changed_base(subject: Subject, segment: str) -> None:
    phase, away = 7, 0x100
    program = Program("changed base")
    here = program.watched(8, align=0x1000, value=0x1111)
    program.poke(here + away, 4, 0x2222)
    program.sync(1, "announce")
    load = program.execute(f"wait_then_load_{segment}", here, rdx=phase, mode="prot32", result=True)
    with subject.start(program, pin=0) as guest:
        guest.wait_phase(1)
        _wait_for_32_bits(guest)
        base, limit, access = guest.descriptor(segment)
        guest.set_descriptor(segment, base + away, limit, access)
        guest.write_memory(Program.mailbox(), struct.pack("<I", phase))
        result = guest.finish()
    expect_equal(f"what the guest loaded through {segment}", result.value(load) & 0xFFFF_FFFF, 0x2222, ref=REF)


def _wait_for_32_bits(guest: RunningGuest) -> None:
    """The guest announced itself from 64-bit code and then goes to the mode in which bases count."""
    for _ in range(50):
        if not guest.descriptor("cs")[2] & LONG_CODE:
            return
    raise TestDefect("The guest did not get to 32-bit code in the time of fifty looks at it.")


@case(
    "VCB-09",
    rule="An exit capability switched on and off: the guest's next instructions exit, and exit no more",
    requirement=("S4.1", "S4.3"),
    refs=(REF,),
    priority=2,
    vendors=AMD,
    needs=STALE,
)
def test_a_switched_intercept_is_in_force_at_once(subject: Subject) -> None:
    pauses, name = 40, "number of times pause was intercepted"
    program = Program("switched intercept")
    for phase in (1, 2, 3):
        program.sync(phase)
        program.exit("pause", pauses)
    program.sync(4)
    gained = []
    with subject.start(program, pin=0) as guest:
        for phase, on in ((1, True), (2, False), (3, True)):
            guest.wait_phase(phase)
            guest.set_capability("pause_exit", on)
            # From here on: a guest that waits for its host pauses as well.
            before = guest.stats()[name]
            guest.go()
            guest.wait_phase(phase + 1)
            gained.append(guest.stats()[name] - before)
        guest.go()
        guest.finish()
    for count, on in zip(gained, (True, False, True), strict=True):
        wanted = f"at least {pauses}" if on else "none"
        met = count >= pauses if on else count == 0
        expect_that(f"exits by PAUSE, switched {'on' if on else 'off'}", met, wanted, str(count), ref=REF)


@case(
    "VCB-09",
    rule="A task priority written to the local APIC is what CR8 reads, and the reverse",
    requirement=("S4.1", "S4.3"),
    refs=(REF,),
    priority=2,
    vendors=AMD,
    needs=("bhyve", "vmcb-cache"),
)
def test_the_task_priority_is_one(subject: Subject) -> None:
    program = Program("task priority")
    looks: list[tuple[int, Handle]] = []
    for priority in (5, 3, 9, 0):
        program.execute("mmio_store_4", LAPIC_TPR, priority << 4)
        program.exit("cpuid", 2)
        looks.append((priority, program.control_registers()))
    result = subject.run(program, pin=0)
    for priority, look in looks:
        expect_register(f"cr8 after TPR {priority}", result.control_registers(look).cr8, priority, ref=REF)


@case(
    "VCB-10",
    rule="Moving the vCPU to another CPU and back brings nothing of what that CPU had cached before",
    requirement="S4.1",
    refs=(REF,),
    vendors=AMD,
    needs=("migration", "vmcb-cache"),
)
def test_nothing_old_comes_back_with_a_cpu(subject: Subject) -> None:
    moves = (1, 0, 1, 0)
    program = Program("moved")
    looks: list[tuple[int, Handle, Handle]] = []
    for phase in range(1, len(moves) + 1):
        program.set_dr(6, DR6_INACTIVE | phase)
        program.set_dr(7, DR7_RESET | 0x1000_0000 * phase)
        program.sync(phase)
        looks.append((phase, program.snapshot(), program.control_registers()))
        program.debug_extensions(phase % 2 == 1)
        program.exit("cpuid", 3)
    with subject.start(program, pin=0) as guest:
        for phase, cpu in enumerate(moves, start=1):
            guest.wait_phase(phase)
            guest.pin(cpu)
            guest.go()
        result = guest.finish()
    for phase, debug, control in looks:
        seen = result.snapshot(debug)
        expect_register(f"dr6 on CPU {moves[phase - 1]}", seen.dr6, phase, mask=DR6_CAUSES, ref=REF)
        expect_register(f"dr7 on CPU {moves[phase - 1]}", seen.dr7, DR7_RESET | 0x1000_0000 * phase, ref=REF)
        extensions = result.control_registers(control).cr4 >> 3 & 1
        expect_equal(f"cr4.de on CPU {moves[phase - 1]}", extensions, int(phase % 2 == 0), ref=REF)
