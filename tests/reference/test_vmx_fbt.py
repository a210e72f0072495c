"""Probes on the VT-x world switch: where they are, that they fire in pairs, and that a guest notices nothing."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from harness.build.reference import build_reference_hypervisor
from tests.reference.vmx_lab import Lab
from tests.reference.vmx_scenarios import watch_through, watched_hits

#: CTL_FBT_* of include/ctl.h
FBT_LIST, FBT_ENABLE, FBT_READ, FBT_DISABLE = 0x60, 0x61, 0x62, 0x63
ENTRY, RETURN = 1, 2
PROBE = 3

_RECORD = struct.Struct("<IIII QQ 5Q Q 6Q 24s 104x")


@dataclass(frozen=True, slots=True)
class Fired:
    """What a record of ``fbt.h`` says: 1 entry or 2 return, offset in the function, first argument, DR7, thread."""

    what: int
    offset: int
    arg0: int
    dr7: int
    thread: str

    @classmethod
    def unpack(cls, data: bytes) -> Fired:
        words = _RECORD.unpack(data)
        return cls(words[1], words[3], words[6], words[11], words[18].rstrip(b"\0").decode())


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("vmx")) as lab:
        lab.load()
        yield lab


@pytest.fixture(scope="module")
def function() -> tuple[int, int]:
    """Address and size of vmx_enter_guest."""
    with build_reference_hypervisor()[1].elf.open("rb") as stream:
        table = ELFFile(stream).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        symbols = table.get_symbol_by_name("vmx_enter_guest")
    assert symbols
    return symbols[0]["st_value"], symbols[0]["st_size"]


def test_one_entry_and_three_returns(lab: Lab, function: tuple[int, int]) -> None:
    """Failed entry, exit with the return stack buffer filled, plain exit."""
    answer = lab.machine.request(FBT_LIST, struct.pack("<QI", *function))
    entry, returns = struct.unpack_from("<iI", answer)
    assert entry == 0
    assert returns == 3


@pytest.mark.parametrize("kind", ["cpuid", "busy"])
def test_guest_notices_nothing(lab: Lab, function: tuple[int, int], kind: str) -> None:
    lab.machine.request(FBT_ENABLE, struct.pack("<IQII", PROBE, *function, ENTRY | RETURN))
    try:
        facts = watch_through(lab, kind)
        data = lab.machine.request(FBT_READ, struct.pack("<I", 8))
    finally:
        counts = lab.machine.request(FBT_DISABLE, struct.pack("<I", PROBE))
    assert facts == watched_hits()
    entries, returns, _ = struct.unpack("<QQQ", counts)
    assert entries == returns > 100
    fired = [Fired.unpack(data[at : at + _RECORD.size]) for at in range(0, len(data), _RECORD.size)]
    assert [record.what for record in fired] == [ENTRY, RETURN] * (len(fired) // 2)
    # The host's breakpoints are off on both sides (writing 0 to DR7 leaves bit 10 set).
    assert {record.dr7 for record in fired} == {0x400}
    assert {record.thread for record in fired} == {"vcpu 0"}
    assert len({record.arg0 for record in fired if record.what == ENTRY}) == 1
