"""What bhyve's exit status says, as far as it says anything alone (usr.sbin/bhyve/bhyverun.c, 12.1 to 15).

Status 1 is a power-off, a failing VM_RUN ioctl or a usage error; 4 is a start-up error, or on 15 a VM that was
destroyed underneath; any odd status can come from pc-testdev. What stands on standard error decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from harness.errors import GuestDied, GuestSilent, HostUnready, InfraError, VmmcheckError

#: Status of bhyve when the guest wrote 8 to pc-testdev's port: (8 << 1) | 1. Smaller values collide with others.
TESTDEV_DONE = 17
#: Status when every vCPU halts with interrupts off (-H, halt detection).
HALT_DONE = 2
#: The shell's status of a program that SIGABRT ended.
ABORTED = 134

#: Standard error of a bhyve that never came to run the guest, up to 15.
_STARTUP = (
    "Error opening bootrom", "device emulation initialization error", "Unable to setup memory", "vm_reinit",
    "virtual machine cannot be booted", "Unable to initialize backend", "ROM size", "Invalid value for",
    "vm_create", "vm_open", "cannot create", "illegal option", "invalid memsize", "ROM boot failed", "vm_set_topology",
    "Usage: bhyve", "usage: bhyve",
)  # fmt: skip


class Ending(Enum):
    """How a run of bhyve ended."""

    DONE = auto()  #: the guest said that it is done
    RESET = auto()  #: the guest, or bhyvectl --force-reset, reset the VM
    POWEROFF = auto()  #: the guest, or bhyvectl --force-poweroff, switched it off
    HALTED = auto()  #: all vCPUs halted with interrupts off
    TRIPLE_FAULT = auto()  #: as the kernel's nested-fault logic sees one
    RUN_FAILED = auto()  #: the VM_RUN ioctl failed in a vCPU thread
    DESTROYED = auto()  #: the VM was destroyed underneath
    START_FAILED = auto()  #: bhyve did not come to run the guest
    ABORTED = auto()  #: unhandled exit or failed assertion: SIGABRT
    KILLED = auto()  #: by a signal from outside
    UNKNOWN = auto()


_MEANING = {
    Ending.DONE: "the guest was done",
    Ending.RESET: "the guest was reset",
    Ending.POWEROFF: "the guest was powered off",
    Ending.HALTED: "every vCPU halted",
    Ending.TRIPLE_FAULT: "the guest triple-faulted",
    Ending.RUN_FAILED: "the VM_RUN ioctl failed",
    Ending.DESTROYED: "the virtual machine was destroyed underneath",
    Ending.START_FAILED: "bhyve did not start the guest",
    Ending.ABORTED: "bhyve aborted",
    Ending.KILLED: "bhyve was killed by a signal",
    Ending.UNKNOWN: "nobody knows what that means",
}


@dataclass(frozen=True, slots=True)
class Exit:
    """An ending with what it was read from."""

    ending: Ending
    status: int
    stderr: str

    def __str__(self) -> str:
        said = f"; it said: {self.stderr[:400]}" if self.stderr else ""
        return f"bhyve ended with status {self.status}: {_MEANING[self.ending]}{said}"

    def error(self, program: str, *, banner: bool) -> VmmcheckError:
        """What it means that a guest ended like this before it was done; ``banner``: it had begun to talk."""
        if self.ending is Ending.START_FAILED:
            return HostUnready(f"{self}.", help="Read bhyve's message; the guest never ran, the cell says nothing.")
        if self.ending is Ending.KILLED:
            return InfraError(f"{self}. Nobody here did that: look for a watchdog or a lack of memory on the host.")
        if not banner and self.ending in (Ending.RESET, Ending.POWEROFF, Ending.HALTED, Ending.DONE):
            return GuestSilent(f"Program '{program}' printed no banner; {self}.")
        return GuestDied(f"Program '{program}' did not come to its end: {self}.")


def interpret(status: int, stderr: str, *, done: int) -> Exit:
    """Read an exit status together with standard error; ``done`` is the status of a guest that came to its end."""
    text = stderr.strip()
    return Exit(_ending(status, text, done), status, text)


def _ending(status: int, text: str, done: int) -> Ending:
    if "vm_run error" in text:
        # ENXIO: the device is gone, the VM was destroyed (transcripts of 13.2).
        return Ending.DESTROYED if "errno 6" in text else Ending.RUN_FAILED
    if status == ABORTED or "Assertion failed" in text:
        return Ending.ABORTED
    if any(sign in text for sign in _STARTUP) or status in (64, 71, 126, 127):
        return Ending.START_FAILED
    if status == done:
        return Ending.DONE
    if status > 128 and status - 128 in (1, 2, 3, 9, 13, 15):
        return Ending.KILLED
    return {
        0: Ending.RESET, 1: Ending.POWEROFF, 2: Ending.HALTED, 3: Ending.TRIPLE_FAULT, 4: Ending.START_FAILED,
    }.get(status, Ending.UNKNOWN)  # fmt: skip
