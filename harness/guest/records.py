"""What a guest sends back, checked byte for byte before anybody judges it.

Lines are described in ``guests/runtime/records.c``. Whatever is damaged, missing, doubled, out of order or
from another run is :class:`RecordsDamaged`: an infrastructure error, never a verdict about the hypervisor.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass, fields
from enum import IntEnum

from harness.errors import RecordsDamaged, TestDefect
from harness.guest.program import Handle
from harness.guest.registers import VECTORS
from harness.guest.state import ControlRegisters, DebugRegisters, DescriptorTables

_RECORD = struct.Struct("<IBBHQIIHBBIQQQQQQ")
#: Bytes of a record in the guest's memory.
RECORD_SIZE = _RECORD.size
#: Stands between a console and the records that were read in the guest's memory, where both are kept as one.
_MEMORY_MARK = b"\r\n-- records, as read in the guest's memory --\r\n"
_LINE = re.compile(rb"(?:VGP1 ([BPE]) ([0-9a-f]{8})((?: [0-9a-f]+)*)|R ([0-9a-f.]+)) ([0-9a-f]{8})\r*\n")


class Kind(IntEnum):
    """Kinds of records (``RECORD_*`` in ops.h)."""

    RESET = 1
    FEATURES = 2
    EXCEPTION = 3
    RESULT = 4
    SNAPSHOT = 5
    VALUE = 6
    CPUID = 7
    NOTE = 8
    EXIT = 9
    OVERFLOW = 10
    CONTROL = 11
    TABLES = 12
    CPU = 13
    MISMATCH = 14
    COUNTED = 15


#: Records that belong to the run and not to one of its operations.
_OF_THE_RUN = (Kind.RESET, Kind.FEATURES)


class Mode(IntEnum):
    """Processor mode of the interrupted code (``MODE_*``)."""

    LONG = 0
    USER64 = 1
    COMPAT = 2
    REAL = 3
    PROT16 = 4
    PROT32 = 5
    VM86 = 6
    COMPAT16 = 7
    VM86_IOPL0 = 8


@dataclass(frozen=True, slots=True)
class Record:
    """One 80-byte record, fields as in ``struct record`` of ops.h.

    For exceptions ``rip`` (made linear by adding the base of the code segment), ``rflags``, ``cs`` and ``error``
    are the pushed frame, ``dr6`` and ``dr7`` what the handler read, ``value`` the watched memory at that moment,
    ``aux`` rax (CR2 for a page fault, rcx under the handler's flag ``rcx``); ``site`` and ``next`` are the linear
    addresses of the instruction under test and of the one behind it. ``cpu`` is the processor.
    """

    seq: int
    kind: Kind
    vector: int
    op: int
    rip: int
    rflags: int
    error: int
    cs: int
    mode: Mode
    cpu: int
    iteration: int
    dr6: int
    dr7: int
    value: int
    site: int
    next: int
    aux: int

    @classmethod
    def unpack(cls, data: bytes) -> Record:
        values = list(_RECORD.unpack(data))
        try:
            values[1], values[8] = Kind(values[1]), Mode(values[8])
        except ValueError as error:
            raise RecordsDamaged(f"A record with a valid checksum makes no sense: {error}.") from None
        return cls(*values)

    def as_dict(self) -> dict[str, str | int]:
        """For evidence: names, numbers in hexadecimal."""
        out: dict[str, str | int] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (Kind, Mode)):
                out[field.name] = value.name
            elif field.name in ("seq", "op", "cpu", "iteration", "vector"):
                out[field.name] = int(value)
            else:
                out[field.name] = f"{value:#x}"
        return out


@dataclass(frozen=True, slots=True)
class Features:
    """CPUID bits of the guest that expectations depend on."""

    rtm: bool
    bus_lock_detect: bool
    avx: bool
    xsave: bool
    address_masks: bool
    sysenter: bool

    @classmethod
    def of(cls, record: Record) -> Features:
        leaf7_ebx, leaf7_ecx = record.value & 0xFFFF_FFFF, record.value >> 32
        leaf1_ecx, leaf1_edx = record.dr6 & 0xFFFF_FFFF, record.dr6 >> 32
        return cls(
            rtm=bool(leaf7_ebx >> 11 & 1),
            bus_lock_detect=bool(leaf7_ecx >> 24 & 1),
            avx=bool(leaf1_ecx >> 28 & 1),
            xsave=bool(leaf1_ecx >> 26 & 1),
            address_masks=bool(record.aux >> 26 & 1),
            sysenter=bool(leaf1_edx >> 11 & 1),
        )


@dataclass(frozen=True, slots=True)
class Counted:
    """Debug exceptions under the handler's flag ``count``: how many, DR6 bits of any of them and of all of them."""

    count: int
    dr6_any: int
    dr6_all: int


@dataclass(frozen=True, slots=True)
class Result:
    """All records of one complete run, in the order in which they happened."""

    records: tuple[Record, ...]
    raw: bytes
    #: Operations that the boot processor did, each pass of a loop again; ``None`` where it does not say.
    operations: int | None = None

    def lines(self) -> tuple[str, ...]:
        """What each record was read from: its bytes in the guest's memory in hexadecimal, or its line of the console.

        None when there are more or fewer of them than records, as then nobody can tell.
        """
        console, _, memory = self.raw.partition(_MEMORY_MARK)
        found = [memory[at : at + _RECORD.size].hex() for at in range(0, len(memory), _RECORD.size)]
        found += [match[0].decode().rstrip() for match in _LINE.finditer(console) if match[4]]
        return tuple(found) if len(found) == len(self.records) else ()

    @property
    def reset(self) -> DebugRegisters:
        """What the boot processor's first instruction saw (32 bits of each register: real mode)."""
        return self.resets(0)[0]

    def resets(self, cpu: int) -> tuple[DebugRegisters, ...]:
        """What processor ``cpu`` saw at its first instruction, once for each time that it was started."""
        found = [record for record in self.records if record.kind is Kind.RESET and record.cpu == cpu]
        return tuple(DebugRegisters.of(record) for record in found)

    @property
    def features(self) -> Features:
        """What CPUID offered to the guest."""
        return Features.of(self._only(Kind.FEATURES))

    @property
    def has_rtm(self) -> bool:
        """CPUID 7.0 EBX bit 11."""
        return self.features.rtm

    @property
    def has_bus_lock_detect(self) -> bool:
        """CPUID 7.0 ECX bit 24."""
        return self.features.bus_lock_detect

    def vector_entry(self, vector: int) -> int:
        """Address of the first instruction of the handler of ``vector``."""
        return self._only(Kind.FEATURES).site + 16 * vector

    @property
    def syscall_entry(self) -> int:
        """Address of the first instruction behind SYSCALL."""
        return self._only(Kind.FEATURES).next

    @property
    def exceptions(self) -> tuple[Record, ...]:
        return tuple(record for record in self.records if record.kind is Kind.EXCEPTION)

    @property
    def debug_exceptions(self) -> tuple[Record, ...]:
        """Every #DB."""
        return tuple(record for record in self.exceptions if record.vector == VECTORS["#DB"])

    def of(self, handle: Handle) -> tuple[Record, ...]:
        """Records that the operation produced, exceptions included."""
        return tuple(record for record in self.records if record.op == handle.op and record.kind not in _OF_THE_RUN)

    def exceptions_of(self, handle: Handle) -> tuple[Record, ...]:
        return tuple(record for record in self.of(handle) if record.kind is Kind.EXCEPTION)

    def snapshot(self, handle: Handle) -> DebugRegisters:
        """The registers that a ``snapshot()`` recorded (its last one in a loop)."""
        return DebugRegisters.of(self._last(handle, Kind.SNAPSHOT))

    def control_registers(self, handle: Handle) -> ControlRegisters:
        return ControlRegisters.of(self._last(handle, Kind.CONTROL))

    def descriptor_tables(self, handle: Handle) -> DescriptorTables:
        return DescriptorTables.of(self._last(handle, Kind.TABLES))

    def started(self, handle: Handle) -> bool:
        """Whether the processor of a ``processor()`` block ran it; a host may ignore a second INIT."""
        return self._last(handle, Kind.CPU).value == 1

    def counted(self, handle: Handle) -> Counted:
        """What a ``counted()`` recorded."""
        record = self._last(handle, Kind.COUNTED)
        return Counted(record.value, record.dr6, record.aux)

    def mismatches(self, handle: Handle) -> tuple[Record, ...]:
        """What ``expect_dr`` found wrong: ``value`` observed, ``aux`` expected; empty when all was well."""
        return tuple(record for record in self.of(handle) if record.kind is Kind.MISMATCH)

    def value(self, handle: Handle) -> int:
        """rax behind ``execute(..., result=True)``, or the memory value of ``peek``."""
        return self._last(handle, Kind.RESULT, Kind.VALUE).value

    def _only(self, kind: Kind) -> Record:
        found = [record for record in self.records if record.kind is kind]
        if len(found) != 1:
            raise RecordsDamaged(f"Expected one {kind.name} record, found {len(found)}.")
        return found[0]

    def _last(self, handle: Handle, *kinds: Kind) -> Record:
        found = [record for record in self.of(handle) if record.kind in kinds]
        if not found:
            names = " or ".join(kind.name for kind in kinds)
            raise TestDefect(f"Operation {handle.op} left no {names} record: the program ended before it.")
        return found[-1]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the guest with a good checksum."""

    type: str
    words: tuple[bytes, ...]
    end: int


def lines(console: bytes, nonce: int, start: int = 0) -> list[Line]:
    """Good lines of this run from offset ``start`` on. Raises :class:`RecordsDamaged` for a foreign nonce."""
    found = []
    for match in _LINE.finditer(console, start):
        kind, seen_nonce, words, record, crc = match.groups()
        seed = zlib.crc32(nonce.to_bytes(4, "little")) if record else 0
        if zlib.crc32(console[match.start() : match.start(5) - 1], seed) != int(crc, 16):
            continue  # the gap is found, and named, by the sequence check
        if record:
            found.append(Line("R", (record,), match.end()))
            continue
        if int(seen_nonce, 16) != nonce:
            raise RecordsDamaged(
                f"The console carries output of another run (nonce {seen_nonce.decode()}, expected {nonce:08x})."
            )
        found.append(Line(kind.decode(), tuple(words.split()), match.end()))
    return found


def has_banner(console: bytes, nonce: int) -> bool:
    return any(line.type == "B" for line in lines(console, nonce))


def is_finished(console: bytes) -> bool:
    """Whether the canary line has arrived (checked fully by :func:`decode`)."""
    sent = console.partition(_MEMORY_MARK)[0]
    return b"VGP1 E " in sent and sent.rstrip(b"\0").endswith(b"\n")


def phases(console: bytes, nonce: int) -> list[int]:
    """Phases that the guest has announced so far."""
    return [int(line.words[0], 16) for line in lines(console, nonce) if line.type == "P"]


def with_memory(console: bytes, memory: bytes) -> bytes:
    """A console and the records in the guest's memory as one piece of evidence, which :func:`decode` takes.

    ``memory`` begins with the records; how many there are stands in the console's closing line, without which nothing
    is cut off.
    """
    closing = re.search(rb"VGP1 E [0-9a-f]{8} ([0-9a-f]{8}) ", console)
    return console + _MEMORY_MARK + (memory if closing is None else memory[: int(closing[1], 16) * _RECORD.size])


def noted(memory: bytes) -> tuple[Record, ...]:
    """What a guest had noted in its memory that never came to its end, up to the first record that is not in order or
    was never written: to look at, not to judge by."""
    found: list[Record] = []
    for at in range(0, len(memory) - _RECORD.size + 1, _RECORD.size):
        try:
            record = Record.unpack(memory[at : at + _RECORD.size])
        except RecordsDamaged:
            break
        if record.seq != len(found):
            break
        found.append(record)
    return tuple(found)


def _pack(text: str, number: int) -> bytes:
    """The fields of a record line as the bytes they had in the guest."""
    try:
        return _RECORD.pack(*(int(field, 16) if field else 0 for field in text.removesuffix(".").split(".")))
    except (struct.error, ValueError):
        raise RecordsDamaged(f"Record {number} has a wrong form.") from None


def _split(memory: bytes) -> list[bytes]:
    """Records as they lie in memory; raises :class:`RecordsDamaged` unless it is a number of whole ones, in order."""
    if len(memory) % _RECORD.size:
        raise RecordsDamaged(f"{len(memory)} bytes of records were read, which is no multiple of {_RECORD.size}.")
    packed = [memory[at : at + _RECORD.size] for at in range(0, len(memory), _RECORD.size)]
    for expected, data in enumerate(packed):
        (number,) = struct.unpack_from("<I", data)
        if number != expected:
            raise RecordsDamaged(f"Record {expected} in the guest's memory says that it is record {number}.")
    return packed


def decode(evidence: bytes, nonce: int) -> Result:
    """Turn a complete console into records; raises :class:`RecordsDamaged` unless every byte is accounted for.

    Where the guest kept its records, ``evidence`` is what :func:`with_memory` makes.
    """
    console, kept, memory = evidence.partition(_MEMORY_MARK)
    found = lines(console, nonce)
    canaries = [line for line in found if line.type == "E"]
    if not canaries:
        raise RecordsDamaged(
            f"The guest's closing line is missing; {sum(line.type == 'R' for line in found)} records came before."
        )
    if len(canaries) > 1 or sum(line.type == "B" for line in found) != 1:
        raise RecordsDamaged("The console holds more than one run of the guest, or no banner.")
    count, total_crc, *done = (int(word, 16) for word in canaries[0].words)
    packed = _split(memory) if kept else []
    for expected, line in enumerate(line for line in found if line.type == "R"):
        data = _pack(line.words[0].decode(), expected)
        (number,) = struct.unpack_from("<I", data)
        if number != expected:
            raise RecordsDamaged(f"Record {expected} is missing: the next one is {number}.")
        packed.append(data)
    if len(packed) != count:
        raise RecordsDamaged(f"The guest sent {count} records, {len(packed)} arrived.")
    if zlib.crc32(b"".join(packed)) != total_crc:
        raise RecordsDamaged("The checksum over all records is wrong.")
    records = tuple(Record.unpack(data) for data in packed)
    if any(record.kind is Kind.OVERFLOW for record in records):
        raise TestDefect("The guest met more events than its record area takes, or could not read its program.")
    return Result(records, evidence, done[0] if done else None)
