"""A Bochs process without a window and without an open port.

Debian's Bochs 2.7 draws either on X, or as a VNC server on every interface (``rfb``), or on a terminal
(``term``). Only the last leaves no port open; it gets a private pseudo-terminal that nobody looks at.
The serial port is either a file (output only) or a pseudo-terminal (both ways).
"""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shutil
import signal
import subprocess
import termios
import threading
import tty
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness.build.toolchain import build_library
from harness.errors import EmulatorFailed, ToolMissing
from harness.timing import Deadline

#: vendor -> Bochs' name of a CPU that virtualises as this project needs it: VT-x with EPT and unrestricted
#: guest, or SVM with nested paging and next-RIP saving (``bochs --help cpu``).
CPU_MODELS = {"intel": "corei7_skylake_x", "amd": "ryzen"}

#: The debugger's commands, in the folder of a machine.
COMMANDS = "bochs.commands"

#: Emulated instructions a second. The lowest value Bochs takes makes emulated time run fast against
#: instructions, so that timers and the serial line are never what a run waits for.
FAST_IPS = 1_000_000

_INSTALL = "Install it with: apt-get install bochs bochsbios vgabios bochs-term"


@dataclass(frozen=True, slots=True)
class RamImage:
    """A file that Bochs copies to guest-physical ``address`` before the first instruction."""

    path: Path
    address: int


@dataclass(frozen=True, slots=True)
class BochsConfig:
    """What the emulated machine is made of.

    ``memory`` is in MiB. ``serial`` is ``None`` for a pseudo-terminal, or the file that takes COM1's output.
    """

    vendor: str
    folder: Path
    romimage: Path
    ncpu: int = 1
    memory: int = 16
    ips: int = FAST_IPS
    serial: Path | None = None
    ram_images: tuple[RamImage, ...] = ()
    reset_on_triple_fault: bool = True
    #: Output to port 0xE9 says that the machine waits for COM1 (``line.c``).
    rests: bool = False
    #: Bochs calls every VM exit an error, and writing a line for each takes longer than the exit.
    log_errors: bool = True

    def render(self, serial_device: str) -> str:
        """The text of bochsrc for this machine."""
        serial_mode = "file" if self.serial is not None else "term"
        lines = [
            f"cpu: model={CPU_MODELS[self.vendor]}, count={self.ncpu}, ips={self.ips},"
            f" reset_on_triple_fault={int(self.reset_on_triple_fault)}, ignore_bad_msrs=1",
            f"memory: guest={self.memory}, host={self.memory}",
            f"romimage: file={self.romimage}",
            "display_library: term",
            # Nobody looks at the screen: no graphics adapter to set up, and few updates.
            "vga: extension=none, update_freq=1",
            "boot: disk",
            f"com1: enabled=1, mode={serial_mode}, dev={serial_device}",
            f"log: {self.folder / 'bochs.log'}",
            "panic: action=fatal",
            f"error: action={'report' if self.log_errors else 'ignore'}",
            "info: action=ignore",
            "debug: action=ignore",
            "speaker: enabled=0",
            "sound: driver=dummy",
            "clock: sync=none",
            "mouse: enabled=0",
            f"port_e9_hack: enabled={int(self.rests)}",
        ]
        lines += [
            f"optramimage{n}: file={image.path}, address={image.address:#x}"
            for n, image in enumerate(self.ram_images, start=1)
        ]
        return "\n".join(lines) + "\n"


class MachineConfig(Protocol):
    """What :class:`BochsMachine` needs to know: where it may write, COM1's file (or ``None``), the rest as text."""

    @property
    def folder(self) -> Path: ...

    @property
    def serial(self) -> Path | None: ...

    def render(self, serial_device: str) -> str:
        """The text of bochsrc."""


def raw_pty() -> tuple[int, int, str]:
    """A pseudo-terminal that changes no byte: (our end, the other end, its name)."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs, termios.TCSANOW)
    os.set_inheritable(ours, False)
    return ours, theirs, os.ttyname(theirs)


def start_process(config: MachineConfig, device: str, *, env: Mapping[str, str] | None = None, keep: int = -1) -> int:
    """Start Bochs with COM1 at ``device``; its process number.

    ``env`` is added to the environment; the descriptor ``keep`` stays open in the process.
    """
    # Debian's `bochs` is a shell script that starts `bochs-bin`.
    program = shutil.which("bochs-bin") or shutil.which("bochs")
    if program is None:
        raise ToolMissing("The emulator 'bochs' is not installed on this machine.", help=_INSTALL)
    rc, commands = config.folder / "bochsrc", config.folder / COMMANDS
    rc.write_text(config.render(device), encoding="utf-8")
    # Debian builds Bochs with its debugger, which waits for a command; `c` is "continue".
    commands.write_text("c\n", encoding="utf-8")
    screen, screen_end, _ = raw_pty()
    try:
        process = subprocess.Popen(
            [program, "-q", "-f", str(rc), "-rc", str(commands)],
            # The display asks for keys all the time and waits a little for each on a terminal; never here.
            stdin=subprocess.DEVNULL,
            stdout=screen_end,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TERM": "vt100", "LINES": "25", "COLUMNS": "80", **(env or {})},
            # A session of its own: a terminal's Ctrl-C is ours to handle, not the emulator's.
            start_new_session=True,
            pass_fds=(keep,) if keep >= 0 else (),
        )
    except OSError as error:
        os.close(screen)
        raise EmulatorFailed(f"'{program}' could not be started: {error}.") from error
    finally:
        os.close(screen_end)
    # It is waited for by number, with its exact CPU time; the object must not do that on its own, or complain.
    process.returncode = 0
    threading.Thread(target=_discard, args=(screen,), name="bochs-screen", daemon=True).start()
    return process.pid


def start_resting(config: MachineConfig, device: str) -> int:
    """:func:`start_process` with ``line.c``: the process sleeps while the machine has nothing to do."""
    library = build_library(Path(__file__).with_name("line.c"))
    return start_process(config, device, env={"LD_PRELOAD": str(library), "VMMCHECK_LINE": device})


class BochsMachine:
    """One running emulator. Use it as a context manager, or call :meth:`kill`.

    ``serial_fd`` is our end of COM1 when the configuration names no file. Raises :class:`ToolMissing` when the
    emulator is not installed and :class:`EmulatorFailed` when it cannot be started. ``start`` makes the process, a
    child of this one, from a configuration and the name of COM1's device, and returns its number.
    """

    def __init__(self, config: MachineConfig, start: Callable[[Any, str], int] = start_process) -> None:
        self.config = config
        config.folder.mkdir(parents=True, exist_ok=True)
        self._cpu_seconds = 0.0
        self._returncode: int | None = None
        self._fds: list[int] = []
        self.serial_fd = -1
        device = str(config.serial)
        if config.serial is None:
            self.serial_fd, theirs, device = raw_pty()
            # Kept open here: the line must not hang up while the emulator opens it.
            self._fds += [self.serial_fd, theirs]
        try:
            self.pid = start(config, device)
        except BaseException:
            self._close_fds()
            raise
        self._pidfd = os.pidfd_open(self.pid)

    def __enter__(self) -> BochsMachine:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def log(self) -> Path:
        """Bochs' own log; its last line says why the emulator ended."""
        return self.config.folder / "bochs.log"

    def alive(self) -> bool:
        """Whether the process still runs."""
        return self.poll() is None

    def ended(self) -> bool:
        """Whether the process is over, without collecting it: what it sent can still be read."""
        return self._returncode is not None or bool(select.select([self._pidfd], [], [], 0)[0])

    def poll(self) -> int | None:
        """Exit status, or ``None`` while it runs (1 is Bochs' normal end)."""
        return self._reap(0)

    def wait(self, deadline: Deadline) -> int:
        """Wait for the end of the process; raises :class:`EmulatorFailed` when the deadline passes first."""
        status = self._reap(deadline.remaining())
        if status is None:
            raise EmulatorFailed(f"The emulator did not end within {deadline.seconds:g} s.")
        return status

    def _reap(self, seconds: float) -> int | None:
        """Wait up to ``seconds``; on the end collect the status and the exact CPU time."""
        if self._returncode is None:
            # One wait, woken by the kernel, instead of polling: most runs last a tenth of a second.
            if not select.select([self._pidfd], [], [], seconds)[0]:
                return None
            _, status, usage = os.wait4(self.pid, 0)
            self._returncode = os.waitstatus_to_exitcode(status)
            self._cpu_seconds = usage.ru_utime + usage.ru_stime
            os.close(self._pidfd)
            self._close_fds()
        return self._returncode

    def pause(self) -> None:
        """Stop the process; it uses no CPU and its emulated time stands still until :meth:`resume`."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def cpu_seconds(self) -> float:
        """CPU time the emulator has used so far, in seconds."""
        if self._returncode is None:
            fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
            self._cpu_seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return self._cpu_seconds

    def kill(self) -> None:
        """End the process now and wait for it; may be called more than once."""
        if self.poll() is None:
            self._signal(signal.SIGKILL)
            self.wait(Deadline.after(10))

    def _signal(self, number: int) -> None:
        if self._returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _close_fds(self) -> None:
        while self._fds:
            with contextlib.suppress(OSError):
                os.close(self._fds.pop())


def _discard(screen: int) -> None:
    """Read the text screen for ever, so that the emulator never blocks on writing to it."""
    try:
        while os.read(screen, 65536):
            pass
    except OSError:
        pass
    finally:
        os.close(screen)
