"""The control channel of the reference hypervisor: requests answered, events handed out.

The format and the codes are those of ``kernel/reference/include/ctl.h``.
"""

from __future__ import annotations

import os
import select
import struct
import threading
import zlib
from collections.abc import Callable, Sequence
from enum import IntEnum

from harness.errors import EmulatorFailed

_MAGIC = b"\xa5\x5a"
_FRAME = struct.Struct("<2sHI")
_HEAD = struct.Struct("<BBH")
_NAME = 32

REQUEST, RESPONSE, EVENT = 1, 2, 3


class Code(IntEnum):
    """Requests (``CTL_*``)."""

    HELLO = 0x01
    MODLOAD = 0x02
    MODUNLOAD = 0x03
    SYSCTL = 0x04
    VM_CREATE = 0x10
    VM_DESTROY = 0x11
    VM_LIST = 0x12
    VM_SETMEM = 0x13
    VM_READ = 0x14
    VM_WRITE = 0x15
    ROM_PAGE = 0x16
    ROM_MAP = 0x17
    VM_REINIT = 0x18
    VM_SAVE = 0x19
    VM_RESTORE = 0x1A
    RUN = 0x20
    KILL = 0x21
    SUSPEND = 0x22
    CONSOLE_IN = 0x23
    PIN = 0x24
    STOP = 0x25
    INJECT_NMI = 0x26
    DEBUG = 0x27
    GET_REG = 0x30
    SET_REG = 0x31
    GET_DESC = 0x32
    SET_DESC = 0x33
    GET_STATS = 0x34
    GET_CAP = 0x35
    SET_CAP = 0x36
    GET_STATE = 0x37
    THREAD = 0x38
    MSR_READ = 0x40
    MSR_WRITE = 0x41
    CPUID = 0x42
    WITNESS_PLANT = 0x50
    WITNESS_READ = 0x51
    WITNESS_TOUCH = 0x52
    WITNESS_STEP = 0x53
    SETDBREGS = 0x54
    GETDBREGS = 0x55
    SENTINEL_START = 0x56
    SENTINEL_STOP = 0x57
    GETBASES = 0x5A
    WITNESS_ADDRESS = 0x58
    WITNESS_TABLES = 0x59
    FBT_LIST = 0x60
    FBT_ENABLE = 0x61
    FBT_READ = 0x62
    FBT_DISABLE = 0x63
    FBT_COUNTS = 0x64
    MISBEHAVE = 0x70


class Event(IntEnum):
    """Events (``CTL_EV_*``)."""

    CONSOLE_OUT = 0x80
    EXITED = 0x81
    KLOG = 0x82
    PANIC = 0x83
    DEBUG = 0x84


class KernelError(Exception):
    """The kernel refused a request; ``errno`` has FreeBSD's numbers, ``data`` what came with it."""

    def __init__(self, errno: int, data: bytes = b"") -> None:
        super().__init__(f"errno {errno}")
        self.errno = errno
        self.data = data


def name_field(name: str) -> bytes:
    """A VM's name as requests carry it: 32 bytes, NUL-padded. Longer names are the caller's to refuse."""
    return name.encode("ascii", "replace")[: _NAME - 1].ljust(_NAME, b"\0")


class ControlChannel:
    """One end of the serial line. ``on_event`` is called in the reader's thread with (code, payload)."""

    def __init__(self, fd: int, on_event: Callable[[int, bytes], None]) -> None:
        self._fd = fd
        self._on_event = on_event
        self._seq = 0
        self._lock = threading.Lock()
        #: Number of a request -> whom to wake for its answer, if anybody, and where that goes.
        self._answers: dict[int, tuple[threading.Event | None, list[bytes]]] = {}
        self._stop_read, self._stop_write = os.pipe()
        self._closed = False
        self._thread = threading.Thread(target=self._read_all, name="ctl", daemon=True)
        self._thread.start()

    def request(self, code: int, payload: bytes = b"", *, seconds: float = 10.0) -> bytes:
        """Send one request and return the answer's data.

        Raises :class:`KernelError` for an errno, :class:`EmulatorFailed` when no answer comes in time.
        """
        return self.requests([(code, payload)], seconds=seconds)[0]

    def requests(self, requests: Sequence[tuple[int, bytes]], *, seconds: float = 10.0) -> list[bytes]:
        """Send several requests at once and return their answers' data, in order.

        All are carried out, whatever becomes of one; then the first error is raised, as by :meth:`request`.
        """
        frames, waiting = bytearray(), list[tuple[int, int, list[bytes]]]()
        # They are answered in order: once the last one is, nobody has to be woken for the others.
        last = threading.Event()
        with self._lock:
            if self._closed:
                raise EmulatorFailed("The control channel of the emulated machine is closed.")
            for number, (code, payload) in enumerate(requests, start=1):
                self._seq = (self._seq + 1) & 0xFFFF
                box = list[bytes]()
                self._answers[self._seq] = (last if number == len(requests) else None, box)
                waiting.append((code, self._seq, box))
                body = _HEAD.pack(REQUEST, code, self._seq) + payload
                frames += _FRAME.pack(_MAGIC, len(body), zlib.crc32(body)) + body
            self._write(bytes(frames))
        arrived = last.wait(seconds)
        for code, _, box in waiting:
            if not box:
                for _, other, _ in waiting:
                    self._answers.pop(other, None)
                within = f" within {seconds:g} s" if not arrived else " before the channel was closed"
                raise EmulatorFailed(f"The emulated kernel did not answer request {code:#04x}{within}.")
        for _, _, box in waiting:
            errno = int.from_bytes(box[0][:4], "little", signed=True)
            if errno:
                raise KernelError(errno, box[0][4:])
        return [box[0][4:] for _, _, box in waiting]

    def close(self) -> None:
        """Stop reading and fail whatever waits."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        os.write(self._stop_write, b"x")
        self._thread.join(5)
        for done, _ in list(self._answers.values()):
            if done is not None:
                done.set()
        os.close(self._stop_read)
        os.close(self._stop_write)

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            raise EmulatorFailed(f"The emulated machine's serial line is gone: {error.strerror}.") from error

    def _read_all(self) -> None:
        buffer = bytearray()
        while True:
            ready, _, _ = select.select([self._fd, self._stop_read], [], [])
            if self._stop_read in ready:
                return
            try:
                data = os.read(self._fd, 65536)
            except OSError:
                return
            if not data:
                return
            buffer += data
            self._take_frames(buffer)

    def _take_frames(self, buffer: bytearray) -> None:
        while True:
            start = buffer.find(_MAGIC)
            if start < 0:
                del buffer[: max(0, len(buffer) - 1)]
                return
            del buffer[:start]
            if len(buffer) < _FRAME.size:
                return
            _, length, crc = _FRAME.unpack_from(buffer)
            if len(buffer) < _FRAME.size + length:
                return
            body = bytes(buffer[_FRAME.size : _FRAME.size + length])
            if zlib.crc32(body) != crc:
                # Not a frame after all, or a damaged one: look for the next magic behind this one.
                del buffer[:1]
                continue
            del buffer[: _FRAME.size + length]
            self._take(body)

    def _take(self, body: bytes) -> None:
        kind, code, seq = _HEAD.unpack_from(body)
        payload = body[_HEAD.size :]
        if kind == RESPONSE and seq in self._answers:
            done, box = self._answers.pop(seq)
            box.append(payload)
            if done is not None:
                done.set()
        elif kind == EVENT:
            self._on_event(code, payload)
