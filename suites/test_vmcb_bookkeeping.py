"""Which clean bits the hypervisor uses at each entry (VCB): what a probe on svm_launch() reads in the VMCB."""

from __future__ import annotations

from harness.cases import axis, case, variant
from harness.errors import ProbeMismatch
from harness.expect import expect_equal, expect_register, expect_that
from harness.guest import Program
from harness.guest.registers import DR6_INACTIVE, DR7_RESET
from harness.subjects import RunningGuest, Subject
from suites.guestlib import BUSY
from suites.vmcb import (
    AMD,
    ASID,
    AVIC,
    CR,
    CR2,
    DR,
    DT,
    INTERCEPTS,
    LBR,
    REF,
    SEG,
    SUPPORTED,
    TPR,
    TUNABLE,
    expect_marked_once,
    expect_subset,
    observe_change,
)
from suites.vocabulary import DISTINCT

CR0_AM, CR4_TSD, EFER_SCE = 1 << 18, 1 << 2, 1 << 0


@case(
    "VCB-01",
    rule="The tunable reads back masked to the supported bits, and no entry uses a clean bit outside it",
    requirement="S4.2",
    refs=(REF,),
    vendors=AMD,
    needs=("observe", "tunables"),
)
@axis("clean", (0, 0x3BF, 0x155, 0x2AA, 0xFFFF), prefix="clean")
def test_the_tunable_restricts_caching(subject: Subject, clean: int) -> None:
    program = Program("restricted")
    for n, value in enumerate(DISTINCT):
        program.set_dr(n, value)
    program.exit("cpuid", 50)
    after = program.snapshot()
    with subject.host.tunable(TUNABLE, clean):
        shown = int(subject.host.sysctl(TUNABLE))
        with subject.host.observe() as seen:
            result = subject.run(program, pin=0)
    expect_equal(f"sysctl {TUNABLE}", shown, clean & SUPPORTED, ref=REF)
    expect_subset(seen, clean & SUPPORTED)
    used = clean & SUPPORTED
    expect_that(
        "clean bits used", used in seen.clean, f"{used:#x} at some entry", str([hex(bits) for bits in seen.clean]),
        ref=REF, error=ProbeMismatch,
    )  # fmt: skip
    for n, value in enumerate(DISTINCT):
        expect_register(f"dr{n}", result.snapshot(after)[n], value)


@case(
    "VCB-02",
    rule="The first run of a new vCPU has no clean bit set",
    requirement="S4.1",
    refs=(REF,),
    vendors=AMD,
    needs=("observe",),
)
@axis("cpu", (0, 1), prefix="cpu")
def test_the_first_entry_caches_nothing(subject: Subject, cpu: int) -> None:
    program = Program("new")
    program.exit("cpuid", 3)
    with subject.host.observe() as seen:
        subject.run(program, pin=cpu)
        subject.run(program, pin=cpu)
    expect_equal("clean bits of the first entry of two vCPUs", seen.first, {0: 2}, ref=REF, error=ProbeMismatch)


@case(
    "VCB-03",
    rule="In a quiet loop on one CPU the clean bits used reach the full mask: caching is really in use",
    requirement="S4.1",
    refs=(REF,),
    priority=2,
    vendors=AMD,
    needs=("observe",),
)
def test_a_quiet_loop_caches_everything(subject: Subject) -> None:
    program = Program("quiet")
    program.sync(1)
    program.exit("cpuid", 500)
    program.sync(2)
    with subject.start(program, pin=0) as guest:
        guest.wait_phase(1)
        with subject.host.observe() as seen:
            guest.go()
            guest.wait_phase(2)
        guest.go()
        guest.finish()
    full = seen.clean.get(SUPPORTED, 0)
    share = f"{full} of {seen.entries} entries"
    expect_that(f"entries with {SUPPORTED:#x}", full >= 500, "one for each exit", share, ref=REF, error=ProbeMismatch)


def _toggle(guest: RunningGuest, register: str, bits: int) -> None:
    guest.set_registers(**{register: guest.registers(register)[register] ^ bits})


def _same_descriptor(guest: RunningGuest, name: str) -> None:
    guest.set_descriptor(name, *guest.descriptor(name))


def _same_register(guest: RunningGuest, name: str) -> None:
    guest.set_registers(**guest.registers(name))


@case(
    "VCB-04",
    rule="The host changes DR6 or DR7 between runs: clean bit 6 is clear for the next run, and only for that",
    requirement=("S4.1", "S4.3"),
    refs=(REF,),
    vendors=AMD,
    needs=("observe", "bhyvectl"),
)
@axis("register", ("dr6", "dr7"))
def test_changed_debug_registers_are_marked(subject: Subject, register: str) -> None:
    value = {"dr6": DR6_INACTIVE | 5, "dr7": DR7_RESET | 0x300}[register]
    expect_marked_once(observe_change(subject, lambda guest: guest.set_registers(**{register: value})), DR)


@case(
    "VCB-05",
    rule="The host changes CR0, CR3, CR4 or EFER: clean bit 5 is clear for the next run, and only for that",
    requirement=("S4.1", "S4.3"),
    refs=(REF,),
    vendors=AMD,
    needs=("observe", "bhyvectl"),
)
@axis("register", ("cr0", "cr3", "cr4", "efer"))
def test_changed_control_registers_are_marked(subject: Subject, register: str) -> None:
    bits = {"cr0": CR0_AM, "cr3": 0, "cr4": CR4_TSD, "efer": EFER_SCE}[register]
    expect_marked_once(observe_change(subject, lambda guest: _toggle(guest, register, bits)), CR)


@case(
    "VCB-06",
    rule="The host changes CR2: clean bit 9 is clear for the next run, and only for that",
    requirement=("S4.1", "S4.3"),
    refs=(REF,),
    vendors=AMD,
    needs=("observe", "bhyvectl"),
)
def test_a_changed_fault_address_is_marked(subject: Subject) -> None:
    expect_marked_once(observe_change(subject, lambda guest: guest.set_registers(cr2=0x1234_5678)), CR2)


@case(
    "VCB-07",
    rule="The host changes GDTR or IDTR: clean bit 7 is clear for the next run, and only for that",
    requirement=("S4.1", "S4.3"),
    refs=(REF,),
    vendors=AMD,
    needs=("observe", "bhyvectl"),
)
@axis("table", ("gdtr", "idtr"))
def test_changed_tables_are_marked(subject: Subject, table: str) -> None:
    expect_marked_once(observe_change(subject, lambda guest: _same_descriptor(guest, table)), DT)


@case(
    "VCB-08",
    rule="The host changes selector or descriptor of CS, DS, ES, SS: bit 8 is clear for the next run; FS needs none",
    requirement=("S4.1", "S4.3"),
    refs=(REF,),
    vendors=AMD,
    needs=("observe", "bhyvectl"),
)
@axis("segment", ("cs", "ds", "es", "ss", "fs"))
@axis("what", ("selector", "descriptor"))
def test_changed_segments_are_marked(subject: Subject, segment: str, what: str) -> None:
    change = _same_register if what == "selector" else _same_descriptor
    seen = observe_change(subject, lambda guest: change(guest, segment))
    if segment != "fs":
        expect_marked_once(seen, SEG)
    else:
        # The control: entries with the bit set were seen, so that none without it means something.
        set_bits = sum(times for bits, times in seen.clean.items() if bits >> SEG & 1)
        expect_that("entries with clean bit 8", set_bits > 0, "some", str(set_bits), ref=REF, error=ProbeMismatch)
        expect_equal("entries without clean bit 8", seen.without(SEG), 0, ref=REF, error=ProbeMismatch)


@case(
    "VCB-09",
    rule="An exit capability switched, and a changed task priority: the matching clean bit is clear once",
    requirement=("S4.1", "S4.3"),
    refs=(REF,),
    priority=2,
    vendors=AMD,
    needs=("observe", "bhyvectl"),
)
@axis("group", (variant("intercepts"), variant("tpr")))
def test_changed_intercepts_and_priority_are_marked(subject: Subject, group: str) -> None:
    if group == "intercepts":
        expect_marked_once(observe_change(subject, lambda guest: guest.set_capability("pause_exit", True)), INTERCEPTS)
        return
    program = Program("task priority")
    program.sync(1)
    program.execute("mmio_store_4", 0xFEE0_0080, 0x50)
    program.exit("cpuid", 10)
    program.sync(2)
    with subject.start(program, pin=0) as guest:
        guest.wait_phase(1)
        with subject.host.observe() as seen:
            guest.go()
            guest.wait_phase(2)
        guest.go()
        guest.finish()
    expect_marked_once(seen, TPR)


@case(
    "VCB-09",
    rule="With a pool of one ASID two guests on a CPU take it from each other: clean bit 2 is clear at each turn",
    requirement=("S4.1", "S4.3"),
    refs=(REF,),
    priority=2,
    vendors=AMD,
    needs=("observe", "tunables", "two-vms"),
)
def test_a_small_pool_of_asids_turns_over(subject: Subject) -> None:
    programs = []
    for bias in (0, 0x1000):
        program = Program("one ASID for two")
        for n, value in enumerate(DISTINCT):
            program.set_dr(n, value + bias)
        program.sync(1)
        program.exit("busy", BUSY // 2)
        programs.append((program, program.snapshot(), bias))
    (one, *_), (two, *_) = programs
    with (
        subject.host.tunable("hw.vmm.svm.num_asids", 2),
        subject.host.observe() as seen,
        subject.start(one, pin=0, name="one") as first,
        subject.start(two, pin=0, name="two") as second,
    ):
        first.wait_phase(1)
        second.wait_phase(1)
        first.go()
        second.go()
        results = (first.finish(), second.finish())
    for (_, after, bias), result in zip(programs, results, strict=True):
        for n, value in enumerate(DISTINCT):
            expect_register(f"dr{n}", result.snapshot(after)[n], value + bias)
    turns = seen.without(ASID)
    expect_that("entries with a new ASID", turns > 4, "one at each turn", str(turns), ref=REF, error=ProbeMismatch)


@case(
    "VCB-10",
    rule="Moving the vCPU to another CPU leaves no clean bit set, exactly once; back on the first CPU again",
    requirement="S4.1",
    refs=(REF,),
    vendors=AMD,
    needs=("observe", "migration"),
)
def test_another_cpu_caches_nothing(subject: Subject) -> None:
    moves = (1, 0, 1)
    program = Program("moved")
    for phase in range(1, len(moves) + 1):
        program.sync(phase)
        program.exit("cpuid", 50)
    with subject.host.observe() as seen, subject.start(program, pin=0) as guest:
        for phase, cpu in enumerate(moves, start=1):
            guest.wait_phase(phase)
            guest.pin(cpu)
            guest.go()
        guest.finish()
    what = "clean bits of the first entry on another CPU"
    expect_equal(what, seen.moved, {0: len(moves)}, ref=REF, error=ProbeMismatch)
    expect_equal("entries with nothing cached", seen.clean.get(0, 0), 1 + len(moves), ref=REF, error=ProbeMismatch)
    expect_that(
        "entries with everything cached", seen.clean.get(SUPPORTED, 0) > 100, "most",
        f"{seen.clean.get(SUPPORTED, 0)} of {seen.entries}", ref=REF, error=ProbeMismatch,
    )  # fmt: skip


@case(
    "VCB-13",
    rule="The bits of branch records and of the interrupt controller (10, 11) are never set",
    requirement="S4.2",
    refs=(REF,),
    priority=3,
    vendors=AMD,
    needs=("observe", "tunables"),
)
def test_groups_that_nobody_tracks_are_never_clean(subject: Subject) -> None:
    program = Program("everything asked for")
    program.exit("cpuid", 20)
    with subject.host.tunable(TUNABLE, 0xFFFF_FFFF), subject.host.observe() as seen:
        subject.run(program, pin=0)
    # The control: groups that are tracked were clean at some entry under this very setting.
    tracked = seen.clean.get(SUPPORTED, 0)
    expect_that(f"entries with {SUPPORTED:#x}", tracked > 0, "some", str(tracked), ref=REF, error=ProbeMismatch)
    for bit in (LBR, AVIC):
        expect_equal(f"entries without clean bit {bit}", seen.without(bit), seen.entries, ref=REF, error=ProbeMismatch)
    expect_subset(seen, SUPPORTED)


@case(
    "VCB-13",
    rule="On a processor that does not offer clean bits none is ever set, and guests run as elsewhere",
    requirement="S4.2",
    refs=(REF,),
    priority=3,
    vendors=AMD,
    needs=("observe", "no-clean-bits"),
)
def test_without_the_feature_nothing_is_clean(subject: Subject) -> None:
    program = Program("nothing to cache")
    for n, value in enumerate(DISTINCT):
        program.set_dr(n, value)
    program.exit("cpuid", 20)
    after = program.snapshot()
    with subject.host.observe() as seen:
        result = subject.run(program, pin=0)
    for n, value in enumerate(DISTINCT):
        expect_register(f"dr{n}", result.snapshot(after)[n], value)
    expect_subset(seen, 0)
