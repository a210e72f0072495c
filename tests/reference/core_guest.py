"""Guests of a few bytes, for the kernel's own behaviour around them: they start, and most of them stay."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from harness.emulated.ctl import Code, KernelError, name_field
from harness.errors import EmulatorFailed
from harness.timing import Deadline
from tests.reference.vmx_lab import COM1, MEMORY, TESTDEV, Lab

SPIN = b"\xeb\xfe"
SPIN_IF0 = b"\xfa\xeb\xfe"
HALT_IF0 = b"\xfa\xf4\xeb\xfe"
HALT = b"\xfb\xf4\xeb\xfc"
OUT_84 = b"\xe6\x84\xeb\xfe"
#: lidt of a table without entries, then int3.
TRIPLE_FAULT = b"\x2e\x0f\x01\x1e\x80\xff\xcc"
STORE_TO_ROM = b"\x2e\xa2\x80\xff\xeb\xfe"
RESET_CF9 = b"\xba\xf9\x0c\xb0\x06\xee\xeb\xfe"
POWEROFF = b"\xba\x04\x04\xb8\x00\x34\xef\xeb\xfe"

RIP = 20
CODE_AT = 0xFF00


def rom_of(code: bytes) -> bytes:
    """64 KiB that jump from the reset vector to ``code``, in real mode."""
    image = bytearray(b"\xf4" * CODE_AT + code.ljust(0x80, b"\0") + b"\0" * 0x80)
    image[0xFFF0:0xFFF3] = b"\xe9" + struct.pack("<h", CODE_AT - 0xFFF3)
    return bytes(image)


@dataclass(frozen=True, slots=True)
class State:
    """What GET_STATE says: last exit code, host CPU, whether inside vm_run(), VM exits so far."""

    exitcode: int
    hostcpu: int
    running: bool
    exits: int


@dataclass(frozen=True, slots=True)
class TinyGuest:
    """A VM that runs."""

    lab: Lab
    name: str

    def vm(self, code: Code, payload: bytes = b"") -> bytes:
        return self.lab.machine.vm_request(code, self.name, payload)

    def run(self, *, flags: int = TESTDEV | COM1, pins: Sequence[int] = (1,)) -> None:
        self.lab.ended.pop(self.name, None)
        self.lab.console[self.name] = b""
        self.vm(Code.RUN, struct.pack(f"<II{len(pins)}i", len(pins), flags, *pins))

    def state(self, vcpu: int = 0) -> State:
        exitcode, cpu, running, exits = struct.unpack("<IiIQ", self.vm(Code.GET_STATE, struct.pack("<I", vcpu)))
        return State(exitcode, cpu, bool(running), exits)

    def register(self, number: int, vcpu: int = 0) -> int:
        return int(struct.unpack("<Q", self.vm(Code.GET_REG, struct.pack("<Ii", vcpu, number)))[0])

    def wait_exits(self, more: int, vcpu: int = 0) -> None:
        """Until the guest has left for the host that many times more: it is alive, and so is the host's tick."""
        goal, deadline = self.state(vcpu).exits + more, Deadline.after(5)
        while self.state(vcpu).exits < goal:
            assert not deadline.expired(), self.state(vcpu)

    def end(self, seconds: float = 5) -> tuple[int, str]:
        """Status and stderr of bhyve."""
        deadline = Deadline.after(seconds)
        while self.name not in self.lab.ended:
            if deadline.expired():
                raise EmulatorFailed(f"{self.name} does not end: {self.state()} {self.lab.panics}")
            self.lab.wait_news(deadline)
        return self.lab.ended[self.name]


@contextmanager
def tiny(
    lab: Lab, image: bytes, *, name: str = "tiny", flags: int = TESTDEV | COM1, pins: Sequence[int] = (1,)
) -> Iterator[TinyGuest]:
    """A running VM from ``image``; destroyed at the end unless it is gone already."""
    guest = TinyGuest(lab, name)
    lab.machine.hold()
    try:
        lab.machine.request(Code.VM_CREATE, name_field(name))
        guest.vm(Code.VM_SETMEM, struct.pack("<Q", MEMORY))
        lab.machine.map_rom(name, image)
        guest.run(flags=flags, pins=pins)
        yield guest
    finally:
        with suppress(KernelError):
            guest.vm(Code.VM_DESTROY)
        lab.machine.release()
