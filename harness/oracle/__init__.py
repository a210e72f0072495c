"""A third opinion on the guest-only cases: QEMU's software processor beside bare Bochs."""

from harness.oracle.opinions import Compared, Opinion, ask
from harness.oracle.qemu import QemuSubject, command_line, qemu_version

__all__ = ["Compared", "Opinion", "QemuSubject", "ask", "command_line", "qemu_version"]
