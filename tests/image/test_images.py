"""Images: what is refused before anything is booted, and the conversation with a shell on a line."""

from __future__ import annotations

import hashlib
import lzma
import os
import pty
import struct
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli import cli
from harness.errors import ConfigError, EmulatorFailed, ToolMissing
from harness.image import copy_image, look_at, verify
from harness.image.console import Console
from harness.image.prepare import public_key
from harness.timing import Deadline

TYPES = {
    "boot": "83bd6b9d-7f41-11dc-be0b-001560b84f0f",
    "ufs": "516e7cb6-6ecf-11d6-8ff8-00022d09712b",
    "zfs": "516e7cba-6ecf-11d6-8ff8-00022d09712b",
    "linux": "0fc63daf-8483-4772-8e79-3d69d8477de4",
}
UFS_AT, SIZE = 64, 1024


def disk(folder: Path, *kinds: str, magic: int = 0x19540119, clean: int = 1) -> Path:
    """A disk of 512 KiB with partitions of these kinds; the last one begins at sector 64."""
    raw = bytearray(SIZE * 512)
    raw[512:520] = b"EFI PART"
    struct.pack_into("<QII", raw, 512 + 72, 2, 128, 128)
    for at, kind in enumerate(kinds):
        first = UFS_AT if at == len(kinds) - 1 else 40
        entry = 1024 + at * 128
        raw[entry : entry + 16] = uuid.UUID(TYPES[kind]).bytes_le
        struct.pack_into("<QQ", raw, entry + 32, first, SIZE - 1 if first == UFS_AT else 47)
    block = UFS_AT * 512 + 65536
    struct.pack_into("<I", raw, block + 1372, magic)
    raw[block + 209] = clean
    path = folder / "disk.raw"
    path.write_bytes(raw)
    return path


def test_a_freebsd_disk_is_known_by_its_table_and_its_superblock(tmp_path: Path) -> None:
    found = look_at(disk(tmp_path, "boot", "ufs"))
    assert [kind for kind, _ in found.partitions] == ["freebsd-boot", "freebsd-ufs"]
    assert found.root == UFS_AT * 512
    assert found.clean
    assert not look_at(disk(tmp_path, "boot", "ufs", clean=0)).clean


@pytest.mark.parametrize(
    ("kinds", "magic", "said"),
    [
        (("boot", "zfs"), 0x19540119, "root on ZFS"),
        (("linux",), 0x19540119, "no FreeBSD disk: its partitions are 0fc63daf"),
        (("ufs",), 0x19540119, "boots by UEFI only"),
        (("boot", "ufs"), 0x1234, "no file system in it"),
    ],
)
def test_another_disk_is_refused_by_what_it_is(
    tmp_path: Path, kinds: tuple[str, ...], magic: int, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        look_at(disk(tmp_path, *kinds, magic=magic))


def test_what_is_no_disk_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.raw"
    file.write_bytes(bytes(4096))
    with pytest.raises(ConfigError, match="no disk with a partition table"):
        look_at(file)
    medium = bytearray(4096)
    medium[450], medium[510:512] = 0xA5, b"\x55\xaa"
    file.write_bytes(medium)
    with pytest.raises(ConfigError, match="an installation medium"):
        look_at(file)
    cd = bytearray(40960)
    cd[32769:32774] = b"CD001"
    file.write_bytes(cd)
    with pytest.raises(ConfigError, match="a CD image"):
        look_at(file)


def test_a_copy_is_the_same_with_holes_for_zeros_and_xz_is_unpacked(tmp_path: Path) -> None:
    data = b"begin" + bytes(5 << 20) + b"end" + bytes(2 << 20)
    plain, packed = tmp_path / "x.raw", tmp_path / "x.raw.xz"
    plain.write_bytes(data)
    packed.write_bytes(lzma.compress(data))
    for image in (plain, packed):
        copy = tmp_path / f"{image.name}.copy"
        copy_image(image, copy)
        assert copy.read_bytes() == data
        assert copy.stat().st_blocks * 512 < len(data) / 2
        with pytest.raises(ConfigError, match="exists already"):
            copy_image(image, copy)


def test_damaged_and_foreign_files_leave_no_copy(tmp_path: Path) -> None:
    target = tmp_path / "out"
    cut = tmp_path / "cut.xz"
    cut.write_bytes(lzma.compress(os.urandom(100_000))[:50_000])
    with pytest.raises(ConfigError, match="is damaged"):
        copy_image(cut, target)
    assert not target.exists()
    other = tmp_path / "x.qcow2"
    other.write_bytes(b"QFI\xfb" + bytes(100))
    with pytest.raises(ConfigError, match=r"a qcow2 image.*qemu-img convert"):
        copy_image(other, target)
    assert not target.exists()


def test_checksums_are_compared_in_both_forms(tmp_path: Path) -> None:
    image, sums = tmp_path / "F.raw", tmp_path / "CHECKSUM"
    image.write_bytes(b"x")
    long, short = hashlib.sha512(b"x").hexdigest(), hashlib.sha256(b"x").hexdigest()
    sums.write_text(f"SHA512 (G.raw) = {'0' * 128}\nSHA512 (F.raw) = {long}\n")
    assert verify(image, sums) == f"SHA512 {long}"
    sums.write_text(f"{short}  F.raw\n")
    assert verify(image, sums) == f"SHA256 {short}"
    sums.write_text(f"SHA256 (F.raw) = {'0' * 64}\n")
    with pytest.raises(ConfigError, match="is not what was published"):
        verify(image, sums)
    sums.write_text(f"SHA256 (G.raw) = {short}\n")
    with pytest.raises(ConfigError, match=r"no SHA256 or SHA512 sum for 'F\.raw'"):
        verify(image, sums)


def test_only_one_public_key_is_taken_and_a_private_one_is_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIF me@here\n")
    assert public_key(file).startswith("ssh-ed25519 ")
    for text in ("-----BEGIN OPENSSH PRIVATE KEY-----\nSECRET\n", "ssh-ed25519 AAAA it's\n", ""):
        file.write_text(text)
        with pytest.raises(ConfigError, match="no single public SSH key") as caught:
            public_key(file)
        assert "SECRET" not in str(caught.value)


def test_a_refused_image_leaves_nothing_and_the_original_alone(tmp_path: Path) -> None:
    image, key, out = disk(tmp_path, "boot", "zfs"), tmp_path / "key.pub", tmp_path / "out.img"
    key.write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIF me\n")
    before = image.read_bytes()
    done = CliRunner().invoke(cli, ["image", "prepare", str(image), "--key", str(key), "--out", str(out)])
    assert done.exit_code == 4
    assert "root on ZFS" in done.output
    assert not out.exists()
    assert image.read_bytes() == before


def test_without_qemu_its_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    image, key, out = disk(tmp_path, "boot", "ufs"), tmp_path / "key.pub", tmp_path / "out.img"
    key.write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIF me\n")
    done = CliRunner().invoke(cli, ["image", "prepare", str(image), "--key", str(key), "--out", str(out)])
    assert ToolMissing.code in done.output
    assert "apt-get install qemu-system-x86" in done.output
    assert not out.exists()


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Console]:
    """A real sh on a real terminal, with its echo on."""
    ours, theirs = pty.openpty()
    shell = subprocess.Popen(["sh", "-i"], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    yield Console(ours, ours, tmp_path / "log")
    shell.kill()
    shell.wait()
    os.close(ours)


def test_status_and_output_of_a_command_come_back_whatever_is_echoed(line: Console, tmp_path: Path) -> None:
    line.run("PS1=; PS2=; stty -echo", 20)
    assert line.run("echo one; echo two", 20) == (0, "one\ntwo")
    assert line.run("false", 20) == (1, "")
    assert line.run("(exit 7)", 20)[0] == 7
    assert b"two" in (tmp_path / "log").read_bytes()


def test_the_first_of_several_texts_counts_and_silence_is_told_with_the_last_words(line: Console) -> None:
    line.run("PS1=; PS2=; stty -echo", 20)
    line.send("echo alpha beta\r")
    assert line.expect({"second": rb"beta", "first": rb"alpha"}, Deadline.after(20), "x") == "first"
    line.send("echo last words\r")
    with pytest.raises(EmulatorFailed, match=r"No prompt: not within 1 s; .*last words"):
        line.expect({"never": rb"nothing like this"}, Deadline.after(1), "No prompt")
