"""The real sshd is shared with other areas."""

from tests.sshd import sshd, transport

__all__ = ["sshd", "transport"]
