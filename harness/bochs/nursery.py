"""Copies of an emulator that is set up already.

Bochs needs about 70 ms of CPU time to set itself up and to end; a guest program needs two. A nursery holds one
process that is stopped before its first instruction, as a machine after power-on, and forks it for every program
(``nursery.c``, preloaded into the installed Bochs). Memory, processors and devices of a copy are those of a machine
that was just switched on: nothing has run in the process that is copied.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import socket
import struct
import tempfile
from dataclasses import replace
from pathlib import Path

from harness.bochs.machine import COMMANDS, BochsConfig, BochsMachine, raw_pty, start_process
from harness.build.toolchain import build_library
from harness.errors import EmulatorFailed

_SOURCE = Path(__file__).with_name("nursery.c")
_ANSWER = struct.Struct("<3i")
_STEPS = {1: "copy the process", 2: "load the ROM", 3: "open COM1", 4: "open the log"}
#: Seconds for setting up and for a copy.
_PATIENCE = 20.0


class Nursery:
    """Makes machines like ``config``, whose folder, ROM and serial file are each machine's own.

    Must be used by the thread that made it, and as long as that lives: its end ends the copies too.
    """

    def __init__(self, config: BochsConfig) -> None:
        if config.ram_images:
            raise ValueError("a nursery does not load memory images")
        self._like = _kind(config)
        self._folder = Path(tempfile.mkdtemp(prefix="vmmcheck-nursery-"))
        shutil.copyfile(config.romimage, self._folder / "rom.bin")
        serial = None if config.serial is None else self._folder / "serial.out"
        first = replace(config, folder=self._folder, romimage=self._folder / "rom.bin", serial=serial)
        self._ends: list[int] = []
        device = str(serial)
        if serial is None:
            ours, theirs, device = raw_pty()
            self._ends = [ours, theirs]
        self._socket, theirs_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(_PATIENCE)
        env = {
            "LD_PRELOAD": str(build_library(_SOURCE)),
            "VMMCHECK_NURSERY_FD": str(theirs_end.fileno()),
            "VMMCHECK_NURSERY_FOLDER": str(self._folder),
            "VMMCHECK_NURSERY_ROM": str(first.romimage),
            "VMMCHECK_NURSERY_SERIAL": device,
            "VMMCHECK_NURSERY_LOG": str(self._folder / "bochs.log"),
            "VMMCHECK_NURSERY_COMMANDS": str(self._folder / COMMANDS),
        }
        with theirs_end:
            self._pid = start_process(first, device, env=env, keep=theirs_end.fileno())

    def start(self, config: BochsConfig) -> BochsMachine:
        """A machine that begins with its first instruction; raises :class:`EmulatorFailed`."""
        if _kind(config) != self._like:
            raise ValueError("this nursery makes other machines")
        return BochsMachine(config, self._copy)

    def _copy(self, config: BochsConfig, device: str) -> int:
        names = (config.romimage, device, config.folder / "bochs.log")
        try:
            self._socket.send(b"".join(os.fsencode(name) + b"\0" for name in names))
            answer = self._socket.recv(_ANSWER.size)
        except OSError as error:
            raise EmulatorFailed(f"The emulator that is copied for each program does not answer: {error}.") from error
        if len(answer) != _ANSWER.size:
            raise EmulatorFailed(f"The emulator that is copied for each program ended. {self._last_words()}")
        pid, step, errno = _ANSWER.unpack(answer)
        if step:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
            reason = os.strerror(errno) if errno else "it is not of the size, or not the file, that Bochs began with"
            raise EmulatorFailed(f"The emulator could not {_STEPS[step]} for '{config.romimage}': {reason}.")
        return int(pid)

    def _last_words(self) -> str:
        log = self._folder / "bochs.log"
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        return f"Its log ends with: {lines[-1]}" if lines else "It left no log."

    def cpu_seconds(self) -> float:
        """CPU time of setting up and of making copies so far, in seconds; 0 once it is closed."""
        try:
            text = Path(f"/proc/{self._pid}/stat").read_text(encoding="ascii")
        except OSError:
            return 0.0
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End the process; machines that it made go on."""
        if self._pid:
            self._socket.close()
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0
            for descriptor in self._ends:
                os.close(descriptor)
            shutil.rmtree(self._folder, ignore_errors=True)


def _kind(config: BochsConfig) -> tuple[object, ...]:
    serial = config.serial is None
    return (
        config.vendor, config.ncpu, config.memory, config.ips, serial, config.reset_on_triple_fault, config.log_errors,
        config.romimage.stat().st_size,
    )  # fmt: skip


_nurseries: dict[tuple[object, ...], Nursery] = {}


def start_machine(config: BochsConfig) -> BochsMachine:
    """A machine from the nursery of its kind, which is made at the first call and lives as long as this process.

    Raises :class:`EmulatorFailed`, :class:`ToolMissing`.
    """
    key = (os.getpid(), *_kind(config))
    if key not in _nurseries:
        _nurseries[key] = Nursery(config)
        atexit.register(_nurseries[key].close)
    return _nurseries[key].start(config)


def nursery_seconds() -> float:
    """CPU time of all nurseries of this process so far, in seconds."""
    return sum(nursery.cpu_seconds() for key, nursery in _nurseries.items() if key[0] == os.getpid())
