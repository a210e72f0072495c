"""The machine that an image is prepared on: QEMU, which needs no virtualisation extension for that.

Official images talk to the screen, so the loader is seen and answered there (screen memory, keyboard) until it was told
to use the serial line.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

from harness.errors import EmulatorFailed, ToolMissing
from harness.image.console import Console
from harness.timing import CLOCK, Deadline

#: Text screen of a VGA adapter: 25 lines of 80 characters, each with a byte of attributes.
_SCREEN, _COLUMNS, _LINES = 0xB8000, 80, 25
_KEYS = {" ": "spc", "=": "equal", "-": "minus", ".": "dot", "/": "slash", "\n": "ret", "\x1b": "esc"}


class QemuMachine:
    """Boots ``disk`` and writes to it; ``folder`` takes the logs. Use it as a context manager."""

    def __init__(self, disk: Path, folder: Path, *, memory: int = 1024) -> None:
        program = shutil.which("qemu-system-x86_64")
        if program is None:
            raise ToolMissing(
                "'qemu-system-x86_64' is not installed; images are prepared with it (no KVM is needed).",
                help="apt-get install qemu-system-x86",
            )
        self._folder = folder
        self._screen = folder / "screen"
        self._errors = (folder / "qemu.log").open("wb")
        ours, theirs = socket.socketpair()
        command = [
            program, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            # Never KVM: some machines offer one that cannot run a boot loader, and this is one boot.
            "-machine", "pc,accel=tcg", "-cpu", "max", "-smp", "1", "-m", str(memory),
            "-device", "VGA",
            "-drive", f"file={disk},if=none,id=disk,format=raw", "-device", "ide-hd,drive=disk,bus=ide.0",
            # The card that virtual hosts have, on a network that leads nowhere: 'em0' can be configured.
            "-netdev", "user,id=net,restrict=on", "-device", "e1000,netdev=net",
            "-chardev", f"socket,id=monitor,fd={theirs.fileno()}", "-mon", "chardev=monitor,mode=readline",
            "-serial", "stdio",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True,
            pass_fds=(theirs.fileno(),),
        )  # fmt: skip
        theirs.close()
        self._monitor = ours
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.console = Console(
            self._process.stdout.fileno(), self._process.stdin.fileno(), folder / "console.log"
        )

    def __enter__(self) -> QemuMachine:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._monitor.close()
        self._errors.close()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def ended(self) -> bool:
        return self._process.poll() is not None

    def wait(self, deadline: Deadline) -> None:
        """Wait until the machine switched itself off; raises :class:`EmulatorFailed`."""
        while not self.ended():
            if deadline.expired():
                raise EmulatorFailed(f"The machine did not switch itself off: {self.console.last_words()!r}.")
            self.console.poll(0.5)
        if self._process.returncode != 0:
            raise EmulatorFailed(f"QEMU ended with status {self._process.returncode}: {self.why()}")

    def why(self) -> str:
        """QEMU's own last words."""
        return (self._folder / "qemu.log").read_text(encoding="utf-8", errors="replace").strip()[-300:]

    def screen(self) -> list[str]:
        """What stands on the screen in text mode, line by line; nothing while it shows none."""
        self._screen.unlink(missing_ok=True)
        self._order(f'pmemsave {_SCREEN:#x} {_COLUMNS * _LINES * 2} "{self._screen}"')
        limit = Deadline.after(5)
        while not self._screen.exists() or self._screen.stat().st_size < _COLUMNS * _LINES * 2:
            if limit.expired() or self.ended():
                return []
            CLOCK.sleep(0.05)
        cells = self._screen.read_bytes()[::2].decode("cp437")
        return [cells[at : at + _COLUMNS].rstrip(" \0") for at in range(0, len(cells), _COLUMNS)]

    def type(self, text: str) -> None:
        """Press keys, one after the other."""
        for key in text:
            self._order(f"sendkey {_KEYS.get(key, key)} 40")
            CLOCK.sleep(0.12)

    def _order(self, line: str) -> None:
        try:
            self._monitor.sendall(line.encode() + b"\n")
            self._monitor.setblocking(False)
            try:
                while self._monitor.recv(65536):
                    pass
            finally:
                self._monitor.setblocking(True)
        except BlockingIOError:
            pass
        except OSError as error:
            raise EmulatorFailed(f"QEMU is gone ({error}): {self.why()}") from None
