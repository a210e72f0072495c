"""How commands reach a host."""

from harness.transport.protocol import CommandResult, RemoteProcess, Transport
from harness.transport.ssh import SshTransport

__all__ = ["CommandResult", "RemoteProcess", "SshTransport", "Transport"]
