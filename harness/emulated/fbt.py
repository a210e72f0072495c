"""Function boundary tracing of the reference kernel: probes enabled, their records read and told apart."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from harness.emulated.ctl import Code, KernelError
from harness.emulated.drun import Fetch
from harness.emulated.kerneltypes import Function
from harness.emulated.machine import Machine

ENTRY, RETURN = 1, 2
#: ``struct fbt_record``.
_RECORD = struct.Struct("<IIIIQQ5QQ6Q24s12QII")
#: Records asked for at a time: what fits into an answer.
_BATCH = 31
_PROBES = 16


@dataclass(frozen=True, slots=True)
class Record:
    """A probe that fired: ``args`` as :class:`harness.emulated.drun.Firing` has them, ``frames`` innermost first."""

    id: int
    is_return: bool
    cpu: int
    thread: int
    tsc: int
    args: tuple[int, ...]
    frames: tuple[int, ...]
    name: str
    values: tuple[int, ...]
    faults: int
    repeats: int

    @classmethod
    def unpack(cls, parts: tuple[int, ...]) -> Record:
        numbers = [part for part in parts if isinstance(part, int)]
        name = next(bytes(part) for part in parts if not isinstance(part, int))
        id, what, cpu, offset, thread, tsc = numbers[:6]
        args = tuple(numbers[6:11])
        if what == RETURN:
            # As FreeBSD has it: where in the function, and the result.
            args = (offset, args[0], 0, 0, 0)
        return cls(
            id, what == RETURN, cpu, thread, tsc, args, tuple(frame for frame in numbers[12:18] if frame),
            name.rstrip(b"\0").decode(), tuple(numbers[18:30]), numbers[30], numbers[31],
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sites:
    """Where a function can be probed: offsets of the entry (-1: it cannot) and of the returns."""

    entry: int
    returns: tuple[int, ...]


class FunctionTracer:
    """The probes of one consumer. There is one at a time: records have no owner."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._functions: dict[int, Function] = {}

    def sites(self, function: Function) -> Sites:
        answer = self._machine.request(Code.FBT_LIST, struct.pack("<QI", function.start, function.size))
        entry, count = struct.unpack_from("<iI", answer)
        return Sites(entry, struct.unpack_from(f"<{count}I", answer, 8))

    def enable(self, function: Function, what: int, mask: int, fetches: Iterable[Fetch]) -> None:
        """Probe a function; raises :class:`KernelError` (ENOSPC: there are too many probes)."""
        number = len(self._functions)
        if number >= _PROBES:
            raise KernelError(28)
        values = [
            struct.pack("<BBBx3i", one.argument, len(one.offsets), one.bytes, *(*one.offsets, 0, 0)[:3])
            for one in fetches
        ]
        where = struct.pack("<IQII", number, function.start, function.size, what)
        wanted = struct.pack("<II", mask, len(values)) + b"".join(values)
        self._machine.request(Code.FBT_ENABLE, where + wanted)
        self._functions[number] = function

    def disable(self) -> int:
        """Take all probes away, for good; how many records did not fit. What they recorded can still be read."""
        dropped = 0
        for number in self._functions:
            _, _, lost = struct.unpack("<3Q", self._machine.request(Code.FBT_DISABLE, struct.pack("<I", number)))
            dropped += lost
        return dropped

    def function(self, number: int) -> Function:
        return self._functions[number]

    def read(self) -> Iterator[Record]:
        """Records since the last time, in the order in which the probes fired."""
        while True:
            data = self._machine.request(Code.FBT_READ, struct.pack("<I", _BATCH))
            for parts in _RECORD.iter_unpack(data):
                yield Record.unpack(parts)
            if len(data) < _BATCH * _RECORD.size:
                return

