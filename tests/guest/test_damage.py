"""Each of the three checks of records by itself: their places, their number, and the checksum over all of them."""

from __future__ import annotations

import struct
import zlib

import pytest

from harness.errors import RecordsDamaged
from harness.guest import decode
from harness.guest.records import Kind, with_memory

NONCE = 0x1234_5678


def _line(text: str) -> bytes:
    return f"{text} {zlib.crc32(text.encode()):08x}\r\n".encode()


def _record(seq: int, value: int = 0) -> bytes:
    return struct.pack("<IBBHQIIHBBIQQQQQQ", seq, Kind.VALUE, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, value, 0, 0, 0)


def _evidence(records: list[bytes], *, count: int | None = None, crc: int | None = None) -> bytes:
    memory = b"".join(records)
    total = zlib.crc32(memory) if crc is None else crc
    told = len(records) if count is None else count
    console = _line(f"VGP1 B {NONCE:08x}") + _line(f"VGP1 E {NONCE:08x} {told:x} {total:08x}")
    return with_memory(console, memory)


def test_whole_records_in_memory_decode() -> None:
    result = decode(_evidence([_record(0, 5), _record(1, 6)]), NONCE)
    assert [record.value for record in result.records] == [5, 6]


def test_a_changed_byte_in_memory_is_no_result() -> None:
    right = zlib.crc32(_record(0, 5))
    with pytest.raises(RecordsDamaged, match="checksum over all"):
        decode(_evidence([_record(0, 4)], crc=right), NONCE)


def test_records_out_of_place_are_no_result_whatever_their_checksum_says() -> None:
    with pytest.raises(RecordsDamaged, match="says that it is record 1"):
        decode(_evidence([_record(1), _record(0)]), NONCE)


@pytest.mark.parametrize("told", [1, 3])
def test_another_number_of_records_is_no_result(told: int) -> None:
    with pytest.raises(RecordsDamaged, match=f"sent {told} records, 2 arrived"):
        decode(_evidence([_record(0), _record(1)], count=told), NONCE)
