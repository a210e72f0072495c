"""SSH through paramiko: pinned host keys, a deadline on every call, both output streams drained together.

The rules this keeps were learned from other harnesses: a timeout per read is no deadline, an unknown host key
is refused and never added, and nothing is run again behind the caller's back.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Sequence

import paramiko

from harness.errors import CommandTimeout, HostKeyMismatch, SshAuthFailed, SshLost, SshUnreachable
from harness.recording import NullRecorder, Recorder
from harness.timing import Deadline
from harness.transport.protocol import CommandResult

#: Seconds between keep-alive messages: a peer that vanished is noticed while a command is silent.
KEEPALIVE = 15
_CHUNK = 1 << 16


class _SshProcess:
    def __init__(self, transport: SshTransport, channel: paramiko.Channel, command: str) -> None:
        self._transport = transport
        self._channel = channel
        self._command = command
        self._out = bytearray()
        self._err = bytearray()
        self._started = time.time()
        self._clock = time.monotonic()
        self._recorded = False

    @property
    def stdout(self) -> bytes:
        return bytes(self._out)

    @property
    def stderr(self) -> bytes:
        return bytes(self._err)

    def write(self, data: bytes) -> None:
        try:
            self._channel.sendall(data)
        except OSError as error:
            raise self._lost() from error

    def close_stdin(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            self._channel.shutdown_write()

    def read(self, deadline: Deadline) -> bool:
        channel = self._channel
        if not (channel.recv_ready() or channel.recv_stderr_ready() or channel.closed or channel.eof_received):
            select.select([channel], [], [], deadline.remaining())
        while channel.recv_ready():
            self._out += channel.recv(_CHUNK)
        while channel.recv_stderr_ready():
            self._err += channel.recv_stderr(_CHUNK)
        if channel.exit_status_ready() and (channel.eof_received or channel.closed):
            # Output that arrived together with the status.
            while channel.recv_ready():
                self._out += channel.recv(_CHUNK)
            while channel.recv_stderr_ready():
                self._err += channel.recv_stderr(_CHUNK)
            return False
        if channel.closed or not self._transport.alive():
            raise self._lost()
        return True

    def wait(self, deadline: Deadline) -> CommandResult:
        while self.read(deadline):
            if deadline.expired():
                self._record(None)
                raise CommandTimeout(
                    f"'{self._command[:120]}' on '{self._transport.name}' did not end within {deadline.seconds:g} s."
                )
        status = self._channel.recv_exit_status()
        if status < 0:
            raise self._lost()
        self._record(status)
        self._channel.close()
        return CommandResult(
            self._command, status, self.stdout, self.stderr, self._started, time.monotonic() - self._clock
        )

    def close(self) -> None:
        self._record(None)
        with contextlib.suppress(OSError, EOFError):
            self._channel.close()

    def _lost(self) -> SshLost:
        self._record(None)
        name = self._transport.name
        return SshLost(f"The connection to '{name}' broke while '{self._command[:120]}' ran; its outcome is unknown.")

    def _record(self, status: int | None) -> None:
        if not self._recorded:
            self._recorded = True
            self._transport.recorder.add_command(
                self._command, status, self.stdout, self.stderr, self._started, time.monotonic() - self._clock
            )


class SshTransport:
    """One SSH connection to the host ``name`` of the inventory."""

    def __init__(self, name: str, connection: paramiko.Transport) -> None:
        self.name = name
        self.recorder: Recorder = NullRecorder()
        #: Channels opened so far: the round trips a case costs.
        self.channels = 0
        self._connection = connection

    @classmethod
    def connect(
        cls,
        name: str,
        *,
        address: str,
        port: int,
        user: str,
        key: paramiko.PKey,
        host_keys: Sequence[str],
        deadline: Deadline,
    ) -> SshTransport:
        """Connect and prove who is there.

        Raises :class:`SshUnreachable`, :class:`HostKeyMismatch` (the key shown is not pinned),
        :class:`SshAuthFailed`.
        """
        connection: paramiko.Transport | None = None
        try:
            sock = socket.create_connection((address, port), timeout=max(0.1, deadline.remaining()))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection = paramiko.Transport(sock)
            connection.start_client(timeout=max(0.1, deadline.remaining()))
        except (OSError, EOFError, paramiko.SSHException) as error:
            if connection is not None:
                connection.close()
            raise SshUnreachable(f"Host '{name}' does not answer SSH at {address}:{port}: {error}.") from error
        shown = str(connection.get_remote_server_key().fingerprint)
        if shown not in host_keys:
            connection.close()
            raise HostKeyMismatch(
                f"Host '{name}' at {address}:{port} showed the key {shown}; pinned are {', '.join(host_keys)}."
            )
        try:
            connection.auth_publickey(user, key)
        except (paramiko.SSHException, EOFError, OSError) as error:
            connection.close()
            raise SshAuthFailed(f"Host '{name}' refused the key for user '{user}': {error}.") from error
        connection.set_keepalive(KEEPALIVE)
        return cls(name, connection)

    def alive(self) -> bool:
        return self._connection.is_active()

    def start(self, command: str, *, deadline: Deadline) -> _SshProcess:
        self.channels += 1
        try:
            channel = self._connection.open_session(timeout=max(0.1, deadline.remaining()))
            channel.settimeout(max(0.1, deadline.remaining()))
            channel.exec_command(command)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise SshLost(f"The connection to '{self.name}' broke before '{command[:120]}' was started.") from error
        return _SshProcess(self, channel, command)

    def run(self, command: str, *, stdin: bytes = b"", deadline: Deadline) -> CommandResult:
        process = self.start(command, deadline=deadline)
        if stdin:
            process.write(stdin)
        process.close_stdin()
        return process.wait(deadline)

    def close(self) -> None:
        self._connection.close()


def load_private_key(path: str) -> paramiko.PKey:
    """The private key in a file; raises :class:`SshAuthFailed` when it cannot be used."""
    try:
        return paramiko.PKey.from_path(path)
    except (OSError, paramiko.SSHException, ValueError, TypeError) as error:
        raise SshAuthFailed(f"The private key '{path}' cannot be used: {error}.") from error
