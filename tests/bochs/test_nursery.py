"""Copies of an emulator: the same machine as one that is started, without a trace of the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.bochs import CPU_MODELS, BochsConfig, BochsMachine, Nursery
from harness.errors import EmulatorFailed
from harness.guest import EndMethod, Program, Rom, decode
from harness.timing import Deadline

SECONDS = 20.0


def rom_of(folder: Path, program: Program, end: EndMethod = EndMethod.BOCHS) -> tuple[Rom, Path]:
    folder.mkdir(exist_ok=True)
    rom = Rom.build(program, end)
    (folder / "rom.bin").write_bytes(rom.image)
    return rom, folder / "rom.bin"


def counting() -> Program:
    """Says what is in memory, and leaves something there."""
    program = Program("counting")
    watched = program.watched()
    program.arm(dr=2, address=watched, type="write", length=8)
    program.store(watched)
    program.snapshot()
    return program


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    _, path = rom_of(tmp_path / "first", counting())
    made = Nursery(BochsConfig("intel", tmp_path, path, serial=tmp_path / "serial"))
    yield made
    made.close()


def config(folder: Path, path: Path) -> BochsConfig:
    return BochsConfig("intel", folder, path, serial=folder / "serial")


@pytest.mark.parametrize("vendor", sorted(CPU_MODELS))
def test_a_copy_is_the_machine_that_a_start_makes(vendor: str, tmp_path: Path) -> None:
    rom, path = rom_of(tmp_path / "rom", counting())
    seen = []
    nursery = Nursery(BochsConfig(vendor, tmp_path, path, serial=tmp_path / "serial"))
    try:
        for number in range(4):
            folder = tmp_path / str(number)
            folder.mkdir()
            like = BochsConfig(vendor, folder, path, serial=folder / "serial")
            with BochsMachine(like) if number == 0 else nursery.start(like) as machine:
                status = machine.wait(Deadline.after(SECONDS))
            result = decode((folder / "serial").read_bytes(), rom.nonce)
            seen.append((status, [record.as_dict() for record in result.records], machine.log.read_text()))
        assert not (tmp_path / "serial").exists()
    finally:
        nursery.close()
    # Registers after power-on, memory, records and the emulator's own log: all of it.
    assert seen[1:] == seen[:1] * 3
    assert "Shutdown port" in seen[1][2]


def test_a_copy_runs_its_own_program(nursery: Nursery, tmp_path: Path) -> None:
    for number in (7, 8):
        program = Program(f"notes {number}")
        program.note(number)
        rom, path = rom_of(tmp_path / str(number), program)
        with nursery.start(config(path.parent, path)) as machine:
            machine.wait(Deadline.after(SECONDS))
        result = decode((path.parent / "serial").read_bytes(), rom.nonce)
        assert [record.value for record in result.records if record.kind.name == "NOTE"] == [number]


def test_an_image_of_another_size_is_refused(nursery: Nursery, tmp_path: Path) -> None:
    _, path = rom_of(tmp_path / "long", counting())
    path.write_bytes(path.read_bytes() + bytes(4096))
    with pytest.raises(ValueError, match="other machines"):
        nursery.start(config(path.parent, path))


def test_a_rom_that_is_gone_is_told(nursery: Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, path = rom_of(tmp_path / "gone", counting())
    monkeypatch.setattr("harness.bochs.nursery._kind", lambda _: nursery._like)
    path.unlink()
    with pytest.raises(EmulatorFailed, match=r"could not load the ROM for '.*gone/rom.bin': No such file"):
        nursery.start(config(path.parent, path))


def test_a_copy_that_never_ends_is_killed_and_the_next_one_runs(nursery: Nursery, tmp_path: Path) -> None:
    _, path = rom_of(tmp_path / "parked", counting(), EndMethod.PARK)
    with nursery.start(config(path.parent, path)) as machine, pytest.raises(EmulatorFailed, match="did not end"):
        machine.wait(Deadline.after(0.3))
    assert not Path(f"/proc/{machine.pid}").exists()
    rom, path = rom_of(tmp_path / "next", counting())
    with nursery.start(config(path.parent, path)) as machine:
        assert machine.wait(Deadline.after(SECONDS)) == 1
    assert decode((path.parent / "serial").read_bytes(), rom.nonce)


def test_a_nursery_that_died_is_told(nursery: Nursery, tmp_path: Path) -> None:
    _, path = rom_of(tmp_path / "late", counting())
    nursery.start(config(path.parent, path)).kill()
    os.kill(nursery._pid, signal.SIGKILL)
    with pytest.raises(EmulatorFailed, match="copied for each program"):
        nursery.start(config(path.parent, path))


_ORPHAN = """
import sys, time
from pathlib import Path
from harness.bochs import BochsConfig, start_machine
folder, rom = Path(sys.argv[1]), Path(sys.argv[2])
machine = start_machine(BochsConfig("intel", folder, rom, serial=folder / "serial"))
print(machine.pid, flush=True)
time.sleep(60)
"""


def test_nothing_is_left_when_the_harness_is_killed(tmp_path: Path) -> None:
    _, path = rom_of(tmp_path / "orphan", counting(), EndMethod.PARK)
    with subprocess.Popen(
        [sys.executable, "-c", _ORPHAN, str(path.parent), str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as harness:
        assert harness.stdout is not None
        copy = int(harness.stdout.readline())
        children = Path(f"/proc/{harness.pid}/task/{harness.pid}/children").read_text(encoding="ascii").split()
        assert str(copy) in children
        assert len(children) == 2
        harness.kill()
    deadline = Deadline.after(SECONDS)
    while any(Path(f"/proc/{child}/cmdline").exists() and _alive(child) for child in children):
        assert not deadline.expired(), "an emulator outlived the harness"
        time.sleep(0.02)
    assert not list(tmp_path.glob("vmmcheck-nursery-*"))


def _alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
