"""The debug stub of the emulated host and the debugger of the harness speak the same protocol."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator

import pytest

from harness.bhyve import Debugger
from harness.emulated.ctl import Code, KernelError
from harness.emulated.gdbstub import Action, DebugStub, Why
from harness.emulated.streams import Pipe
from harness.errors import GuestHang, HostUnready, ToolMismatch
from harness.timing import Deadline
from harness.transport import CommandResult

RIP = 20
BPT_EXIT = 5


class Memory:
    """A guest of one vCPU without paging that runs until its RIP meets an INT3, for requests of a stub."""

    def __init__(self) -> None:
        self.bytes = bytearray(0x100)
        self.rip = 0x10
        self.caught = False
        self.told: list[Action] = []
        self.can_step = True
        self.stub = DebugStub(self, "vm", 1)

    def vm_request(self, code: int, name: str, payload: bytes = b"") -> bytes:
        if code == Code.DEBUG:
            self._debug(Action(struct.unpack("<II", payload)[1]))
        elif code == Code.GET_REG:
            return struct.pack("<Q", self.rip if struct.unpack("<Ii", payload)[1] == RIP else 0)
        elif code == Code.SET_CAP:
            _, capability, on = struct.unpack("<Iii", payload)
            assert capability == BPT_EXIT
            self.caught = bool(on)
        elif code == Code.VM_READ:
            at, length = struct.unpack("<QI", payload)
            return bytes(self.bytes[at : at + length])
        elif code == Code.VM_WRITE:
            (at,) = struct.unpack_from("<Q", payload)
            self.bytes[at : at + len(payload) - 8] = payload[8:]
        return b""

    def _debug(self, action: Action) -> None:
        self.told.append(action)
        if action == Action.SUSPEND:
            self.stub.stopped(0, Why.SUSPENDED, self.rip)
        elif action == Action.STEP:
            if not self.can_step:
                raise KernelError(45)
            self.rip += 1
            self.stub.stopped(0, Why.STEPPED, self.rip)
        elif 0xCC in self.bytes[self.rip :]:
            self.rip = self.bytes.index(0xCC, self.rip + (action == Action.REFLECT))
            self.stub.stopped(0, Why.BREAKPOINT, self.rip)


class Wire:
    """``nc`` to the stub, one byte at a time: nobody promises that packets arrive whole."""

    def __init__(self, stub: DebugStub) -> None:
        self.sent, self._got = Pipe(), Pipe()
        self._out = bytearray()
        self.served = threading.Thread(target=self._serve, args=(stub,), daemon=True)
        self.served.start()

    def _serve(self, stub: DebugStub) -> None:
        stub.serve(self, self._got)  # type: ignore[arg-type]
        self._got.close()

    def write(self, data: bytes) -> None:
        self.sent.write(data)

    def read(self, deadline: Deadline | int = 1) -> bool | bytes:
        """Both sides call it so: the stub with a number of bytes, the debugger with a deadline."""
        if not isinstance(deadline, Deadline):
            return self.sent.read(1)
        reader = threading.Thread(target=lambda: self._out.extend(self._got.read(1)), daemon=True)
        before = len(self._out)
        reader.start()
        reader.join(deadline.remaining())
        return len(self._out) > before or reader.is_alive()

    @property
    def stdout(self) -> bytes:
        return bytes(self._out)

    @property
    def stderr(self) -> bytes:
        return b"Connection to localhost 47110 port [tcp/*] succeeded!\n"

    def close_stdin(self) -> None:
        self.sent.close()

    def wait(self, deadline: Deadline) -> CommandResult:
        self.served.join(deadline.remaining())
        assert not self.served.is_alive()
        return CommandResult("nc", 0, b"", b"", 0.0, 0.0)

    def close(self) -> None:
        self.close_stdin()


@pytest.fixture
def guest() -> Iterator[Memory]:
    guest = Memory()
    yield guest
    guest.stub.end()


def attach(guest: Memory, seconds: float = 5) -> Debugger:
    return Debugger(Wire(guest.stub), seconds)  # type: ignore[arg-type]


def test_a_breakpoint_is_met_stepped_from_and_taken_out(guest: Memory) -> None:
    debugger = attach(guest)
    assert debugger.registers()["rip"] == 0x10
    debugger.set_breakpoint(0x20)
    assert guest.caught
    assert guest.bytes[0x20] == 0xCC
    debugger.resume()
    assert debugger.wait_stop() == 0x20
    assert debugger.step() == 0x21
    debugger.detach()
    assert guest.bytes == bytes(0x100)
    assert not guest.caught
    assert guest.told[-1] == Action.RESUME


def test_an_int3_of_the_guest_goes_back_to_it(guest: Memory) -> None:
    guest.bytes[0x18] = 0xCC
    debugger = attach(guest)
    debugger.set_breakpoint(0x20)
    debugger.resume()
    assert debugger.wait_stop() == 0x20
    assert guest.told[-1] == Action.REFLECT
    debugger.detach()
    assert guest.bytes[0x18] == 0xCC


def test_a_stub_that_cannot_step_says_so(guest: Memory) -> None:
    guest.can_step = False
    debugger = attach(guest)
    with pytest.raises(ToolMismatch, match="answered 's' with 'E2d'"):
        debugger.step()
    assert debugger.registers()["rip"] == 0x10


def test_a_guest_that_never_comes_to_the_breakpoint_is_a_hang(guest: Memory) -> None:
    debugger = attach(guest, seconds=0.5)
    debugger.resume()
    assert debugger.running()
    with pytest.raises(GuestHang, match="did not come to a breakpoint"):
        debugger.wait_stop()


def test_a_debugger_that_goes_without_a_word_leaves_nothing(guest: Memory) -> None:
    debugger = attach(guest)
    debugger.set_breakpoint(0x30)
    debugger.close()
    assert guest.bytes == bytes(0x100)
    assert guest.told[-1] == Action.RESUME
    attach(guest).detach()


def test_a_second_debugger_is_turned_away(guest: Memory) -> None:
    first = attach(guest)
    with pytest.raises(ToolMismatch, match="closed the connection"):
        attach(guest)
    first.detach()


def test_a_damaged_packet_is_asked_for_again(guest: Memory) -> None:
    wire = Wire(guest.stub)
    wire.write(b"$g#00")
    assert wire.read(Deadline.after(5))
    assert wire.stdout == b"-"
    wire.close()


def test_why_there_is_no_connection_is_told(guest: Memory) -> None:
    class Refused(Wire):
        @property
        def stderr(self) -> bytes:
            return said

    said = b"nc: connect to localhost port 47110 (tcp) failed: Connection refused\n"
    held = attach(guest)
    with pytest.raises(ToolMismatch, match="failed: Connection refused"):
        Debugger(Refused(guest.stub), 5)  # type: ignore[arg-type]
    said = b"/bin/sh: nc: not found\n"
    with pytest.raises(HostUnready, match=r"no nc\(1\)"):
        Debugger(Refused(guest.stub), 5)  # type: ignore[arg-type]
    held.detach()
