"""Making a connection: socket, jump host, proof of identity, authentication. Nothing is ever added or guessed."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import paramiko
from paramiko.common import MSG_CHANNEL_REQUEST

from harness.errors import HostKeyMismatch, SshAuthFailed, SshUnreachable
from harness.timing import Deadline
from harness.transport.keys import fingerprint

# Whatever goes wrong is told by our own errors; paramiko's threads would print tracebacks beside them.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)

#: Seconds between keep-alive messages: a peer that vanished is noticed while a command is silent.
KEEPALIVE = 15
#: Milliseconds after which the kernel gives up a peer that acknowledges nothing.
USER_TIMEOUT = 30_000
#: Signal numbers of FreeBSD for the names that RFC 4254, 6.10 has.
SIGNALS = {"HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "ABRT": 6, "FPE": 8, "KILL": 9, "SEGV": 11, "PIPE": 13, "ALRM": 14,
           "TERM": 15, "USR1": 30, "USR2": 31}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a host is, who we are there, and which keys it may show (``SHA256:...``).

    ``keys`` are tried in order. ``jump`` is the host whose SSH connection carries ours.
    """

    address: str
    port: int
    user: str
    keys: Sequence[paramiko.PKey]
    host_keys: Sequence[str]
    jump: Endpoint | None = field(default=None)

    def __str__(self) -> str:
        return f"{self.address}:{self.port}"


def _handle_request(channel: paramiko.Channel, message: paramiko.Message) -> None:
    """paramiko knows ``exit-status`` only; a command that a signal ended would look like a lost one."""
    rest = paramiko.Message(message.get_remainder())
    if rest.get_text() == "exit-signal":
        rest.get_boolean()
        channel.exit_status = 128 + SIGNALS.get(rest.get_text(), 127)
        channel.status_event.set()
        return
    internals: Any = channel
    internals._handle_request(message)


class Connection(paramiko.Transport):
    """A client's side of an SSH connection that also understands ``exit-signal``.

    It asks for AES-GCM first, which every FreeBSD's sshd has: one pass over the data instead of a cipher and an HMAC.
    """

    _preferred_ciphers = (
        "aes128-gcm@openssh.com",
        "aes256-gcm@openssh.com",
        *(cipher for cipher in paramiko.Transport.__dict__["_preferred_ciphers"] if "gcm" not in cipher),
    )

    _channel_handler_table = {  # noqa: RUF012 - overrides paramiko's table of the same form
        **paramiko.Transport.__dict__["_channel_handler_table"],
        MSG_CHANNEL_REQUEST: _handle_request,
    }


def connect(name: str, endpoint: Endpoint, deadline: Deadline) -> list[Connection]:
    """Connections from the outermost jump host to ``endpoint``, which is the last.

    Raises :class:`SshUnreachable`, :class:`HostKeyMismatch` (the key shown is not pinned), :class:`SshAuthFailed`.
    """
    chain = connect(f"the jump host of {name}", endpoint.jump, deadline) if endpoint.jump is not None else []
    try:
        chain.append(_proven(name, endpoint, chain[-1] if chain else None, deadline))
    except Exception:
        close_all(chain)
        raise
    return chain


def close_all(chain: Sequence[Connection]) -> None:
    """Innermost first."""
    for connection in reversed(chain):
        with contextlib.suppress(OSError, EOFError):
            connection.close()


def shown_key(name: str, endpoint: Endpoint, deadline: Deadline, key_type: str = "") -> str:
    """The fingerprint that a host shows, without logging in: what a person compares before pinning it."""
    connection = _handshake(name, endpoint, None, key_type, deadline)
    try:
        return fingerprint(connection.get_remote_server_key())
    finally:
        connection.close()


def _proven(name: str, endpoint: Endpoint, through: Connection | None, deadline: Deadline) -> Connection:
    """A host has several keys and we pin fingerprints, which do not tell the type: ask for each type in turn."""
    shown: list[str] = []
    for key_type in ("", "ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512"):
        try:
            connection = _handshake(name, endpoint, through, key_type, deadline)
        except SshUnreachable:
            if shown:  # the host has no key of this type
                continue
            raise
        found = fingerprint(connection.get_remote_server_key())
        if found in endpoint.host_keys:
            _authenticate(name, endpoint, connection)
            connection.set_keepalive(KEEPALIVE)
            return connection
        connection.close()
        if found not in shown:
            shown.append(found)
    raise HostKeyMismatch(
        f"'{name}' at {endpoint} showed the key {', '.join(shown)}; pinned are {', '.join(endpoint.host_keys)}."
    )


def _handshake(
    name: str, endpoint: Endpoint, through: Connection | None, key_type: str, deadline: Deadline
) -> Connection:
    connection: Connection | None = None
    try:
        connection = Connection(_socket(endpoint, through, deadline))
        # paramiko's own limits are for hosts that are not emulated.
        connection.banner_timeout = connection.handshake_timeout = max(0.1, deadline.remaining())
        connection.auth_timeout = max(0.1, deadline.remaining())
        if key_type:
            connection.get_security_options().key_types = (key_type,)
        connection.start_client(timeout=max(0.1, deadline.remaining()))
        # It also returns, without a word, when its time is over: only a key that was shown proves a host.
        connection.get_remote_server_key()
    except (OSError, EOFError, paramiko.SSHException) as error:
        if connection is not None:
            connection.close()
        raise SshUnreachable(f"'{name}' does not answer SSH at {endpoint}: {str(error) or 'it closed the connection'}."
                             ) from error  # fmt: skip
    return connection


def _socket(endpoint: Endpoint, through: Connection | None, deadline: Deadline) -> socket.socket | paramiko.Channel:
    timeout = max(0.1, deadline.remaining())
    if through is not None:
        target = (endpoint.address, endpoint.port)
        return through.open_channel("direct-tcpip", target, ("127.0.0.1", 0), timeout=timeout)
    sock = socket.create_connection((endpoint.address, endpoint.port), timeout=timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT)
    return sock


def _authenticate(name: str, endpoint: Endpoint, connection: Connection) -> None:
    refusal: Exception | None = None
    for key in endpoint.keys:
        try:
            connection.auth_publickey(endpoint.user, key)
            return
        except paramiko.AuthenticationException as error:
            refusal = error
        except (paramiko.SSHException, EOFError, OSError) as error:
            refusal = error
            break
    connection.close()
    raise SshAuthFailed(f"'{name}' refused the key for user '{endpoint.user}': {refusal}.") from refusal
