"""I/O breakpoints: R/W = 10 with CR4.DE = 1 (IOB).

Every port access of a guest exits, so that the hypervisor has to deliver these itself.
"""

from __future__ import annotations

from harness.cases import axis, case, variant
from harness.expect import expect_equal, expect_exceptions, expect_register, expect_silence, expect_that, expect_trap
from harness.guest import Program
from harness.guest.registers import RFLAGS_RF
from harness.subjects import Subject

#: Ports that every guest may write: POST codes (completed in userland), the timer's counter (in the kernel), and a
#: range that nobody listens at, neither on a PC nor in bhyve.
POST, TIMER, UNUSED = 0x80, 0x40, 0xE4
#: The interrupt mask of the first controller, which can be read without effect.
PIC_MASK = 0x21


def watch_port(program: Program, port: int, *, length: int = 1, dr: int = 2) -> None:
    program.debug_extensions(True)
    program.arm(dr=dr, address=port, type="io", length=length)


@case(
    "IOB-01",
    rule="OUT to a watched port reports after the instruction with the right Bn",
    requirement="S1.1",
    refs=("SDM3 17.3.1.2",),
    priority=2,
)
@axis("port", (variant(POST, id="userland"), variant(TIMER, id="kernel")))
@axis("register", (0, 3), prefix="dr")
def test_out_to_a_watched_port(subject: Subject, port: int, register: int) -> None:
    program = Program(f"OUT to watched port {port:#x}")
    watch_port(program, port, dr=register)
    out = program.execute("out_dx_1", port, 0x55)
    found = subject.run(program).exceptions_of(out)
    expect_exceptions("OUT", found, "#DB", ref="SDM3 17.3.1.2")
    expect_trap(found[0], dr=register)


@case(
    "IOB-01",
    rule="A breakpoint for memory at a port's number is silent, and so is an I/O breakpoint for memory",
    refs=("SDM3 17.2.5",),
    priority=2,
)
def test_ports_and_memory_are_not_confused(subject: Subject) -> None:
    program = Program("port numbers and addresses")
    memory = program.watched(low=True)
    program.debug_extensions(True)
    program.arm(dr=1, address=POST, type="write", length=1)
    out = program.execute("out_dx_1", POST, 0x55)
    program.arm(dr=2, address=memory, type="io", length=1)
    store = program.store(memory, 1)
    result = subject.run(program)
    expect_silence("OUT beside a memory watch", result.exceptions_of(out), ref="SDM3 17.2.5")
    expect_silence("store beside an I/O breakpoint", result.exceptions_of(store), ref="SDM3 17.2.5")


@case(
    "IOB-02",
    rule="IN from a watched port reports after the instruction; the value read is correct",
    requirement="S1.1",
    refs=("SDM3 17.3.1.2",),
    priority=2,
)
def test_in_from_a_watched_port(subject: Subject) -> None:
    program = Program("IN from a watched port")
    before = program.execute("in_dx_1", PIC_MASK, result=True)
    watch_port(program, PIC_MASK)
    watched = program.execute("in_dx_1", PIC_MASK, result=True)
    result = subject.run(program)
    found = result.exceptions_of(watched)
    expect_exceptions("IN", found, "#DB", ref="SDM3 17.3.1.2")
    expect_trap(found[0], dr=2)
    expect_equal("value read", result.value(watched) & 0xFF, result.value(before) & 0xFF)


@case(
    "IOB-03",
    rule="Lengths and access sizes 1, 2, 4: an access that overlaps the range fires",
    requirement="S1.1",
    refs=("SDM3 17.2.5",),
    priority=3,
)
@axis("length", (1, 2, 4), prefix="len")
@axis("size", (1, 2, 4), prefix="size")
def test_overlapping_port_accesses(subject: Subject, length: int, size: int) -> None:
    program = Program(f"{length} watched ports, accesses of {size}")
    watch_port(program, UNUSED, length=length)
    hit = program.execute(f"out_dx_{size}", UNUSED)
    found = subject.run(program).exceptions_of(hit)
    expect_exceptions("an access to the first port", found, "#DB", ref="SDM3 17.2.5")


@case(
    "IOB-03",
    rule="Ports beside the watched range are silent, whatever the access size",
    refs=("SDM3 17.2.5",),
    priority=3,
)
@axis("size", (1, 2, 4), prefix="size")
def test_neighbouring_ports_are_silent(subject: Subject, size: int) -> None:
    program = Program(f"accesses of {size} beside watched ports")
    watch_port(program, UNUSED, length=2)
    below = program.execute(f"out_dx_{size}", UNUSED - size)
    above = program.execute(f"out_dx_{size}", UNUSED + 4)
    result = subject.run(program)
    expect_silence("an access below", result.exceptions_of(below), ref="SDM3 17.2.5")
    expect_silence("an access above", result.exceptions_of(above), ref="SDM3 17.2.5")


@case(
    "IOB-03",
    rule="R/W = 10 while CR4.DE = 0 is undefined: guest and host survive",
    refs=("SDM3 17.2.5",),
    priority=3,
)
def test_undefined_type_is_survived(subject: Subject) -> None:
    program = Program("R/W = 10 without CR4.DE")
    program.debug_extensions(False)
    program.arm(dr=2, address=POST, type="io", length=1)
    program.execute("out_dx_1", POST, 0x55)
    after = program.note(1)
    result = subject.run(program)
    expect_that("the guest went on", bool(result.of(after)), "a note", f"{len(result.of(after))} notes")


@case(
    "IOB-04",
    rule="REP INS and REP OUTS on a watched port report after the first iteration, the count showing progress",
    requirement="S1.1",
    refs=("SDM3 17.3.1.2",),
    priority=3,
    needs=("string-io",),
)
@axis("instruction", ("rep_outsb", "rep_insb"))
def test_repeated_port_accesses(subject: Subject, instruction: str) -> None:
    count = 4
    program = Program(f"{instruction} on a watched port")
    memory = program.watched(64)
    program.handler("rcx")
    watch_port(program, POST)
    repeated = program.execute(instruction, POST, memory, count)
    found = subject.run(program).exceptions_of(repeated)
    expect_exceptions(instruction, found, *["#DB"] * count, ref="SDM3 17.3.1.2")
    for done, record in enumerate(found, start=1):
        expect_register("iterations left", record.aux, count - done, ref="SDM3 17.3.1.2")
        expect_register("dr6.b2", record.dr6, 0b0100, mask=0xF, ref="SDM3 17.2.3")


@case(
    "IOB-04",
    rule="REP INS and REP OUTS on a port beside a watched one run to their end in silence, each byte at its place",
    refs=("SDM3 17.3.1.2",),
    priority=3,
    needs=("string-io",),
)
@axis("instruction", ("rep_outsb", "rep_insb"))
def test_repeated_accesses_beside_a_watched_port(subject: Subject, instruction: str) -> None:
    count = 4
    program = Program(f"{instruction} beside a watched port")
    memory = program.watched(64)
    before = 0x0807_0605_0403_0201
    program.poke(memory, 8, before)
    watch_port(program, UNUSED + 4)
    repeated = program.execute(instruction, UNUSED, memory, count)
    content = program.peek(memory)
    result = subject.run(program)
    expect_silence(instruction, result.exceptions_of(repeated), ref="SDM3 17.3.1.2")
    # Nobody drives the bus at that port: it reads as ones.
    read = {"rep_outsb": before, "rep_insb": before | 0xFFFF_FFFF}[instruction]
    expect_equal("memory afterwards", f"{result.value(content):#x}", f"{read:#x}")


@case(
    "IOB-04",
    rule="RF is set in the image of a report between two iterations of REP OUTS",
    requirement="S1.1",
    refs=("SDM3 17.3.1.1",),
    priority=3,
    needs=("string-io",),
)
def test_rf_between_port_accesses(subject: Subject) -> None:
    program = Program("RF between port accesses")
    memory = program.watched(64)
    watch_port(program, POST)
    repeated = program.execute("rep_outsb", POST, memory, 2)
    found = subject.run(program).exceptions_of(repeated)
    expect_exceptions("REP OUTSB", found, "#DB", "#DB", ref="SDM3 17.3.1.2")
    expect_register("rflags.rf of the first", found[0].rflags, RFLAGS_RF, mask=RFLAGS_RF, ref="SDM3 17.3.1.1")
