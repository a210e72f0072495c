"""Guest programs: a case writes down what the guest does, in order; the runtime in the ROM does it.

Addresses are guest-physical and, since the runtime maps 4 GiB one to one, linear as well.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum

from harness.errors import ProgramInvalid
from harness.guest import tables
from harness.guest.registers import CR4_DE, DR7_RESET, dr7

_OP = struct.Struct("<HBBIQQQ")
_HEADER = struct.Struct("<IHHIIIIII")
_MASK64 = (1 << 64) - 1

_ACCESS_SIZES = (1, 2, 4, 8, 16)


class EndMethod(IntEnum):
    """How the guest says that it is done (``END_*`` in ops.h)."""

    PARK = 0
    TESTDEV = 1
    HLT = 2
    POWEROFF = 3
    BOCHS = 4
    QEMU = 5
    REBOOT = 6


@dataclass(frozen=True, slots=True)
class Op:
    """One operation; ``text`` is how it reads in the evidence."""

    opcode: int
    text: str
    a: int = 0
    b: int = 0
    c: int = 0
    x: int = 0
    y: int = 0
    z: int = 0

    def encode(self) -> bytes:
        return _OP.pack(self.opcode, self.a, self.b, self.c, self.x & _MASK64, self.y & _MASK64, self.z & _MASK64)


@dataclass(frozen=True, slots=True)
class Handle:
    """An operation of a program, to find its records again: ``result.of(handle)``."""

    op: int


class Program:
    """Collects operations. Every method appends and returns a :class:`Handle`.

    ``name`` appears in the evidence. Raises :class:`ProgramInvalid` for what no guest could do.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.ops: list[Op] = []
        self._next_data = tables.constants()["DATA_AREA"]
        self._ap_entry: int | None = None

    # --- memory ---------------------------------------------------------------------------------------

    def watched(self, size: int = 8, *, align: int = 64, value: int = 0) -> int:
        """Reserve ``size`` bytes of guest RAM, ``align``-ed, touched before anything is armed; their address.

        The variable becomes what exception records carry as ``value`` (up to 8 bytes of it).
        """
        address = -(-self._next_data // align) * align
        self._next_data = address + max(size, align)
        self.poke(address, min(size, 8), value)
        self.value_at(address, min(size, 8))
        return address

    def poke(self, address: int, size: int, value: int) -> Handle:
        """Store without being the access under test."""
        return self._add("poke", f"poke [{address:#x}]/{size} = {value:#x}", a=size, x=address, y=value)

    def peek(self, address: int, size: int = 8) -> Handle:
        """Record the memory value."""
        return self._add("peek", f"peek [{address:#x}]/{size}", a=size, x=address)

    def value_at(self, address: int, size: int) -> Handle:
        """Choose the memory that exception records carry as ``value``."""
        return self._add("value_at", f"exceptions record [{address:#x}]/{size}", a=size, x=address)

    # --- debug registers --------------------------------------------------------------------------------

    def set_dr(self, n: int, value: int) -> Handle:
        """Load DR``n``; a value that faults belongs into ``execute("write_drN", value)``."""
        if n not in (0, 1, 2, 3, 6, 7):
            raise ProgramInvalid(f"There is no debug register {n} to set; DR4 and DR5 go through 'write_dr{n}'.")
        return self._add("set_dr", f"dr{n} = {value & _MASK64:#x}", a=n, x=value)

    def snapshot(self) -> Handle:
        """Record DR0-3, DR6, DR7 and CR4."""
        return self._add("snapshot", "snapshot of dr0-3, dr6, dr7, cr4")

    def arm(self, *, dr: int, address: int, type: str, length: int = 1, enable: str = "L", extra: int = 0) -> Handle:
        """Point DR``dr`` at ``address`` and enable it alone; ``extra`` bits are or-ed into DR7."""
        self.set_dr(dr, address)
        return self.set_dr(7, dr7(dr, type, length, enable) | extra)

    def arm_snippet(self, *, dr: int, snippet: str, enable: str = "L", offset: int = 0, extra: int = 0) -> Handle:
        """An instruction breakpoint on the instruction under test of ``snippet``, plus ``offset`` bytes."""
        number = tables.snippet(snippet)
        self._add("set_dr_site", f"dr{dr} = address in {snippet} + {offset}", a=dr, c=number, x=offset)
        return self.set_dr(7, dr7(dr, "execute", 1, enable) | extra)

    def disarm(self) -> Handle:
        return self.set_dr(7, DR7_RESET)

    def debug_extensions(self, on: bool) -> Handle:
        """Set or clear CR4.DE."""
        return self._add("set_cr4", f"cr4.de = {int(on)}", x=CR4_DE, y=CR4_DE if on else 0)

    # --- what the guest runs ------------------------------------------------------------------------------

    def store(self, address: int, size: int = 8, value: int = 0x5A, *, how: str = "mov", user: bool = False) -> Handle:
        """A store under test: ``how`` is ``mov`` (1 to 16 bytes) or ``xchg``, ``lock_add``, ``cmpxchg``, ``push``."""
        name = f"store_{how}_{size}" if how != "mov" or size in _ACCESS_SIZES else ""
        return self.execute(name, address, value, user=user)

    def load(self, address: int, size: int = 8, *, user: bool = False) -> Handle:
        """A load under test."""
        return self.execute(f"load_mov_{size}", address, user=user)

    def execute(
        self, snippet: str, rdi: int = 0, rsi: int = 0, rdx: int = 0, *, user: bool = False, result: bool = False
    ) -> Handle:
        """Run a snippet at CPL 0, or at CPL 3 with ``user``; ``result`` records rax behind it."""
        where = " at CPL 3" if user else ""
        return self._add(
            "exec_user" if user else "exec",
            f"run {snippet}({rdi & _MASK64:#x}, {rsi & _MASK64:#x}, {rdx & _MASK64:#x}){where}",
            a=int(result),
            c=tables.snippet(snippet),
            x=rdi,
            y=rsi,
            z=rdx,
        )

    def exit(self, kind: str, count: int = 1, *, record: bool = False) -> Handle:
        """Force VM exits of one kind (``guests/include/ops.h``); for ``busy`` the count is in thousands of loops."""
        return self._add(
            "exit", f"{count} x exit '{kind}'", a=tables.exit_kind(kind), b=int(record), x=count
        )

    def cpuid(self, leaf: int, subleaf: int = 0) -> Handle:
        return self._add("cpuid", f"cpuid {leaf:#x}.{subleaf}", x=leaf, y=subleaf)

    def note(self, value: int = 0) -> Handle:
        return self._add("note", f"note {value:#x}", x=value)

    def handler(self, *flags: str, exit_kind: str = "none") -> Handle:
        """Change what the exception handler does: names of ``HANDLER_*`` in ops.h."""
        bits = sum(tables.handler_flag(flag) for flag in flags)
        text = f"handler: {', '.join(flags) or 'default'} ({exit_kind})"
        return self._add("handler", text, a=bits, b=tables.exit_kind(exit_kind))

    def sync(self, phase: int) -> Handle:
        """Tell the host that phase ``phase`` is reached and wait, with interrupts on, for its go."""
        return self._add("sync", f"wait for the host at phase {phase}", x=phase)

    @contextmanager
    def loop(self, count: int) -> Iterator[None]:
        """Repeat what is added inside ``count`` times (at least once)."""
        if count < 1:
            raise ProgramInvalid(f"A loop runs at least once, not {count} times.")
        self._add("loop", f"repeat {count} times:", x=count)
        yield
        self._add("end_loop", "end of loop")

    # --- image --------------------------------------------------------------------------------------------

    def listing(self) -> str:
        """The program as a numbered list, one operation a line."""
        return "".join(f"{number:4d}  {op.text}\n" for number, op in enumerate(self.ops))

    def encode(self, nonce: int, end: EndMethod) -> bytes:
        """Header and operations as the runtime reads them."""
        body = b"".join(op.encode() for op in self.ops)
        limit = tables.constants()["PAYLOAD_SIZE"] - _HEADER.size
        if len(body) > limit:
            raise ProgramInvalid(f"Program '{self.name}' has {len(body)} bytes of operations; {limit} fit the ROM.")
        known = tables.constants()
        header = _HEADER.pack(
            known["PAYLOAD_MAGIC"],
            known["PAYLOAD_VERSION"],
            int(end),
            nonce,
            len(self.ops),
            _HEADER.size + len(body),
            zlib.crc32(body),
            0,
            0,
        )
        return header + body

    def _add(self, opcode: str, text: str, *, a: int = 0, b: int = 0, c: int = 0, x: int = 0, y: int = 0,
             z: int = 0) -> Handle:
        self.ops.append(Op(tables.opcode(opcode), text, a, b, c, x, y, z))
        return Handle(len(self.ops) - 1)
