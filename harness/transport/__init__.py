"""How commands reach a host."""

from harness.transport.connection import Endpoint, shown_key
from harness.transport.keys import PrivateKey, key_from_file, key_from_text, keys_from_agent
from harness.transport.protocol import CommandResult, RemoteProcess, Transport
from harness.transport.shell import Framed, shown, through_sh
from harness.transport.ssh import SshTransport

__all__ = [
    "CommandResult",
    "Endpoint",
    "Framed",
    "PrivateKey",
    "RemoteProcess",
    "SshTransport",
    "Transport",
    "key_from_file",
    "key_from_text",
    "keys_from_agent",
    "shown",
    "shown_key",
    "through_sh",
]
