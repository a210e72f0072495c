"""The emulator as a process: no window, no port, nothing left behind."""

from __future__ import annotations

import os
import select
from pathlib import Path

import pytest

from harness.bochs import CPU_MODELS, BochsConfig, BochsMachine, RamImage
from harness.errors import EmulatorFailed, ToolMissing
from harness.guest import EndMethod, Program, Rom, decode, has_banner, phases
from harness.timing import Deadline, wait_until

SECONDS = 20.0


def image(folder: Path, program: Program, end: EndMethod) -> tuple[Rom, Path]:
    rom = Rom.build(program, end)
    path = folder / "rom.bin"
    path.write_bytes(rom.image)
    return rom, path


def waiting() -> Program:
    program = Program("waits")
    program.sync(1)
    program.note(2)
    return program


def sockets(pid: int) -> set[str]:
    """Sockets that the process holds, listening or not."""
    links = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    return {link for link in links if link.startswith("socket:")}


def test_the_configuration_says_what_was_asked(tmp_path: Path) -> None:
    config = BochsConfig(
        "amd", tmp_path, tmp_path / "rom", ncpu=2, memory=64, serial=tmp_path / "serial",
        ram_images=(RamImage(tmp_path / "kernel", 0x200000),),
    )  # fmt: skip
    text = config.render(str(tmp_path / "serial"))
    assert f"cpu: model={CPU_MODELS['amd']}, count=2" in text
    assert "memory: guest=64, host=64" in text
    assert f"optramimage1: file={tmp_path / 'kernel'}, address=0x200000" in text
    assert f"com1: enabled=1, mode=file, dev={tmp_path / 'serial'}" in text
    assert "display_library: term" in text


@pytest.mark.parametrize("vendor", sorted(CPU_MODELS))
def test_a_run_with_a_file_as_console(vendor: str, tmp_path: Path) -> None:
    program = Program("short")
    program.note(1)
    rom, path = image(tmp_path, program, EndMethod.BOCHS)
    serial = tmp_path / "serial"
    with BochsMachine(BochsConfig(vendor, tmp_path, path, serial=serial)) as machine:
        status = machine.wait(Deadline.after(SECONDS))
    assert status == 1
    assert decode(serial.read_bytes(), rom.nonce)
    assert 0 < machine.cpu_seconds() < 2


def test_a_run_with_both_directions_no_port_and_a_pause(tmp_path: Path) -> None:
    rom, path = image(tmp_path, waiting(), EndMethod.BOCHS)
    console = b""

    def read(machine: BochsMachine) -> bytes:
        nonlocal console
        if select.select([machine.serial_fd], [], [], 0.05)[0]:
            console += os.read(machine.serial_fd, 65536)
        return console

    with BochsMachine(BochsConfig("intel", tmp_path, path)) as machine:
        wait_until(lambda: phases(read(machine), rom.nonce), Deadline.after(SECONDS), "phase 1")
        assert sockets(machine.pid) == set()
        machine.pause()
        stopped = wait_until(
            lambda: Path(f"/proc/{machine.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "T",
            Deadline.after(SECONDS),
            "the process to stop",
        )
        assert stopped
        before = machine.cpu_seconds()
        os.write(machine.serial_fd, b"g")
        assert machine.alive()
        assert machine.cpu_seconds() == before
        machine.resume()
        wait_until(lambda: bool(read(machine)) and machine.ended(), Deadline.after(SECONDS), "the end")
        while select.select([machine.serial_fd], [], [], 0)[0]:
            read(machine)
        assert machine.poll() == 1
    assert decode(console, rom.nonce)


def test_a_guest_that_never_ends_is_killed(tmp_path: Path) -> None:
    program = Program("parked")
    program.note()
    _, path = image(tmp_path, program, EndMethod.PARK)
    with BochsMachine(BochsConfig("amd", tmp_path, path, serial=tmp_path / "serial")) as machine:
        with pytest.raises(EmulatorFailed):
            machine.wait(Deadline.after(0.3))
        pid = machine.pid
        assert machine.alive()
    assert machine.poll() is not None
    assert not Path(f"/proc/{pid}").exists()
    machine.kill()


def test_processors_are_counted(tmp_path: Path) -> None:
    program = Program("three")
    with program.processor(2) as started:
        program.note(7)
    program.wait_processor(2)
    rom, path = image(tmp_path, program, EndMethod.BOCHS)
    serial = tmp_path / "serial"
    with BochsMachine(BochsConfig("intel", tmp_path, path, ncpu=program.vcpus, serial=serial)) as machine:
        machine.wait(Deadline.after(SECONDS))
    assert decode(serial.read_bytes(), rom.nonce).started(started)


def test_a_missing_emulator_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="bochs") as caught:
        BochsMachine(BochsConfig("intel", tmp_path, tmp_path / "rom"))
    assert "apt-get install" in caught.value.help


def test_a_broken_image_leaves_a_reason_in_the_log(tmp_path: Path) -> None:
    with BochsMachine(BochsConfig("intel", tmp_path, tmp_path / "missing.bin", serial=tmp_path / "s")) as machine:
        assert machine.wait(Deadline.after(SECONDS)) != 0
    assert not has_banner((tmp_path / "s").read_bytes() if (tmp_path / "s").exists() else b"", 0)
    assert "missing.bin" in machine.log.read_text(encoding="utf-8", errors="replace")
