"""Real SSH on loopback: one known user, one key, every command through the shell."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import paramiko

from harness.emulated.host import EmulatedHost
from harness.emulated.outbox import Outbox
from harness.emulated.shell import Context
from harness.errors import EmulatorFailed

USER = "root"
#: A channel's write blocks until the client reads; a client that is gone must not block for ever.
WRITE_SECONDS = 30.0


def load_key(path: Path) -> paramiko.Ed25519Key:
    """The key in ``path``, generated on first use."""
    if not path.exists():
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        data = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        path.touch(mode=0o600)
        path.write_bytes(data)
    return paramiko.Ed25519Key(filename=str(path))


class _Session(paramiko.ServerInterface):
    def __init__(self, server: SshServer) -> None:
        self._server = server

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        if username == USER and key == self._server.client_key:
            return paramiko.common.AUTH_SUCCESSFUL
        return paramiko.common.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        if kind == "session":
            return paramiko.common.OPEN_SUCCEEDED
        return paramiko.common.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self._server.pending[channel] = command.decode()
        return True


class _ChannelReader:
    """The channel's input as a stream."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    def read(self, limit: int = 65536) -> bytes:
        try:
            return self._channel.recv(limit)
        except OSError:
            return b""


class SshServer:
    """Accepts connections while the host is up; :meth:`cut` drops them all, as a dying host does."""

    def __init__(self, host: EmulatedHost, keys: Path) -> None:
        self._host = host
        self._keys = keys
        keys.mkdir(parents=True, exist_ok=True)
        self.host_key = load_key(keys / "host_key")
        self.client_key = load_key(keys / "client_key")
        self.identity = keys / "client_key"
        self._transports: list[paramiko.Transport] = []
        #: Commands accepted, but whose request has not been answered yet.
        self.pending: dict[paramiko.Channel, str] = {}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        #: Channels of commands that a dead kernel left without an answer; held, or they would close by themselves.
        self._silent: list[paramiko.Channel] = []
        self.refuse = False
        #: The host hangs: nobody runs a command, and nobody takes a connection out of the kernel's queue.
        self.mute = False
        self._unheard: list[socket.socket] = []
        #: The network between us and everybody else is down.
        self.outage = False
        threading.Thread(target=self._accept, name="sshd", daemon=True).start()

    def show_key(self, name: str) -> None:
        """Show the host key in this file from now on: another one, as a machine that was installed anew does."""
        self.host_key = load_key(self._keys / name)

    def cut(self) -> None:
        for transport in self._transports:
            with suppress(Exception):
                transport.sock.close()
                transport.close()
        self._transports.clear()
        self._silent.clear()
        while self._unheard:
            self._unheard.pop().close()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.mute:
                self._unheard.append(client)
                continue
            if self.refuse or self.outage or not self._host.booted.is_set():
                client.close()
                continue
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport = paramiko.Transport(client)
        # The answer to an exec request must be on its way before the command can finish: paramiko sends it when
        # this handler returns, so the command starts behind the handler and not inside of it.
        internals: Any = transport
        table = dict(internals._channel_handler_table)
        handle = table[paramiko.common.MSG_CHANNEL_REQUEST]

        def handle_then_start(channel: paramiko.Channel, message: paramiko.Message) -> None:
            handle(channel, message)
            command = self.pending.pop(channel, None)
            if command is not None:
                threading.Thread(target=self.run, args=(channel, command), daemon=True).start()

        internals._channel_handler_table = table | {paramiko.common.MSG_CHANNEL_REQUEST: handle_then_start}
        transport.add_server_key(self.host_key)
        with suppress(paramiko.SSHException, EOFError, OSError):
            transport.start_server(server=_Session(self))
            self._transports.append(transport)

    def run(self, channel: paramiko.Channel, command: str) -> None:
        """Run one command on its channel and report its exit status."""
        if self.mute:
            self._silent.append(channel)
            return
        channel.settimeout(None)
        outbox = Outbox(channel.sendall, channel.sendall_stderr)
        context = Context(_ChannelReader(channel), outbox.stdout, outbox.stderr, {"?": "0"})
        try:
            status = self._host.shell.run_text(command, context)
            outbox.close()
            channel.send_exit_status(status)
        except EmulatorFailed:
            # The kernel is gone: a host without one says nothing more, not even that the command ended.
            self._silent.append(channel)
        except (OSError, BrokenPipeError, EOFError):
            # The client went away, or the host did: nobody is there to be told.
            pass
        except Exception as error:  # noqa: BLE001 - a defect of ours is told to the client, not to this thread
            self._host.log(f"vmmcheck-emulated: internal error in '{command[:80]}': {error!r}")
            with suppress(OSError):
                channel.send_exit_status(70)
        if channel not in self._silent:
            with suppress(OSError, EOFError):
                channel.close()


def fingerprint(key: paramiko.PKey) -> str:
    """``SHA256:...`` as ssh-keygen -l prints it."""
    return str(key.fingerprint)
