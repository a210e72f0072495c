"""bhyve's debug stub (``-G``) on top of the emulated kernel: of GDB's remote protocol what usr.sbin/bhyve/gdb.c has.

A stub serves one connection at a time. Attaching stops every vCPU; detaching, or losing the connection, takes every
breakpoint out and lets them run.
"""

from __future__ import annotations

import contextlib
import queue
import struct
import threading
from enum import IntEnum
from typing import Protocol

from harness.emulated.ctl import Code, KernelError
from harness.emulated.streams import Reader, Writer
from harness.errors import EmulatorFailed

SIGTRAP = 5
_INT3 = b"\xcc"
#: FreeBSD's register numbers in the order of ``g``: sixteen general registers and RIP (8 bytes), then 4 bytes each.
_WIDE = (0, 1, 2, 3, 4, 5, 6, 19, *range(7, 15), 20)
_NARROW = (21, 23, 24, 25, 22, 26, 27)
_CR0, _CR3, _CR4, _EFER = 15, 16, 17, 32
_CAP_BPT_EXIT = 5
_PAGE = 4096


class Action(IntEnum):
    """What a vCPU is told (``CTL_DEBUG_*``)."""

    SUSPEND = 0
    RESUME = 1
    STEP = 2
    REFLECT = 3


class Why(IntEnum):
    """Why one stands."""

    SUSPENDED = 0
    BREAKPOINT = 1
    STEPPED = 2


class Kernel(Protocol):
    """The requests that a stub makes of the emulated machine."""

    def vm_request(self, code: int, name: str, payload: bytes = b"") -> bytes: ...


class Refused(Exception):
    """Answered with an error packet."""


class DebugStub:
    """The stub of one bhyve process with ``vcpus`` processors."""

    def __init__(self, kernel: Kernel, vm: str, vcpus: int) -> None:
        self._kernel = kernel
        self.vm = vm
        self._vcpus = vcpus
        #: Guest-physical address and the byte under it, by the linear address that the debugger named.
        self._breakpoints: dict[int, tuple[int, bytes]] = {}
        self._lock = threading.RLock()
        self._out: Writer | None = None
        self._standing: dict[int, Why] = {}
        self._wanted = False
        self._vcpu = 0
        self._swbreak = False
        self._stops: queue.SimpleQueue[tuple[int, int, int] | None] = queue.SimpleQueue()
        threading.Thread(target=self._attend, name=f"gdb {vm}", daemon=True).start()

    # --- what vCPUs tell ----------------------------------------------------------------------------------

    def stopped(self, vcpu: int, why: int, rip: int) -> None:
        """A vCPU stands; called by whoever reads the kernel's events, which no request may keep waiting."""
        self._stops.put((vcpu, why, rip))

    def end(self) -> None:
        """The process is gone."""
        self._stops.put(None)

    def _attend(self) -> None:
        while (stop := self._stops.get()) is not None:
            # A machine that goes down meanwhile takes the process, and this stub, with it.
            with contextlib.suppress(KernelError, EmulatorFailed):
                self._stopped(*stop)

    def _stopped(self, vcpu: int, why: int, rip: int) -> None:
        """An INT3 that is none of ours goes back to the guest."""
        with self._lock:
            if why == Why.BREAKPOINT and rip not in self._breakpoints:
                self._tell(vcpu, Action.REFLECT)
                return
            self._standing[vcpu] = Why(why)
            if why != Why.SUSPENDED:
                self._vcpu = vcpu
                self._suspend_others(vcpu)
            if self._wanted and (why != Why.SUSPENDED or len(self._standing) == self._vcpus):
                self._report()

    def _suspend_others(self, vcpu: int) -> None:
        for other in range(self._vcpus):
            if other != vcpu and other not in self._standing:
                self._tell(other, Action.SUSPEND)

    def _report(self) -> None:
        self._wanted = False
        why = self._standing.get(self._vcpu, Why.SUSPENDED)
        reason = "swbreak:;" if why == Why.BREAKPOINT and self._swbreak else ""
        self._send(f"T{SIGTRAP:02x}thread:{self._vcpu + 1:x};{reason}")

    # --- one connection -----------------------------------------------------------------------------------

    def serve(self, stdin: Reader, out: Writer) -> bool:
        """Speak with a debugger until it detaches or goes; false when another one is attached."""
        with self._lock:
            if self._out is not None:
                return False
            self._out = out
            for vcpu in range(self._vcpus):
                self._tell(vcpu, Action.SUSPEND)
        try:
            buffer = bytearray()
            while data := stdin.read():
                buffer += data
                if not self._take(buffer):
                    break
        finally:
            with self._lock:
                with contextlib.suppress(KernelError, EmulatorFailed):
                    self._let_go()
                self._out = None
        return True

    def _take(self, buffer: bytearray) -> bool:
        """Handle whole packets; false once the debugger detached."""
        while buffer:
            if buffer[0] == 0x03:
                del buffer[0]
                with self._lock:
                    self._interrupt()
                continue
            if buffer[:1] != b"$":
                del buffer[0]
                continue
            end = buffer.find(b"#")
            if end < 0 or len(buffer) < end + 3:
                return True
            body, claimed = bytes(buffer[1:end]), bytes(buffer[end + 1 : end + 3])
            del buffer[: end + 3]
            if b"%02x" % (sum(body) & 0xFF) != claimed.lower():
                self._raw(b"-")
                continue
            self._raw(b"+")
            with self._lock:
                if not self._command(body.decode("ascii", "replace")):
                    return False
        return True

    def _command(self, text: str) -> bool:
        try:
            if text == "D":
                self._let_go()
                self._send("OK")
                return False
            answer = self._answer(text)
        except Refused:
            answer = "E01"
        except KernelError as error:
            answer = f"E{error.errno:02x}"
        if answer is not None:
            self._send(answer)
        return True

    def _answer(self, text: str) -> str | None:
        """The answer, empty for what this stub does not know, ``None`` when it comes with the next stop."""
        if text.startswith("qSupported"):
            self._swbreak = "swbreak+" in text
            return "PacketSize=4000;swbreak+"
        match text[:1], text[1:]:
            case "?", "":
                self._wanted = True
                if len(self._standing) == self._vcpus:
                    self._report()
                return None
            case "H", what:
                self._vcpu = max(0, int(what[1:], 16) - 1) % self._vcpus
                return "OK"
            case "g", "":
                return self._registers()
            case "m", where:
                return self._read(*self._numbers(where)).hex()
            case ("Z" | "z") as how, where if where.startswith("0,"):
                self._breakpoint(how == "Z", self._numbers(where[2:])[0])
                return "OK"
            case "c", "":
                self._resume()
                return None
            case "s", "":
                self._standing_vcpu()
                # Alone: the others stand until it is through.
                self._wanted = True
                why = self._standing.pop(self._vcpu)
                try:
                    self._tell(self._vcpu, Action.STEP)
                except KernelError:
                    self._wanted = False
                    self._standing[self._vcpu] = why
                    raise
                return None
        return ""

    @staticmethod
    def _numbers(text: str) -> tuple[int, int]:
        try:
            address, length = text.split(",")
            return int(address, 16), int(length, 16)
        except ValueError:
            raise Refused from None

    def _standing_vcpu(self) -> None:
        if self._vcpu not in self._standing:
            raise Refused

    # --- run and stop ---------------------------------------------------------------------------------------

    def _tell(self, vcpu: int, action: Action) -> None:
        self._kernel.vm_request(Code.DEBUG, self.vm, struct.pack("<II", vcpu, action))

    def _resume(self) -> None:
        self._wanted = True
        standing, self._standing = list(self._standing), {}
        for vcpu in standing:
            self._tell(vcpu, Action.RESUME)

    def _interrupt(self) -> None:
        for vcpu in range(self._vcpus):
            if vcpu not in self._standing:
                self._tell(vcpu, Action.SUSPEND)

    def _let_go(self) -> None:
        for address in list(self._breakpoints):
            self._breakpoint(False, address)
        self._resume()
        self._wanted = False

    # --- state ------------------------------------------------------------------------------------------------

    def _register(self, number: int) -> int:
        request = struct.pack("<Ii", self._vcpu, number)
        return int.from_bytes(self._kernel.vm_request(Code.GET_REG, self.vm, request)[:8], "little")

    def _registers(self) -> str:
        self._standing_vcpu()
        wide = b"".join(struct.pack("<Q", self._register(number)) for number in _WIDE)
        narrow = b"".join(struct.pack("<I", self._register(number) & 0xFFFFFFFF) for number in _NARROW)
        return (wide + narrow).hex()

    def _physical(self, linear: int) -> int:
        """Through the guest's page tables (SDM volume 3, 4.5), without touching their accessed bits."""
        if not self._register(_CR0) >> 31:
            return linear
        if not self._register(_EFER) >> 10 & 1 or self._register(_CR4) >> 12 & 1:
            raise Refused
        table = self._register(_CR3) & 0xF_FFFF_FFFF_F000
        for shift in (39, 30, 21, 12):
            slot = table + 8 * (linear >> shift & 0x1FF)
            entry = int.from_bytes(self._read_physical(slot, 8), "little")
            if not entry & 1:
                raise Refused
            table = entry & 0xF_FFFF_FFFF_F000
            if shift in (30, 21) and entry & 0x80:
                return table & ~((1 << shift) - 1) | linear & ((1 << shift) - 1)
        return table | linear & 0xFFF

    def _read_physical(self, address: int, length: int) -> bytes:
        return self._kernel.vm_request(Code.VM_READ, self.vm, struct.pack("<QI", address, length))

    def _read(self, linear: int, length: int) -> bytes:
        self._standing_vcpu()
        data = b""
        while len(data) < min(length, _PAGE):
            at = linear + len(data)
            data += self._read_physical(self._physical(at), min(length - len(data), _PAGE - at % _PAGE))
        return data

    def _breakpoint(self, plant: bool, linear: int) -> None:
        if plant and linear not in self._breakpoints:
            self._standing_vcpu()
            if not self._breakpoints:
                self._catch(True)
            physical = self._physical(linear)
            under = self._read_physical(physical, 1)
            self._kernel.vm_request(Code.VM_WRITE, self.vm, struct.pack("<Q", physical) + _INT3)
            self._breakpoints[linear] = physical, under
        elif not plant and linear in self._breakpoints:
            physical, under = self._breakpoints.pop(linear)
            self._kernel.vm_request(Code.VM_WRITE, self.vm, struct.pack("<Q", physical) + under)
            if not self._breakpoints:
                self._catch(False)

    def _catch(self, on: bool) -> None:
        for vcpu in range(self._vcpus):
            request = struct.pack("<Iii", vcpu, _CAP_BPT_EXIT, on)
            self._kernel.vm_request(Code.SET_CAP, self.vm, request)

    # --- packets ------------------------------------------------------------------------------------------------

    def _send(self, text: str) -> None:
        body = text.encode("ascii")
        self._raw(b"$%b#%02x" % (body, sum(body) & 0xFF))

    def _raw(self, data: bytes) -> None:
        if self._out is not None:
            with contextlib.suppress(OSError):
                self._out.write(data)
