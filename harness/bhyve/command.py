"""bhyve's command line and exit status (usr.sbin/bhyve, 12.1 to 15)."""

from __future__ import annotations

import shlex

from harness.errors import GuestDied, InfraError, VmmcheckError

#: Guest memory in MiB: more than the runtime uses, little enough to be given quickly.
MEMORY = 32
#: Status of bhyve when the guest wrote 8 to pc-testdev's port: (8 << 1) | 1.
DONE_STATUS = 17


def bhyve_command(name: str, rom: str, *, pin: int | None = None) -> str:
    """The portable command line for a tiny guest: HLT intercepted, console on standard input and output."""
    words = ["bhyve", "-c", "1", "-m", f"{MEMORY}M", "-H"]
    if pin is not None:
        words += ["-p", f"0:{pin}"]
    words += ["-s", "0,hostbridge", "-s", "31,lpc", "-l", "com1,stdio", "-l", "pc-testdev", "-l", f"bootrom,{rom}"]
    return shlex.join([*words, name])


def explain_exit(status: int, stderr: str) -> VmmcheckError:
    """What it means that bhyve ended with ``status`` before the guest was done.

    Status 1 alone is ambiguous (power-off, start-up error, failing VM_RUN): what stands on stderr decides.
    """
    said = f" It said: {stderr.strip()[:300]}" if stderr.strip() else ""
    if "vm_run error" in stderr:
        return GuestDied(f"The VM_RUN ioctl failed while the guest ran (status {status}).{said}")
    if status in (4, 64, 71):
        return InfraError(f"bhyve did not start the guest (status {status}).{said}")
    meanings = {0: "the guest was reset", 1: "the guest was powered off", 2: "all vCPUs halted", 3: "triple fault",
                134: "bhyve aborted", 137: "bhyve was killed"}  # fmt: skip
    meaning = meanings.get(status, "unknown")
    return GuestDied(f"bhyve ended with status {status} ({meaning}) before the guest did.{said}")
