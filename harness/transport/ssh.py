"""SSH through paramiko: pinned host keys, a deadline on every call, both output streams drained together.

The rules this keeps were learned from other harnesses: a timeout per read is no deadline, an unknown host key
is refused and never added, and nothing is run again behind the caller's back.
"""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Sequence

import paramiko

from harness.errors import CommandTimeout, SshLost
from harness.recording import NullRecorder, Recorder
from harness.timing import Deadline
from harness.transport.connection import Connection, Endpoint, close_all, connect
from harness.transport.protocol import CommandResult
from harness.transport.shell import shown, through_sh

_CHUNK = 1 << 16


class SshProcess:
    """Implements :class:`harness.transport.protocol.RemoteProcess`."""

    def __init__(self, transport: SshTransport, channel: paramiko.Channel, command: str, record: bool) -> None:
        self._transport = transport
        self._channel = channel
        self._command = command
        self._out = bytearray()
        self._err = bytearray()
        self._started = time.time()
        self._clock = time.monotonic()
        self._recorded = not record
        self._out_times: list[tuple[int, float]] = []
        self._err_times: list[tuple[int, float]] = []

    @property
    def stdout(self) -> bytes:
        return bytes(self._out)

    @property
    def stderr(self) -> bytes:
        return bytes(self._err)

    def write(self, data: bytes) -> None:
        try:
            self._channel.sendall(data)
        except TimeoutError:
            raise CommandTimeout(f"'{shown(self._command)}' on '{self._transport.name}' takes no input.") from None
        except OSError as error:
            if self._channel.exit_status_ready():
                return  # it ended without reading everything, which its status will tell
            raise self._lost() from error

    def close_stdin(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            self._channel.shutdown_write()

    def read(self, deadline: Deadline) -> bool:
        channel = self._channel
        if not (channel.recv_ready() or channel.recv_stderr_ready() or channel.closed or channel.eof_received):
            select.select([channel], [], [], deadline.remaining())
        self._drain()
        if channel.exit_status_ready() and (channel.eof_received or channel.closed):
            self._drain()  # output that arrived together with the status
            return False
        if channel.closed or not self._transport.alive():
            raise self._lost()
        return True

    def _drain(self) -> None:
        while self._channel.recv_ready():
            self._out += self._channel.recv(_CHUNK)
            self._out_times.append((len(self._out), time.monotonic() - self._clock))
        while self._channel.recv_stderr_ready():
            self._err += self._channel.recv_stderr(_CHUNK)
            self._err_times.append((len(self._err), time.monotonic() - self._clock))

    def wait(self, deadline: Deadline) -> CommandResult:
        while self.read(deadline):
            if deadline.expired():
                self._record(None)
                raise CommandTimeout(
                    f"'{shown(self._command)}' on '{self._transport.name}' did not end within {deadline.seconds:g} s."
                )
        status = self._channel.recv_exit_status()
        if status < 0:
            raise self._lost()
        self._record(status)
        self._channel.close()
        return CommandResult(
            self._command, status, self.stdout, self.stderr, self._started, time.monotonic() - self._clock,
            tuple(self._out_times), tuple(self._err_times),
        )  # fmt: skip

    def close(self) -> None:
        self._record(None)
        with contextlib.suppress(OSError, EOFError):
            self._channel.close()

    def _lost(self) -> SshLost:
        self._record(None)
        return SshLost(
            f"The connection to '{self._transport.name}' broke while '{shown(self._command)}' ran;"
            " its outcome is unknown."
        )

    def _record(self, status: int | None) -> None:
        if not self._recorded:
            self._recorded = True
            self._transport.recorder.add_command(
                self._command, status, self.stdout, self.stderr, self._started, time.monotonic() - self._clock
            )


class SshTransport:
    """One SSH connection to the host ``name`` of the inventory; ``become`` stands before every command."""

    def __init__(self, name: str, chain: Sequence[Connection], become: Sequence[str] = ()) -> None:
        self.name = name
        self.recorder: Recorder = NullRecorder()
        #: Channels opened so far: the round trips a case costs.
        self.channels = 0
        self.prelude = ""
        self._chain = list(chain)
        self._become = tuple(become)

    @classmethod
    def connect(cls, name: str, endpoint: Endpoint, *, deadline: Deadline, become: Sequence[str] = ()) -> SshTransport:
        """Connect and prove who is there.

        Raises :class:`SshUnreachable`, :class:`HostKeyMismatch` (the key shown is not pinned),
        :class:`SshAuthFailed`.
        """
        return cls(name, connect(name, endpoint, deadline), become)

    def alive(self) -> bool:
        return all(connection.is_active() for connection in self._chain)

    def start(self, command: str, *, deadline: Deadline, record: bool = True) -> SshProcess:
        self.channels += 1
        text = through_sh(self.prelude + command, self._become)
        try:
            channel = self._chain[-1].open_session(timeout=max(0.1, deadline.remaining()))
            channel.settimeout(max(0.1, deadline.remaining()))
            channel.exec_command(text)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise SshLost(f"The connection to '{self.name}' broke before '{shown(command)}' was started.") from error
        return SshProcess(self, channel, command, record)

    def run(self, command: str, *, stdin: bytes = b"", deadline: Deadline, record: bool = True) -> CommandResult:
        process = self.start(command, deadline=deadline, record=record)
        if stdin:
            process.write(stdin)
        process.close_stdin()
        return process.wait(deadline)

    def close(self) -> None:
        close_all(self._chain)
