"""Pieces of guest programs and judgements that several themes share."""

from __future__ import annotations

from collections.abc import Sequence

from harness.errors import ProbeMismatch
from harness.expect import expect_equal, expect_exceptions, expect_register, expect_that
from harness.guest import DebugRegisters, Handle, Program, Record, Result
from harness.guest.registers import DR6_BS, DR6_INACTIVE, DR7_RESET
from harness.hosts import Observation
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


#: Behind the last instruction under test, three more are stepped: PUSHF, AND and the POPF that clears TF.
STEP_TAIL = 3


def steps_of(records: Sequence[Record]) -> tuple[Record, ...]:
    """The steps of the sequence itself, without the ones that end it."""
    return tuple(record for record in records if record.site < record.rip <= record.next)


def expect_steps(records: Sequence[Record], count: int, *, ref: str = "SDM3 17.3.1.4") -> None:
    """``count`` steps, each with BS, each further on than the one before, the last behind the sequence."""
    steps = steps_of(records)
    expect_exceptions(f"{count} stepped instructions", steps, *["#DB"] * count, ref=ref)
    for record in steps:
        expect_register("dr6.bs", record.dr6, DR6_BS, mask=DR6_BS, ref=ref)
    places = [record.rip for record in steps]
    expect_that("each step is further on", places == sorted(set(places)), "rising", str(places), ref=ref)
    expect_register("rip of the last step", places[-1], steps[-1].next, ref=ref)
    expect_equal("steps of the sequence's end", len(records) - len(steps), STEP_TAIL, ref=ref)


def expect_nothing_wrong(seen: Observation) -> None:
    """The program found nothing that must not be, at none of the entries and returns."""
    expect_that("entries seen", seen.entries > 0, "some", str(seen.entries), error=ProbeMismatch)
    for what, times in sorted(seen.wrong.items()):
        expect_equal(f"times it was {what}", times, 0, error=ProbeMismatch)
