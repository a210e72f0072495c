"""A conversation with a machine over its serial line: wait for one of several texts, answer."""

from __future__ import annotations

import os
import re
import select
from pathlib import Path

from harness.errors import EmulatorFailed
from harness.timing import Deadline

_TAIL = 400
_DONE = re.compile(rb"vmmcheck-end:(\d+)\r?\n")


class Console:
    """Both directions of a serial line; everything that came is kept in ``log``."""

    def __init__(self, read_fd: int, write_fd: int, log: Path) -> None:
        self._read, self._write, self._log = read_fd, write_fd, log
        self._pending = b""
        self.closed = False

    @property
    def pending(self) -> bytes:
        """What came and was not waited for yet."""
        return self._pending

    def poll(self, seconds: float) -> None:
        """Take what comes within ``seconds``, at most once."""
        if self.closed or not select.select([self._read], [], [], seconds)[0]:
            return
        try:
            data = os.read(self._read, 65536)
        except OSError:
            data = b""
        self.closed = not data
        self._pending += data
        with self._log.open("ab") as out:
            out.write(data)

    def settle(self, seconds: float, deadline: Deadline) -> None:
        """Wait until nothing came for ``seconds``: a shell that starts throws away what was typed before it listens."""
        while not (self.closed or deadline.expired()):
            before = len(self._pending)
            self.poll(seconds)
            if len(self._pending) == before:
                return

    def send(self, text: str) -> None:
        """Send ``text`` as it is; a line ends with a carriage return, as a terminal's does."""
        os.write(self._write, text.encode())

    def expect(self, patterns: dict[str, bytes], deadline: Deadline, what: str) -> str:
        """Wait until one of ``patterns`` (name -> regular expression) came; its name. The text up to it is consumed.

        Raises :class:`EmulatorFailed` with the last that was said when the deadline passes or the line closes.
        """
        while True:
            hits = [
                (match.start(), name, match.end())
                for name, form in patterns.items()
                if (match := re.search(form, self._pending))
            ]
            if hits:
                _, name, end = min(hits)
                self._pending = self._pending[end:]
                return name
            if self.closed or deadline.expired():
                why = "the machine ended" if self.closed else f"not within {deadline.seconds:g} s"
                raise EmulatorFailed(f"{what}: {why}; the console's last words: {self.last_words()!r}.", help=_HELP)
            self.poll(min(1.0, max(0.0, deadline.remaining())))

    def run(self, command: str, seconds: float = 120.0) -> tuple[int, str]:
        """Run a line in a shell whose prompt and echo are off; status and output.

        The echo of the line itself can never be taken for its end: only the shell makes a number of ``$?``.
        """
        self._pending = b""
        self.send(f'{command}; echo "vmmcheck-end:$?"\r')
        deadline = Deadline.after(seconds)
        while True:
            match = _DONE.search(self._pending)
            if match:
                output = self._pending[: match.start()].decode("utf-8", "replace").replace("\r", "")
                self._pending = self._pending[match.end() :]
                return int(match[1]), output.strip()
            if self.closed or deadline.expired():
                raise EmulatorFailed(f"'{command[:60]}' did not end: {self.last_words()!r}.", help=_HELP)
            self.poll(min(1.0, max(0.0, deadline.remaining())))

    def last_words(self) -> str:
        return self._pending[-_TAIL:].decode("utf-8", "replace").strip()


_HELP = "The console's whole text is in the log beside the image; a busy machine needs --patience."
