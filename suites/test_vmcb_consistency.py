"""What the guest sees does not depend on caching (VCB-11, VCB-12): with any fields cached, and whoever changed them."""

from __future__ import annotations

from harness.cases import axis, case
from harness.expect import expect_equal, expect_register
from harness.guest import Program, tables
from harness.guest.registers import DR6_CAUSES, DR6_INACTIVE, DR7_RESET
from harness.subjects import Subject
from suites.corpus import corpus, page
from suites.guestlib import expect_debug_registers
from suites.vmcb import AMD, REF, STALE, SUPPORTED, TUNABLE
from suites.vocabulary import DISTINCT

EFER_SCE, EFER_LME = 1 << 0, 1 << 8
MSR_EFER = 0xC000_0080
#: Linear address that space 0 and space 1 map to different frames.
WINDOW = 0x4000_0000


@case(
    "VCB-11",
    rule="The corpus gives the same records with the tunable at 0, at default, and with each bit removed in turn",
    requirement="S4.2",
    refs=(REF,),
    vendors=AMD,
    needs=("tunables", "vmcb-cache"),
)
@axis("clean", (0, *(SUPPORTED & ~(1 << bit) for bit in range(10))), prefix="clean")
def test_caching_changes_no_result(subject: Subject, clean: int) -> None:
    full = page(subject.run(corpus(), pin=0))
    with subject.host.tunable(TUNABLE, clean):
        restricted = page(subject.run(corpus(), pin=0))
    expect_equal("records", len(restricted), len(full), ref=REF)
    different = [number for number, pair in enumerate(zip(full, restricted, strict=True)) if pair[0] != pair[1]]
    expect_equal("records that differ", different, [], ref=REF)


@case(
    "VCB-12",
    rule="EFER, which the guest writes by way of the hypervisor, is what it wrote from the next instruction on",
    requirement="S4.3",
    refs=(REF,),
    vendors=AMD,
    needs=("bhyve", "vmcb-cache"),
)
def test_an_emulated_write_of_efer_counts_at_once(subject: Subject) -> None:
    program = Program("EFER")
    looks = []
    for value in (EFER_LME | EFER_SCE, EFER_LME, EFER_LME | EFER_SCE):
        program.wrmsr(MSR_EFER, value)
        at_once = program.control_registers()
        program.exit("cpuid", 3)
        looks.append((value, at_once, program.control_registers()))
    result = subject.run(program, pin=0)
    for value, *reads in looks:
        for read in reads:
            efer = result.control_registers(read).efer
            expect_register("efer in the guest", efer, value, mask=EFER_LME | EFER_SCE, ref=REF)


@case(
    "VCB-12",
    rule="State that the guest changes is not overwritten by stale host copies: it reads back in the guest and outside",
    requirement="S4.3",
    refs=(REF,),
    vendors=AMD,
    needs=STALE,
)
@axis("exit_kind", ("cpuid", "out80", "hlt_timer"))
def test_what_the_guest_changes_stays(subject: Subject, exit_kind: str) -> None:
    dr6, armed = DR6_INACTIVE | 0x9, DR7_RESET | 0x300
    program = Program("changed by the guest")
    program.map(WINDOW, 0x20_0000, space=1)
    program.exit(exit_kind, 2)
    for n, value in enumerate(DISTINCT):
        program.set_dr(n, value)
    program.set_dr(6, dr6)
    program.set_dr(7, armed)
    program.debug_extensions(True)
    program.alignment_check(True)
    program.use_space(1)
    program.use_tables("second_idt")
    before = program.control_registers()
    program.exit(exit_kind, 3)
    debug, control, shown = program.snapshot(), program.control_registers(), program.descriptor_tables()
    program.sync(1)
    with subject.start(program, pin=0) as guest:
        guest.wait_phase(1)
        outside = guest.registers("dr0", "dr1", "dr2", "dr3", "dr6", "dr7", "cr0", "cr3", "cr4", "efer")
        idtr = guest.descriptor("idtr")
        guest.go()
        result = guest.finish()
    expect_debug_registers(result.snapshot(debug), DISTINCT, dr6=dr6, dr7=armed, ref=REF)
    first, then = result.control_registers(before), result.control_registers(control)
    for name in ("cr0", "cr3", "cr4", "efer"):
        expect_register(f"{name} in the guest", getattr(then, name), getattr(first, name), ref=REF)
        expect_register(f"--get-{name}", outside[name], getattr(first, name), mask=~(1 << 12), ref=REF)
    expect_register("cr3 is the guest's", then.cr3, Program.page_tables(1), ref=REF)
    for n, value in enumerate(DISTINCT):
        expect_register(f"--get-dr{n}", outside[f"dr{n}"], value, ref=REF)
    expect_register("--get-dr6", outside["dr6"], dr6, mask=DR6_CAUSES, ref=REF)
    expect_register("--get-dr7", outside["dr7"], armed, ref=REF)
    second = tables.constants()["IDT_SECOND"]
    expect_register("idtr base in the guest", result.descriptor_tables(shown).idtr_base, second, ref=REF)
    expect_register("idtr base outside", idtr[0], second, ref=REF)
