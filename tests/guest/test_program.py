"""What no guest could do is refused where it is written, and the numbers of both sides are the same."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from harness.errors import ProgramInvalid
from harness.guest import EndMethod, Program, tables


@pytest.mark.parametrize(
    "attempt",
    [
        lambda p: p.execute("store_mov_4", 0x10000, mode="real"),
        lambda p: p.execute("store_mov_4", 0x4000, mode="real", segment_base=0x4008),
        lambda p: p.execute("store_mov_4", 0x200000, mode="vm86", segment_base=0x1FFFF0),
        lambda p: p.execute("store_mov_8", 0x4000, mode="prot32"),
        lambda p: p.execute("nop", mode="smm"),
        lambda p: p.execute("nop", 0, 0, 1 << 32, mode="compat"),
        lambda p: p.store(0x100000, 3),
        lambda p: p.handler("no_such_flag"),
        lambda p: p.map(0x1000, 0),
        lambda p: p.map(1 << 32, 0),
        lambda p: p.watched(2 << 20),
        lambda p: p.watched(0x4000, low=True),
        lambda p: p.sync(1, "telepathy"),
        lambda p: p.processor(0).__enter__(),
        lambda p: p.processor(99).__enter__(),
    ],
)
def test_the_impossible_is_refused(attempt: Callable[[Program], object]) -> None:
    with pytest.raises(ProgramInvalid):
        attempt(Program("impossible"))


def test_another_processor_stays_in_long_mode_and_away_from_the_console() -> None:
    program = Program("not there")
    with program.processor(1):
        with pytest.raises(ProgramInvalid):
            program.execute("nop", mode="real")
        with pytest.raises(ProgramInvalid):
            program.sync(1)
        with pytest.raises(ProgramInvalid):
            program.processor(2).__enter__()


def test_a_processors_part_stands_in_its_block() -> None:
    program = Program("two processors")
    with program.processor(1) as start:
        inside = program.note(1)
    behind = program.note(2)
    assert program.vcpus == 2
    op = program.ops[start.op]
    assert (op.a, op.b, op.x, op.y) == (1, 1, inside.op, behind.op)
    assert program.ops[behind.op - 1].opcode == tables.opcode("end")


def test_the_payload_is_what_the_runtime_reads() -> None:
    program = Program("layout")
    program.execute("store_mov_4", 0x5000, 7, 0x400, mode="prot16", segment_base=0x4000)
    payload = program.encode(0x1234, EndMethod.HLT)
    known = tables.constants()
    magic, version, end, nonce, count, length = struct.unpack_from("<IHHIII", payload)
    assert (magic, version, end, nonce, count, length) == (known["PAYLOAD_MAGIC"], 1, 2, 0x1234, 1, len(payload))
    opcode, a, mode, snippet, x, y, z = struct.unpack_from("<HBBIQQQ", payload, 32)
    assert (opcode, a, mode) == (known["OP_EXEC"], 0, known["MODE_PROT16"])
    assert snippet == tables.snippets(16)["store_mov_4"]
    assert (x, y, z) == (0x5000, 7, 0x4000 << 32 | 0x400)


def test_numbers_are_unique() -> None:
    known = tables.constants()
    for prefix in ("OP_", "RECORD_", "MODE_", "END_", "HANDLER_", "SYNC_"):
        numbers = [value for name, value in known.items() if name.startswith(prefix) and name != "END_TESTDEV_VALUE"]
        assert len(numbers) == len(set(numbers)), prefix
    for width in (16, 32, 64):
        assert list(tables.snippets(width).values()) == list(range(len(tables.snippets(width))))
    assert known["EXIT_KINDS"] == len(tables.exit_kinds())


def test_memory_areas_do_not_overlap() -> None:
    known = tables.constants()
    areas = [
        (known["RESET_STATE"], 64),
        (known["AP_STATE"], 64),
        (known["MAILBOX"], 4),
        (known["LEGACY"], 0x100),
        (known["LEGACY_EVENTS"], 64 * known["LEGACY_EVENTS_MAX"]),
        (known["GDT_SECOND"], 0x200),
        (known["IDT_SECOND"], 0x1000),
        (known["LOW_DATA"], known["LOW_DATA_END"] - known["LOW_DATA"]),
        (known["LOW_DATA_END"], known["LOW_STACK"] - known["LOW_DATA_END"]),
        (known["LOW_CODE"], 0x8000),
        (known["RAM_IMAGE"], known["RAM_IMAGE_END"] - known["RAM_IMAGE"]),
        (known["PAGE_TABLES"], 0x6000),
        (known["PAGE_TABLES_SECOND"], 0x6000),
        (known["RECORDS"], known["RECORDS_END"] - known["RECORDS"]),
        (0xE0000, 0x20000),  # bhyve's own tables
        (known["DATA_AREA"], known["DATA_AREA_END"] - known["DATA_AREA"]),
        (known["STACKS"], known["MAX_CPUS"] * known["CPU_STACKS"]),
        (known["FIRST_TOUCH"], known["MAX_CPUS"] * known["FIRST_TOUCH_SHARE"]),
    ]
    end = 0x400  # real mode's vector table
    for start, size in areas:
        assert start >= end, f"{start:#x}"
        end = start + size
    assert end <= known["FIRST_TOUCH_END"] <= 16 << 20
