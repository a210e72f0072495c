"""The script of a guest run, by a real shell with small programs in the place of FreeBSD's."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from harness.bhyve import BhyveOptions, RunScript
from harness.errors import CommandFailed, LeaseLost, UnexpectedAnswer
from harness.hosts import Host
from harness.recording import NullRecorder
from harness.transport import CommandResult, through_sh
from harness.transport.ssh import SshTransport

ROM = bytes(range(256)) * 256
BOOT = "0123456789abcdef0123456789abcdef"
KLDSTAT = """echo 'Id Refs Address                Size Name'
echo ' 2    1 0xffffffff82600000   53c438 vmm.ko (/boot/kernel/vmm.ko)'
printf '\\tContains modules:\\n\\t\\t Id Name\\n\\t\\t514 vmm\\n'"""


class Kept(NullRecorder):
    def __init__(self) -> None:
        self.commands: dict[str, tuple[int | None, bytes, bytes]] = {}

    def add_command(
        self, argv: str, status: int | None, stdout: bytes, stderr: bytes, started: float, seconds: float
    ) -> None:
        self.commands[argv.split(" ")[0]] = (status, stdout, stderr)


class Place:
    """A folder of programs that stand for FreeBSD's, and the shell that runs the script with them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = Host(SshTransport("place", []))
        self.kept = Kept()
        self.program("sha256", 'sha256sum "$2" | cut -d" " -f1')
        self.program("bhyve", "printf hello; cat; echo said >&2; exit 17")
        self.program("bhyvectl", "exit 0")
        self.program("kldstat", KLDSTAT)
        self.program("sysctl", f"echo Format: Length:16 Dump:0x{BOOT}")
        self.program("dmesg", f"echo old; cat {folder}/log; echo new line")
        self.program("logger", f'echo "kernel: $5" >>{folder}/log')
        self.program("ls", "exit 1")

    def program(self, name: str, body: str) -> None:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        path.chmod(0o755)

    def run(self, *, rom: bytes = ROM, sent: bytes = ROM + b"typed") -> tuple[RunScript, CommandResult]:
        options = BhyveOptions("vmmcheck", str(self.folder / "t.rom"), pins=(1,))
        script = RunScript(options, rom, self.host, "00c0ffee quick")
        shell = shutil.which("dash") or "/bin/sh"
        started = time.time()
        done = subprocess.run(
            [shell, "-c", through_sh(script.text())],
            input=sent,
            capture_output=True,
            env={**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}"},
            check=False,
        )
        return script, CommandResult("script", done.returncode, done.stdout, done.stderr, started, 1.0)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_whole_run(place: Place) -> None:
    script, done = place.run()
    assert done.stdout == b"hellotyped"  # the console alone, with what came behind the image as its input
    assert script.ended(done.stderr)
    finished = script.read(done, place.kept)
    assert (finished.status, finished.stderr.strip()) == (17, "said")
    view = finished.view
    assert view.boot.id == BOOT
    assert view.module is not None
    assert (view.module.path, view.module.modules) == ("/boot/kernel/vmm.ko", ("vmm",))
    assert view.machines == ()
    assert view.messages == ("new line",)  # what was there before the mark is not of this run
    assert place.kept.commands["bhyve"] == (17, b"hellotyped", b"said\n")
    assert place.kept.commands["head"][1].decode().strip() == hashlib.sha256(ROM).hexdigest()
    assert not (place.folder / "t.rom").exists()


def test_a_bhyve_that_a_signal_ends_has_a_status_and_is_cleared_away(place: Place) -> None:
    place.program("bhyve", "kill -ABRT $$")
    script, done = place.run()
    assert script.read(done, place.kept).status == 134
    assert not list(place.folder.glob("core*"))


def test_an_image_that_does_not_arrive_is_told(place: Place) -> None:
    script, done = place.run(sent=ROM[:1000])
    with pytest.raises(CommandFailed, match="did not arrive whole"):
        script.read(done, place.kept)
    place.program("sha256", "echo 'sha256: t.rom: No space left on device' >&2; exit 1")
    script, done = place.run()
    with pytest.raises(CommandFailed, match="No space left on device"):
        script.read(done, place.kept)


def test_a_script_that_broke_off_is_no_result(place: Place) -> None:
    script, done = place.run()
    cut = done.stderr[: done.stderr.index(b" destroy ")]
    broken = CommandResult("script", 1, done.stdout, cut, 0, 0)
    with pytest.raises(UnexpectedAnswer, match="told nothing of destroy, remove, node, boot"):
        script.read(broken, place.kept)


def test_nothing_is_done_on_a_host_that_is_not_ours(place: Place) -> None:
    place.host.guard = "test -e /nonexistent"
    script, done = place.run()
    assert (done.status, done.stdout) == (98, b"")
    with pytest.raises(LeaseLost):
        script.read(done, place.kept)
    assert not (place.folder / "log").exists()


def test_options() -> None:
    assert BhyveOptions("t", "/root/t.rom", vcpus=2, pins=(0, 1), testdev=False).command() == (
        "bhyve -c 2 -m 32M -H -p 0:0 -p 1:1 -s 0,hostbridge -s 31,lpc -l com1,stdio -l bootrom,/root/t.rom t"
    )
