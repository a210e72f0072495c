"""Reset state of the debug registers (RST)."""

from __future__ import annotations

from harness.cases import axis, case
from harness.expect import expect_equal, expect_register
from harness.guest import Program
from harness.guest.registers import CR4_DE, DR6_INACTIVE, DR7_RESET
from harness.subjects import RunningGuest, Subject

NAMES = ("dr0", "dr1", "dr2", "dr3", "dr6", "dr7")


def first_look() -> Program:
    """The runtime records the registers at the first instruction; nothing else is needed."""
    program = Program("first look")
    program.note()
    return program


@case(
    "RST-01",
    rule="DR0-DR3 read 0 at the first instruction of the boot processor",
    requirement=("S1.3", "S1.4"),
    refs=("SDM3 9.1.1", "APM2 14.1.3"),
)
def test_addresses_are_zero_at_reset(subject: Subject) -> None:
    reset = subject.run(first_look()).reset
    for n in range(4):
        expect_register(f"dr{n}", reset[n], 0, ref="SDM3 9.1.1")


@case(
    "RST-02",
    rule="DR6 reads its inactive value at the first instruction",
    requirement="S1.3",
    refs=("SDM3 9.1.1",),
)
def test_dr6_is_inactive_at_reset(subject: Subject) -> None:
    reset = subject.run(first_look()).reset
    expect_register("dr6", reset.dr6, DR6_INACTIVE, ref="SDM3 9.1.1")


@case(
    "RST-03",
    rule="DR7 reads 400h and CR4.DE is 0 at the first instruction",
    requirement=("S1.2", "S1.6"),
    refs=("SDM3 9.1.1",),
)
def test_dr7_is_off_at_reset(subject: Subject) -> None:
    reset = subject.run(first_look()).reset
    expect_register("dr7", reset.dr7, DR7_RESET, ref="SDM3 9.1.1")
    expect_register("cr4.de", reset.cr4, 0, mask=CR4_DE, ref="SDM3 9.1.1")


@case(
    "RST-04",
    rule="The values that bhyvectl prints before the first instruction equal what the guest reads",
    requirement=("S1.7",),
    needs=("bhyvectl",),
)
def test_bhyvectl_agrees_with_the_guest_at_reset(subject: Subject) -> None:
    program = Program("reset as both sides see it")
    before = program.snapshot()
    program.sync(1)
    with subject.start(program) as guest:
        guest.wait_phase(1)
        seen = guest.registers("dr0", "dr1", "dr2", "dr3", "dr6", "dr7")
        guest.go()
        result = guest.finish()
    own = result.snapshot(before)
    for n in range(4):
        expect_register(f"--get-dr{n}", seen[f"dr{n}"], own[n])
        expect_register(f"dr{n} at reset", result.reset[n], 0, ref="SDM3 9.1.1")
    expect_register("--get-dr6", seen["dr6"], own.dr6)
    expect_register("--get-dr7", seen["dr7"], own.dr7)


@case(
    "RST-05",
    rule="Guest DEBUGCTL is 0 at the first entry: no branch recording that the guest did not ask for",
    requirement=("S1.2",),
    refs=("SDM3 9.1.1", "APM2 15.23"),
    priority=2,
    # A VMCB is memory that a probe can read; a field of a VMCS is not.
    vendors=("amd",),
    needs=("observe",),
)
def test_debugctl_is_zero_at_the_first_entry(subject: Subject) -> None:
    with subject.host.observe() as seen:
        subject.run(first_look())
    # The control: the entry was seen at all.
    expect_equal("first entries seen", sum(seen.debugctl.values()), 1)
    for value in seen.debugctl:
        expect_register("guest debugctl in the VMCB", value, 0, ref="APM2 15.23")


def leave_everything_dirty(program: Program) -> None:
    for n in range(4):
        program.set_dr(n, 0xDEAD_0000_0000 + n)
    program.set_dr(6, DR6_INACTIVE | 0xF)
    program.set_dr(7, DR7_RESET | 0xFF)


#: The port that resets a PC, and what is written there (Intel ICH, "Reset Control Register").
RESET_CONTROL, HARD_RESET = 0xCF9, 0x06


def _reboot(guest: RunningGuest) -> None:
    guest.go()
    guest.wait_reset()


def _force_reset(guest: RunningGuest) -> None:
    guest.force_reset()


def _destroy(guest: RunningGuest) -> None:
    """Nothing to do: a guest that is left behind is ended, and its VM destroyed."""


#: How the former life ends, and whether its VM is still there when the next one begins.
ENDS = {"reboot": (_reboot, True), "force_reset": (_force_reset, True), "destroy": (_destroy, False)}


@case(
    "RST-07",
    rule="After a reboot, a forced reset, and destroy and create, all vCPUs show reset values; nothing survives",
    requirement=("S1.3",),
    needs=("bhyve", "bhyvectl", "smp"),
)
@axis("end", tuple(ENDS))
def test_nothing_survives_a_new_life(subject: Subject, end: str) -> None:
    finish, kept = ENDS[end]
    dirty = Program("leaves everything dirty")
    with dirty.processor(1):
        leave_everything_dirty(dirty)
    dirty.wait_processor(1)
    leave_everything_dirty(dirty)
    dirty.sync(1)
    dirty.execute("out_dx_1", RESET_CONTROL, HARD_RESET)
    dirty.sync(2)  # nobody comes here
    with subject.start(dirty, name="again", keep=kept) as guest:
        guest.wait_phase(1)
        # The control: there is something that could survive, on both vCPUs.
        for vcpu in (0, 1):
            there = guest.registers("dr3", vcpu=vcpu)["dr3"]
            expect_register(f"dr3 of vCPU {vcpu} in its former life", there, 0xDEAD_0000_0003)
        finish(guest)
    program = Program("the next life")
    program.sync(1)
    with program.processor(1):
        second = program.snapshot()
    program.wait_processor(1)
    first = program.snapshot()
    with subject.start(program, name="again") as guest:
        guest.wait_phase(1)
        shown = [guest.registers(*NAMES, vcpu=vcpu) for vcpu in (0, 1)]
        guest.go()
        result = guest.finish()
    for vcpu, snapshot in ((0, first), (1, second)):
        inside = result.snapshot(snapshot)
        for n in range(4):
            expect_register(f"dr{n} of vCPU {vcpu} at reset", result.resets(vcpu)[0][n], 0, ref="SDM3 9.1.1")
            expect_register(f"dr{n} of vCPU {vcpu}, 64 bits", inside[n], 0, ref="SDM3 9.1.1")
            expect_register(f"--get-dr{n} of vCPU {vcpu}", shown[vcpu][f"dr{n}"], 0, ref="SDM3 9.1.1")
        for n, expected in ((6, DR6_INACTIVE), (7, DR7_RESET)):
            expect_register(f"dr{n} of vCPU {vcpu} at reset", result.resets(vcpu)[0][n], expected, ref="SDM3 9.1.1")
            expect_register(f"--get-dr{n} of vCPU {vcpu}", shown[vcpu][f"dr{n}"], expected, ref="SDM3 9.1.1")
