"""Function boundary tracing: probes in pairs, stacks to walk, and what a return probe finds without GS.base."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from harness.build.reference import build_reference_hypervisor
from harness.emulated.ctl import KernelError
from harness.guest import Program
from tests.reference.vmx_lab import Lab

FBT_LIST, FBT_ENABLE, FBT_READ, FBT_DISABLE, FBT_COUNTS = range(0x60, 0x65)
ENTRY, RETURN = 1, 2
#: struct fbt_record of include/fbt.h
RECORD = struct.Struct("<4I2Q5QQ6Q24s104x")
WORLD_SWITCH = {"intel": ("vmx_enter_guest", "vmx_run"), "amd": ("svm_launch", "svm_run")}


@dataclass(frozen=True, slots=True)
class Function:
    name: str
    start: int
    size: int

    def covers(self, address: int) -> bool:
        return self.start < address <= self.start + self.size

    def where(self) -> bytes:
        return struct.pack("<QI", self.start, self.size)


def functions() -> dict[str, Function]:
    with build_reference_hypervisor()[1].elf.open("rb") as stream:
        symbols = ELFFile(stream).get_section_by_name(".symtab")
        assert isinstance(symbols, SymbolTableSection)
        return {s.name: Function(s.name, s["st_value"], s["st_size"]) for s in symbols.iter_symbols() if s["st_size"]}


def program() -> Program:
    program = Program("trace")
    program.exit("cpuid", 20)
    program.exit("out80", 5)
    program.execute("hostile_bases")
    return program


def enable(lab: Lab, number: int, function: Function, what: int = ENTRY | RETURN) -> int:
    payload = struct.pack("<I", number) + function.where() + struct.pack("<I", what)
    return int(struct.unpack("<I", lab.machine.request(FBT_ENABLE, payload))[0])


def disable(lab: Lab, number: int) -> tuple[int, int, int]:
    entries, returns, dropped = struct.unpack("<3Q", lab.machine.request(FBT_DISABLE, struct.pack("<I", number)))
    return entries, returns, dropped


def test_entry_and_return_come_in_pairs(both: Lab) -> None:
    known = functions()
    names = (*WORLD_SWITCH[both.machine.vendor], "vm_run")
    for number, name in enumerate(names):
        assert enable(both, number, known[name]) >= 2
    both.run(program())
    for number, _ in enumerate(names):
        entries, returns, _ = disable(both, number)
        assert entries == returns > 20
    # Nothing is left of the probes.
    both.run(program())
    with pytest.raises(KernelError, match="2"):
        both.machine.request(FBT_COUNTS, struct.pack("<I", 0))


def test_records_tell_cpu_thread_and_callers(both: Lab) -> None:
    known = functions()
    both.machine.request(FBT_READ, struct.pack("<I", 40))
    while both.machine.request(FBT_READ, struct.pack("<I", 40)):
        pass
    switch, run = (known[name] for name in WORLD_SWITCH[both.machine.vendor])
    enable(both, 3, switch)
    both.run(program(), pin=1)
    disable(both, 3)
    data = both.machine.request(FBT_READ, struct.pack("<I", 20))
    records = [RECORD.unpack_from(data, at) for at in range(0, len(data), RECORD.size)]
    assert [record[1] for record in records] == [ENTRY, RETURN] * 10
    assert len({record[4] for record in records}) == 1
    for record in records:
        frames = record[12:18]
        assert record[2] == 1
        assert record[18].rstrip(b"\0") == b"vcpu 0"
        assert run.covers(frames[0])
        assert known["vm_run"].covers(frames[1])


def test_sites(both: Lab) -> None:
    switch = functions()[WORLD_SWITCH[both.machine.vendor][0]]
    answer = both.machine.request(FBT_LIST, switch.where())
    entry, count, *returns = struct.unpack(f"<iI{len(answer) // 4 - 2}I", answer)
    assert entry == 0
    assert len(returns) == count >= 1
    with pytest.raises(KernelError, match="22"):
        enable(both, 16, switch)


def test_return_probe_without_gs_base_resets_the_host(tmp_path: Path) -> None:
    """S2's negative control: the handler reaches for per-CPU data through the guest's GS.base. No panic, no trace."""
    switch = functions()["svm_launch"]
    with Lab(tmp_path, "amd") as lab:
        lab.load("svm-gsbase-by-caller")
        lab.run(program())
        enable(lab, 0, switch, ENTRY)
        lab.run(program())
        disable(lab, 0)
        assert not lab.panics
        enable(lab, 0, switch, RETURN)
        lab.start(program())
        assert lab.wait_panic(5)
        assert lab.panics == ["reset"]
