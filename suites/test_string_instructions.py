"""Watches and single steps in repeated string instructions (STR)."""

from __future__ import annotations

from harness.cases import axis, case, variant
from harness.expect import expect_equal, expect_exceptions, expect_register, expect_that
from harness.guest import Handle, Program, Record
from harness.guest.registers import DR6_BS, RFLAGS_RF
from harness.subjects import Subject
from suites.guestlib import BUSY

#: Iterations of the short sequences, and the one that touches the watch.
COUNT, TOUCHING = 16, 8
#: What is copied, and what stands there before.
PATTERN, OLD = 0x1122_3344_5566_7788, 0xEEEE_EEEE_EEEE_EEEE
#: Bytes of an element, by instruction.
ELEMENT = {"rep_movsb": 1, "rep_movsq": 8, "rep_stosb": 1, "rep_stosq": 8}
PAGE = 4096


def expect_progress(record: Record, done: int, count: int) -> None:
    """The report came after ``done`` of ``count`` iterations or later, RIP and the count register telling the same."""
    left = record.aux
    expect_that("iterations left", left <= count - done, f"at most {count - done}", str(left), ref="SDM3 17.3.1.2")
    expect_register("rip", record.rip, record.site if left else record.next, ref="SDM3 17.3.1.2")


def start(program: Program, instruction: str, *, count: int = COUNT) -> tuple[int, int]:
    """Source and destination of ``count`` elements; the source holds the pattern everywhere."""
    size = ELEMENT[instruction] * count
    source, destination = program.watched(size, align=64), program.watched(size, align=64)
    for offset in range(0, size, 8):
        program.poke(source + offset, 8, PATTERN)
        program.poke(destination + offset, 8, OLD)
    program.handler("rcx")
    return source, destination


def run(program: Program, instruction: str, source: int, destination: int, *, count: int = COUNT) -> Handle:
    """The instruction; one that stores takes the pattern itself."""
    return program.execute(instruction, destination, source if "movs" in instruction else PATTERN, count)


@case(
    "STR-01",
    rule="REP MOVS and STOS crossing a watch report; source and destination are told apart; memory and count are right",
    requirement="S1.1",
    refs=("SDM3 17.3.1.2",),
    priority=2,
)
@axis("instruction", ("rep_movsb", "rep_movsq", "rep_stosb", "rep_stosq"))
@axis("exit_kind", ("none", "cpuid"))
def test_a_watched_destination(subject: Subject, instruction: str, exit_kind: str) -> None:
    size = ELEMENT[instruction]
    program = Program(f"watched destination of {instruction}")
    source, destination = start(program, instruction)
    watched = destination + size * TOUCHING
    program.arm(dr=1, address=watched, type="write", length=size)
    if exit_kind != "none":
        program.exit(exit_kind)
    copy = run(program, instruction, source, destination)
    program.disarm()
    last = program.peek(destination + size * COUNT - 8)
    result = subject.run(program)
    found = result.exceptions_of(copy)
    expect_exceptions(instruction, found, "#DB", ref="SDM3 17.3.1.2")
    expect_register("dr6", found[0].dr6, 0b0010, mask=DR6_BS | 0xF, ref="SDM3 17.2.3")
    expect_progress(found[0], TOUCHING + 1, COUNT)
    stored = PATTERN & 0xFF if instruction == "rep_stosb" else PATTERN
    expected = int.from_bytes(bytes([stored]) * 8, "little") if instruction == "rep_stosb" else stored
    expect_equal("memory at the end", result.value(last), expected)


@case(
    "STR-01",
    rule="A watch on the source for writes is silent in REP MOVS, one for reads and writes reports",
    requirement="S1.1",
    refs=("SDM3 17.3.1.2",),
    priority=2,
)
@axis("type", (variant("readwrite"), variant("write")))
def test_a_watched_source(subject: Subject, type: str) -> None:
    hits = {"readwrite": 1, "write": 0}[type]
    program = Program("watched source of REP MOVSB")
    source, destination = start(program, "rep_movsb")
    program.arm(dr=2, address=source + TOUCHING, type=type, length=1)
    copy = run(program, "rep_movsb", source, destination)
    found = subject.run(program).exceptions_of(copy)
    expect_exceptions("REP MOVSB", found, *["#DB"] * hits, ref="SDM3 17.3.1.2")
    for record in found:
        expect_progress(record, TOUCHING + 1, COUNT)


@case(
    "STR-02",
    rule="Backward, byte by byte: one report for each iteration that touches the range",
    requirement="S1.1",
    refs=("SDM3 17.3.1.2",),
    priority=3,
)
@axis("instruction", ("rep_movsb", "rep_stosb"))
def test_backwards_each_touch_reports(subject: Subject, instruction: str) -> None:
    program = Program(f"{instruction} backwards")
    source, destination = start(program, instruction)
    program.arm(dr=1, address=destination + 8, type="write", length=4)
    last = COUNT - 1
    copy = program.execute(
        f"{instruction}_back", destination + last, source + last if "movs" in instruction else PATTERN, COUNT
    )
    found = subject.run(program).exceptions_of(copy)
    # Bytes 11, 10, 9 and 8 are written by the fifth to the eighth iteration.
    expect_exceptions(instruction, found, *["#DB"] * 4, ref="SDM3 17.3.1.2")
    for done, record in enumerate(found, start=5):
        expect_register("iterations left", record.aux, COUNT - done, ref="SDM3 17.3.1.2")


@case(
    "STR-03",
    rule="TF with REP: one #DB for each iteration, RIP on the instruction until the last",
    requirement="S1.1",
    refs=("SDM3 17.3.1.4",),
    priority=2,
)
@axis("instruction", ("rep_stosb", "rep_movsb"))
def test_each_iteration_is_a_step(subject: Subject, instruction: str) -> None:
    count = 5
    program = Program(f"step over {instruction}")
    source, destination = start(program, instruction)
    steps = program.execute(f"step_{instruction}", destination, source, count)
    found = subject.run(program).exceptions_of(steps)
    inside = [record for record in found if record.rip == record.site]
    expect_exceptions("steps inside REP", inside, *["#DB"] * (count - 1), ref="SDM3 17.3.1.4")
    for left, record in zip(range(count - 1, 0, -1), inside, strict=True):
        expect_register("iterations left", record.aux, left, ref="SDM3 17.3.1.4")
        expect_register("dr6.bs", record.dr6, DR6_BS, mask=DR6_BS, ref="SDM3 17.2.3")
    behind = [record for record in found if record.rip == record.next]
    expect_exceptions("the step over the last iteration", behind, "#DB", ref="SDM3 17.3.1.4")
    expect_register("iterations left at the last step", behind[0].aux, 0, ref="SDM3 17.3.1.4")


@case(
    "STR-03",
    rule="A trap taken between two iterations of REP has RF set in its image",
    requirement="S1.1",
    refs=("SDM3 17.3.1.1",),
    priority=2,
)
def test_rf_between_iterations(subject: Subject) -> None:
    program = Program("RF between iterations")
    source, destination = start(program, "rep_stosb")
    program.arm(dr=1, address=destination + TOUCHING, type="write", length=1)
    copy = run(program, "rep_stosb", source, destination)
    found = subject.run(program).exceptions_of(copy)
    expect_exceptions("REP STOSB", found, "#DB", ref="SDM3 17.3.1.2")
    rf = RFLAGS_RF if found[0].rip == found[0].site else 0
    expect_register("rflags.rf", found[0].rflags, rf, mask=RFLAGS_RF, ref="SDM3 17.3.1.1")


@case(
    "STR-04",
    rule="A nested-page fault or a host interrupt in the middle of a watched REP loses and doubles nothing",
    requirement="S1.1",
    refs=("SDM3 27.3.4",),
    priority=2,
)
@axis("instruction", ("rep_stosb", "rep_movsb"))
def test_interrupted_repetitions(subject: Subject, instruction: str) -> None:
    count = 3 * PAGE
    program = Program(f"long {instruction}")
    # Never touched before: each page is a nested-page fault on its first byte.
    source, destination = program.watched(count, align=PAGE), program.watched(count, align=PAGE)
    program.handler("rcx")
    program.exit("busy", BUSY)
    # The last byte before a page boundary, the first behind it, and one in the middle of the last page.
    places = (PAGE - 1, PAGE, 2 * PAGE + 100)
    for number, place in enumerate(places):
        program.set_dr(number, destination + place)
    # L0-L2 on, write, one byte each (SDM volume 3, 17.2.4).
    program.set_dr(7, 0x400 | 0b010101 | 0x0111 << 16)
    copy = program.execute(instruction, destination, source if "movs" in instruction else PATTERN, count)
    found = subject.run(program).exceptions_of(copy)
    expect_exceptions(instruction, found, *["#DB"] * len(places), ref="SDM3 17.3.1.2")
    for number, (place, record) in enumerate(zip(places, found, strict=True)):
        expect_register("dr6", record.dr6, 1 << number, mask=DR6_BS | 0xF, ref="SDM3 17.2.3")
        expect_progress(record, place + 1, count)
