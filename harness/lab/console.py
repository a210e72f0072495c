"""The host's own console: what is read of it after trouble. A panic's text is often only there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Protocol

from harness.inventory.model import CommandConsole, FileConsole

#: Bytes kept from the end of a console's log.
TAIL = 200_000
_PANIC = re.compile(r"^(?:panic: .*|Fatal (?:trap \d+|double fault).*)$", re.MULTILINE)


class Console(Protocol):
    """Where a host's console is recorded, by somebody else."""

    def console(self) -> str:
        """The recorded text as far as it goes; empty when it cannot be had (a console must not hide the trouble)."""


class FileLog:
    """A log file on the controller."""

    def __init__(self, entry: FileConsole) -> None:
        self._path = Path(entry.path).expanduser()

    def console(self) -> str:
        try:
            with self._path.open("rb") as stream:
                stream.seek(0, 2)
                stream.seek(max(0, stream.tell() - TAIL))
                return stream.read().decode("utf-8", "replace")
        except OSError:
            return ""


class CommandLog:
    """A command that prints the log."""

    def __init__(self, entry: CommandConsole) -> None:
        self._argv = entry.command

    def console(self) -> str:
        try:
            done = subprocess.run(self._argv, capture_output=True, check=False, timeout=30, stdin=subprocess.DEVNULL)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout[-TAIL:].decode("utf-8", "replace")


def new_text(before: str, after: str) -> str:
    """What a console shows that it did not show before. A log that was rotated is new as a whole."""
    if after.startswith(before):
        return after[len(before) :]
    last = before[-200:]
    at = after.rfind(last) if last else -1
    return after[at + len(last) :] if at >= 0 else after


def panic_text(text: str) -> str:
    """The first panic message in a console's text, or an empty string."""
    match = _PANIC.search(text.replace("\r", ""))
    return match[0] if match else ""
