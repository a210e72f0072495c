"""The image: reproducible, laid out as the hosts need it, and bootable where no hypervisor of ours is."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from harness.build import build_image
from harness.build.toolchain import BuildFailed
from harness.guest import EndMethod, Program, Rom, decode, is_finished, tables
from harness.guest.rom import runtime_image, runtime_spec

QEMU = shutil.which("qemu-system-x86_64")


def watch(end: EndMethod) -> Rom:
    program = Program("watch")
    watched = program.watched()
    program.arm(dr=0, address=watched, type="write", length=8)
    program.store(watched)
    return Rom.build(program, end)


def test_two_builds_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (build_image(runtime_spec(), build_dir=tmp_path / name) for name in ("one", "two"))
    assert first.key == second.key
    assert first.binary.read_bytes() == second.binary.read_bytes() == runtime_image()


def test_a_build_is_looked_up_by_its_inputs(tmp_path: Path) -> None:
    spec = runtime_spec()
    other = replace(spec, cflags=("-DOTHER=1",))
    first = build_image(spec)
    before = first.binary.stat().st_mtime_ns
    assert build_image(spec).binary.stat().st_mtime_ns == before
    assert build_image(other, build_dir=tmp_path).key != first.key


def test_a_source_that_does_not_compile_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.c"
    broken.write_text("int f(void) { return nothing; }\n", encoding="utf-8")
    spec = replace(runtime_spec(), name="broken", sources=(broken,))
    with pytest.raises(BuildFailed, match=r"broken\.c"):
        build_image(spec, build_dir=tmp_path)
    assert not [path for path in (tmp_path / "images").iterdir() if path.is_dir()]


def test_the_image_ends_at_4_gib_with_a_jump() -> None:
    rom = watch(EndMethod.HLT)
    size = tables.constants()["PAYLOAD_SIZE"]
    assert len(rom.image) == 64 * 1024
    assert rom.image[:4] == b"VGP1"
    assert rom.image[size:] == runtime_image()
    # E9: jmp rel16 to the first byte of the runtime, in the wrapped 16-bit offsets of real mode.
    assert rom.image[0xFFF0] == 0xE9
    offset = int.from_bytes(rom.image[0xFFF1:0xFFF3], "little")
    assert (0xFFF3 + offset) & 0xFFFF == size


def test_nothing_that_is_written_stays_in_the_rom() -> None:
    known = tables.constants()
    with build_image(runtime_spec()).elf.open("rb") as stream:
        sections = {section.name: section for section in ELFFile(stream).iter_sections() if section["sh_addr"]}
    for name in (".ram", ".bss"):
        assert known["RAM_IMAGE"] <= sections[name]["sh_addr"]
        assert sections[name]["sh_addr"] + sections[name]["sh_size"] <= known["RAM_IMAGE_END"]
    assert sections[".low"]["sh_addr"] == known["LOW_CODE"]
    for name in (".rom", ".reset"):
        assert not sections[name]["sh_flags"] & 1  # SHF_WRITE


def test_a_nonce_makes_the_image_its_own() -> None:
    first, second = watch(EndMethod.HLT), watch(EndMethod.HLT)
    assert first.nonce != second.nonce
    assert first.sha256 != second.sha256
    assert first.runtime_sha256 == second.runtime_sha256


def boot_qemu(rom: Rom, folder: Path, seconds: float) -> tuple[int | None, bytes]:
    """Exit status (``None``: still running) and console of a run in QEMU, which only has to boot and report."""
    assert QEMU is not None
    image, serial = folder / "rom.bin", folder / "serial.out"
    image.write_bytes(rom.image)
    command = [
        QEMU, "-accel", "tcg", "-cpu", "max", "-m", "32", "-bios", str(image), "-display", "none", "-nodefaults",
        "-serial", f"file:{serial}", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-no-reboot",
    ]  # fmt: skip
    try:
        status: int | None = subprocess.run(command, timeout=seconds, capture_output=True, check=False).returncode
    except subprocess.TimeoutExpired:
        status = None
    return status, serial.read_bytes()


@pytest.mark.skipif(QEMU is None, reason="qemu-system-x86_64 is not installed")
@pytest.mark.parametrize(
    ("end", "status"),
    # isa-debug-exit ends with (value << 1) | 1 as bhyve's pc-testdev does; both listen at port 0xf4.
    [(EndMethod.QEMU, 17), (EndMethod.TESTDEV, 17), (EndMethod.REBOOT, 0), (EndMethod.HLT, None)],
    ids=lambda value: getattr(value, "name", str(value)).lower(),
)
def test_the_same_image_boots_elsewhere_and_ends_as_told(end: EndMethod, status: int | None, tmp_path: Path) -> None:
    rom = watch(end)
    seen, console = boot_qemu(rom, tmp_path, 20 if status is not None else 3)
    assert seen == status
    assert is_finished(console)
    (record,) = decode(console, rom.nonce).debug_exceptions
    assert (record.rip, record.dr6 & 0xF) == (record.next, 1)
