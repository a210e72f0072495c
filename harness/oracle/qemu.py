"""A guest on QEMU's software processor (TCG): the same boot ROM as firmware, another implementation of the rules."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from harness.errors import EmulatorFailed, GuestHang, GuestSilent, TestDefect, ToolMissing
from harness.guest import EndMethod, Program, Result, Rom, check_operations, decode, has_banner, is_finished
from harness.recording import NullRecorder, Recorder
from harness.subjects import HostActions, Platform, RunningGuest
from harness.subjects.protocol import SavedGuest
from harness.timing import Deadline

BINARY = "qemu-system-x86_64"
_VENDOR = {"intel": "GenuineIntel", "amd": "AuthenticAMD"}
#: isa-debug-exit ends QEMU with twice the value that the guest writes, plus one.
_EXIT_PORT = 0xF4


def qemu_version() -> str:
    """The first line of ``--version``. Raises :class:`ToolMissing` where QEMU is not installed."""
    if shutil.which(BINARY) is None:
        raise ToolMissing(
            f"The oracle needs {BINARY}, which is not installed.", help="apt-get install qemu-system-x86"
        )
    done = subprocess.run([BINARY, "--version"], capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.splitlines()[0] if done.stdout else f"{BINARY} (unknown version)"


def command_line(folder: Path, vendor: str, ncpu: int) -> list[str]:
    """QEMU without network, display and monitor: firmware ``rom.bin`` and the serial line's ``serial.out``."""
    return [
        BINARY, "-machine", "pc,accel=tcg", "-cpu", f"max,vendor={_VENDOR[vendor]}", "-smp", str(ncpu), "-m", "64",
        "-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot", "-bios", str(folder / "rom.bin"),
        "-serial", f"file:{folder / 'serial.out'}", "-device", f"isa-debug-exit,iobase={_EXIT_PORT:#x},iosize=4",
    ]  # fmt: skip


class QemuSubject:
    """Runs each program in a QEMU of its own. There is no host, and nobody who could act between phases."""

    def __init__(self, vendor: str) -> None:
        self._platform = Platform(
            alias=f"qemu{vendor}", kind="qemu", vendor=vendor, heading=f"QEMU TCG as {_VENDOR[vendor]}", emulated=True,
            capabilities=frozenset({"bare", "smp"}),
        )  # fmt: skip
        self.recorder: Recorder = NullRecorder()

    @property
    def platform(self) -> Platform:
        return self._platform

    @property
    def host(self) -> HostActions:
        raise TestDefect("QEMU as an oracle has no host; the case must name the capability it needs.")

    def run(
        self, program: Program, *, pin: int | None = 0, seconds: float = 10, lenient_msrs: bool = False
    ) -> Result:
        """Run ``program``; raises ``GuestHang``, ``GuestSilent``, ``EmulatorFailed``, ``RecordsDamaged``."""
        rom = Rom.build(program, EndMethod.QEMU)
        with tempfile.TemporaryDirectory(prefix="vmmcheck-qemu-") as name:
            folder = Path(name)
            (folder / "rom.bin").write_bytes(rom.image)
            (folder / "serial.out").touch()
            deadline = Deadline.after(seconds)
            try:
                done = subprocess.run(
                    command_line(folder, self._platform.vendor, program.vcpus), stdin=subprocess.DEVNULL,
                    capture_output=True, timeout=deadline.remaining(), check=False,
                )  # fmt: skip
                errors = done.stderr.decode("utf-8", "replace").strip()
            except subprocess.TimeoutExpired:
                errors = ""
            console = (folder / "serial.out").read_bytes()
        if is_finished(console):
            result = decode(console, rom.nonce)
            check_operations(result, program.ops)
            return result
        if not has_banner(console, rom.nonce):
            raise GuestSilent(f"Program '{program.name}' printed no banner in QEMU. {errors}".strip())
        if deadline.expired():
            raise GuestHang(f"Program '{program.name}' did not end within {seconds:g} s in QEMU.")
        raise EmulatorFailed(f"QEMU ended before program '{program.name}' did. {errors}".strip())

    @contextmanager
    def start(
        self,
        program: Program,
        *,
        pin: int | None = 0,
        name: str = "",
        seconds: float = 10,
        lenient_msrs: bool = False,
        debug_stub: bool = False,
        keep: bool = False,
    ) -> Iterator[RunningGuest]:
        """Phases need somebody who waits for them; an oracle has nobody."""
        raise TestDefect(f"Program '{program.name}' runs in phases: QEMU has no opinion on it.")
        yield

    def restore(
        self, saved: SavedGuest, *, pin: int | None = 0, name: str = "", seconds: float = 30
    ) -> AbstractContextManager[RunningGuest]:
        """Nobody saved a guest here."""
        raise TestDefect("QEMU has no opinion on a guest that was saved.")
