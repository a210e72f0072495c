"""What the rest of the harness knows of a connection to a host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from harness.recording import Recorder
from harness.timing import Deadline


@dataclass(frozen=True, slots=True)
class CommandResult:
    """A finished command: its text, exit status, whole output, start (wall clock) and duration in seconds."""

    command: str
    status: int
    stdout: bytes
    stderr: bytes
    started: float
    seconds: float
    #: How much of each stream had arrived when: (bytes so far, seconds since the start), in order.
    out_times: tuple[tuple[int, float], ...] = ()
    err_times: tuple[tuple[int, float], ...] = ()

    @property
    def text(self) -> str:
        """Standard output as text, without the closing newline."""
        return self.stdout.decode("utf-8", "replace").rstrip("\n")

    @property
    def errors(self) -> str:
        """Standard error as text, without white space around it."""
        return self.stderr.decode("utf-8", "replace").strip()


class RemoteProcess(Protocol):
    """A command that still runs."""

    def write(self, data: bytes) -> None:
        """Send to its standard input, which stays open."""

    def read(self, deadline: Deadline) -> bool:
        """Take in output that has arrived, waiting for some; false once the process has ended."""

    @property
    def stdout(self) -> bytes:
        """Everything received so far."""

    @property
    def stderr(self) -> bytes: ...

    def close_stdin(self) -> None: ...

    def wait(self, deadline: Deadline) -> CommandResult:
        """Wait for the end; raises ``CommandTimeout``, ``SshLost``."""

    def close(self) -> None:
        """Stop listening to it; the command itself is not ended by that."""


class Transport(Protocol):
    """One connection. No command is ever repeated by it.

    A command is one line for ``/bin/sh``, whatever the login shell is; where the connection was made with
    ``become`` it runs as root. Every command is told to ``recorder`` when it is over, however it ends.
    """

    name: str
    recorder: Recorder
    #: Channels opened so far: the round trips that were spent.
    channels: int
    #: Settings of the environment that stand before every command, and are not told with it.
    prelude: str

    def run(self, command: str, *, stdin: bytes = b"", deadline: Deadline, record: bool = True) -> CommandResult:
        """Run a command to its end. Raises ``SshLost`` and ``CommandTimeout``; a nonzero status is a result.

        A command that a signal ended has status 128 + its number.
        """

    def start(self, command: str, *, deadline: Deadline, record: bool = True) -> RemoteProcess:
        """Start a command and leave its standard input open.

        ``record`` off: the caller tells the recorder itself (a script of several commands).
        """

    def alive(self) -> bool:
        """Whether the connection still stands, as far as this side knows."""

    def close(self) -> None: ...
