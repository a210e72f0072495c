"""Pieces of guest programs and judgements that several themes share."""

from __future__ import annotations

from harness.expect import expect_register
from harness.guest import DebugRegisters, Handle, Program, Result
from harness.guest.registers import DR6_INACTIVE, DR7_RESET
from harness.subjects import Subject

#: Thousands of loop passes that make a busy guest long enough to meet host timer interrupts.
BUSY = 60


def force(program: Program, kind: str, count: int = 1) -> Handle | None:
    """Put one exit of ``kind`` into the program; ``migrate`` waits for the host to move the vCPU."""
    if kind == "none":
        return None
    if kind == "migrate":
        return program.sync(1)
    return program.exit(kind, BUSY * count if kind == "busy" else count)


def run_with(subject: Subject, program: Program, kind: str) -> Result:
    """Run a program made with :func:`force`: for ``migrate`` the vCPU moves to the other CPU at phase 1."""
    if kind != "migrate":
        return subject.run(program)
    with subject.start(program, pin=0) as guest:
        guest.wait_phase(1)
        guest.pin(1)
        guest.go()
        return guest.finish()


def expect_debug_registers(
    observed: DebugRegisters,
    dr: tuple[int, int, int, int],
    *,
    dr6: int = DR6_INACTIVE,
    dr7: int = DR7_RESET,
    dr6_mask: int = 0xF00F,
    ref: str = "",
) -> None:
    """All six registers at once, each judged on its own line of the evidence."""
    for n, value in enumerate(dr):
        expect_register(f"dr{n}", observed[n], value, ref=ref)
    expect_register("dr6", observed.dr6, dr6, mask=dr6_mask, ref=ref)
    expect_register("dr7", observed.dr7, dr7, ref=ref)
