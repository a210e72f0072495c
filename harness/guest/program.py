"""Guest programs: a case writes down what the guest does, in order; the runtime in the ROM does it.

Addresses are guest-physical and, since the runtime maps 4 GiB one to one, linear as well, unless a program maps
them otherwise.
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
from harness.guest.registers import CR0_AM, CR4_DE, DR7_RESET, dr7

_OP = struct.Struct("<HBBIQQQ")
_HEADER = struct.Struct("<IHHIIIIII")
_MASK64 = (1 << 64) - 1
_PAGE = 2 << 20

_ACCESS_SIZES = (1, 2, 4, 8, 16, 32)
_NOT_LONG = ("real", "prot16", "prot32", "vm86", "vm86_iopl0")


class EndMethod(IntEnum):
    """How the guest says that it is done (``END_*`` in ops.h).

    Under the ``_KEPT`` ones it does not send its records: the host reads them in the memory of the ended guest. Each
    byte sent is a VM exit, so this is most of what a short program costs.
    """

    PARK = 0
    TESTDEV = 1
    HLT = 2
    POWEROFF = 3
    BOCHS = 4
    QEMU = 5
    REBOOT = 6
    TESTDEV_KEPT = 0x101
    HLT_KEPT = 0x102


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

    ``name`` appears in the evidence; ``vcpus`` is how many processors the program needs. Raises
    :class:`ProgramInvalid` for what no guest could do.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.vcpus = 1
        self.ops: list[Op] = []
        self._next_data = tables.constants()["DATA_AREA"]
        self._next_low = tables.constants()["LOW_DATA"]
        self._processor = 0

    # --- memory ---------------------------------------------------------------------------------------

    def watched(self, size: int = 8, *, align: int = 64, value: int = 0, low: bool = False) -> int:
        """Reserve ``size`` bytes of guest RAM, ``align``-ed, touched before anything is armed; their address.

        ``low`` puts them below 64 KiB, where 16-bit code reaches them. The variable becomes what exception records
        carry as ``value`` (up to 8 bytes of it).
        """
        area = "LOW_DATA" if low else "DATA_AREA"
        address = -(-(self._next_low if low else self._next_data) // align) * align
        end = address + max(size, align)
        if end > tables.constants()[f"{area}_END"]:
            raise ProgramInvalid(f"Program '{self.name}' reserves more memory than there is in {area}.")
        if low:
            self._next_low = end
        else:
            self._next_data = end
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

    def map(
        self,
        linear: int,
        physical: int,
        *,
        present: bool = True,
        writable: bool = True,
        user: bool = True,
        space: int = 0,
    ) -> Handle:
        """Map one 2 MiB page of address space 0 (where the guest starts) or 1 (the same, until it is changed)."""
        if linear % _PAGE or physical % _PAGE or not 0 <= linear < 1 << 32 or space not in (0, 1):
            raise ProgramInvalid(f"Pages are 2 MiB, below 4 GiB: cannot map {linear:#x} to {physical:#x}.")
        flags = int(present) | writable << 1 | user << 2
        text = f"map {linear:#x} to {physical:#x} in space {space} ({'p' * present}{'w' * writable}{'u' * user})"
        return self._add("map", text, a=space, b=flags, x=linear, y=physical)

    def use_space(self, space: int) -> Handle:
        """Load CR3 with the page tables of address space 0 or 1."""
        base = self.page_tables(space)
        return self._add("set_cr", f"cr3 = {base:#x}", a=3, x=_MASK64, y=base)

    @staticmethod
    def page_tables(space: int) -> int:
        """CR3 of an address space."""
        return tables.constants()["PAGE_TABLES_SECOND" if space else "PAGE_TABLES"]

    # --- debug registers --------------------------------------------------------------------------------

    def set_dr(self, n: int, value: int) -> Handle:
        """Load DR``n``; a value that faults belongs into ``execute("write_drN", value)``."""
        if n not in (0, 1, 2, 3, 6, 7):
            raise ProgramInvalid(f"There is no debug register {n} to set; DR4 and DR5 go through 'write_dr{n}'.")
        return self._add("set_dr", f"dr{n} = {value & _MASK64:#x}", a=n, x=value)

    def snapshot(self) -> Handle:
        """Record DR0-3, DR6, DR7 and CR4."""
        return self._add("snapshot", "snapshot of dr0-3, dr6, dr7, cr4")

    def expect_dr(self, n: int, value: int, *, mask: int = _MASK64) -> Handle:
        """Look at DR``n``; only a difference under ``mask`` leaves a record, so that loops may do this for ever:
        ``result.mismatches(handle)``."""
        if n not in (0, 1, 2, 3, 6, 7):
            raise ProgramInvalid(f"There is no debug register {n} to look at.")
        return self._add("expect_dr", f"dr{n} should be {value & _MASK64:#x} under {mask:#x}", a=n, x=value, y=mask)

    def arm(self, *, dr: int, address: int, type: str, length: int = 1, enable: str = "L", extra: int = 0) -> Handle:
        """Point DR``dr`` at ``address`` and enable it alone; ``extra`` bits are or-ed into DR7."""
        self.set_dr(dr, address)
        return self.set_dr(7, dr7(dr, type, length, enable) | extra)

    def arm_snippet(
        self, *, dr: int, snippet: str, enable: str = "L", offset: int = 0, extra: int = 0, mode: str = "long"
    ) -> Handle:
        """An instruction breakpoint on the instruction under test of ``snippet``, plus ``offset`` bytes."""
        number = tables.snippet(snippet, mode)
        text = f"dr{dr} = address in {snippet} ({mode}) + {offset}"
        self._add("set_dr_site", text, a=dr, b=tables.mode(mode), c=number, x=offset)
        return self.set_dr(7, dr7(dr, "execute", 1, enable) | extra)

    def disarm(self) -> Handle:
        return self.set_dr(7, DR7_RESET)

    def debug_extensions(self, on: bool) -> Handle:
        """Set or clear CR4.DE."""
        return self._add("set_cr", f"cr4.de = {int(on)}", a=4, x=CR4_DE, y=CR4_DE if on else 0)

    def alignment_check(self, on: bool) -> Handle:
        """Set or clear CR0.AM; snippet ``store_checked_8`` sets RFLAGS.AC itself."""
        return self._add("set_cr", f"cr0.am = {int(on)}", a=0, x=CR0_AM, y=CR0_AM if on else 0)

    # --- what the guest runs ------------------------------------------------------------------------------

    def store(
        self,
        address: int,
        size: int = 8,
        value: int = 0x5A,
        *,
        how: str = "mov",
        user: bool = False,
        mode: str = "long",
    ) -> Handle:
        """A store under test: ``how`` is ``mov`` (1 to 32 bytes; 1, 2, 4 outside 64-bit code) or another
        ``store_HOW_SIZE`` snippet, such as ``xchg``, ``lock_add``, ``cmpxchg``, ``push``."""
        if how == "mov" and size not in _ACCESS_SIZES:
            raise ProgramInvalid(f"There is no store of {size} bytes.")
        return self.execute(f"store_{how}_{size}", address, value, user=user, mode=mode)

    def load(self, address: int, size: int = 8, *, user: bool = False, mode: str = "long") -> Handle:
        """A load under test."""
        return self.execute(f"load_mov_{size}", address, user=user, mode=mode)

    def execute(
        self,
        snippet: str,
        rdi: int = 0,
        rsi: int = 0,
        rdx: int = 0,
        *,
        user: bool = False,
        mode: str = "long",
        segment_base: int = 0,
        result: bool = False,
    ) -> Handle:
        """Run a snippet in a processor mode (:func:`harness.guest.tables.modes`); ``user`` is short for ``user64``.

        ``result`` records rax behind it. Outside 64-bit code arguments have 32 bits, ``rdi`` is a linear address and
        ``segment_base`` the base of DS and ES: the code uses the offset, in 16-bit code at most 0xFFFF.
        """
        mode = "user64" if user else mode
        number = tables.snippet(snippet, mode)
        if tables.mode_width(mode) != 64:
            self._check_narrow(mode, rdi, rdx, segment_base)
            rdx |= segment_base << 32
        where = "" if mode == "long" else f" in mode {mode}" + (f", base {segment_base:#x}" if segment_base else "")
        return self._add(
            "exec",
            f"run {snippet}({rdi & _MASK64:#x}, {rsi & _MASK64:#x}, {rdx & _MASK64:#x}){where}",
            a=int(result),
            b=tables.mode(mode),
            c=number,
            x=rdi,
            y=rsi,
            z=rdx,
        )

    def _check_narrow(self, mode: str, rdi: int, rdx: int, base: int) -> None:
        if not 0 <= rdx < 1 << 32 or not 0 <= base < 1 << 32:
            raise ProgramInvalid(f"Arguments in mode {mode} have 32 bits.")
        if tables.mode_width(mode) == 16 and (rdi - base) % (1 << 32) > 0xFFFF:
            raise ProgramInvalid(f"Mode {mode} cannot reach {rdi:#x} with segment base {base:#x}.")
        if mode in ("real", "vm86", "vm86_iopl0") and (base % 16 or base > 0xFFFF0):
            raise ProgramInvalid(f"Mode {mode} has no segment with base {base:#x}.")
        if mode in _NOT_LONG and self._processor:
            raise ProgramInvalid(f"Only the boot processor runs code in mode {mode}.")

    def exit(self, kind: str, count: int = 1, *, record: bool = False) -> Handle:
        """Force VM exits of one kind (``guests/include/ops.h``); for ``busy`` the count is in thousands of loops."""
        return self._add("exit", f"{count} x exit '{kind}'", a=tables.exit_kind(kind), b=int(record), x=count)

    def rdmsr(self, msr: int) -> Handle:
        """Read a model-specific register; ``result.value(handle)``, or the #GP in ``result.exceptions_of(handle)``."""
        return self.execute("read_msr", msr, result=True)

    def wrmsr(self, msr: int, value: int) -> Handle:
        """Write one; a #GP is recorded."""
        return self.execute("wrmsr", msr, value)

    def cpuid(self, leaf: int, subleaf: int = 0) -> Handle:
        return self._add("cpuid", f"cpuid {leaf:#x}.{subleaf}", x=leaf, y=subleaf)

    def control_registers(self) -> Handle:
        """Record CR0, CR2, CR3, CR4, CR8 and EFER: ``result.control_registers(handle)``."""
        return self._add("control", "control registers")

    def descriptor_tables(self) -> Handle:
        """Record GDTR, IDTR and the selectors: ``result.descriptor_tables(handle)``."""
        return self._add("tables", "descriptor tables")

    def use_tables(self, which: str) -> Handle:
        """Load GDTR and IDTR: ``own``, or one of ``second_idt`` (INT3 arrives as vector 0x43) and ``second_gdt``
        (selector 0x58 has a limit of 0xFFF). The second ones stand at fixed addresses and may be changed by poke."""
        kinds = ("own", "second_idt", "second_gdt")
        if which not in kinds:
            raise ProgramInvalid(f"Descriptor tables are {', '.join(kinds)}, not '{which}'.")
        return self._add("use_tables", f"descriptor tables: {which}", a=kinds.index(which))

    def counted(self) -> Handle:
        """Record what the handler counted under its flag ``count`` since the last time."""
        return self._add("counted", "debug exceptions counted")

    def note(self, value: int = 0) -> Handle:
        return self._add("note", f"note {value:#x}", x=value)

    def handler(self, *flags: str, exit_kind: str = "none") -> Handle:
        """Change what the exception handler does: names of ``HANDLER_*`` in ops.h.

        Outside long mode only ``keep_dr6``, ``no_rf``, ``clear_tf``, ``retry_gd`` and ``disarm`` count.
        """
        bits = sum(tables.handler_flag(flag) for flag in flags)
        text = f"handler: {', '.join(flags) or 'default'} ({exit_kind})"
        return self._add("handler", text, b=tables.exit_kind(exit_kind), c=bits)

    # --- host and other processors -------------------------------------------------------------------------

    def sync(self, phase: int, how: str = "console") -> Handle:
        """Tell the host that phase ``phase`` is reached and wait, with interrupts on, for its go.

        ``console``: polls COM1 for one byte. ``memory``: spins, without an exit of its own, until the host has
        written ``phase`` (32 bits) to guest-physical :meth:`mailbox`. ``announce``: does not wait.
        """
        kind = tables.constants().get(f"SYNC_{how.upper()}")
        if kind is None or self._processor:
            raise ProgramInvalid(f"The boot processor syncs by 'console', 'memory' or 'announce', not by '{how}'.")
        return self._add("sync", f"phase {phase} ({how})", a=kind, x=phase)

    @staticmethod
    def mailbox() -> int:
        """Guest-physical address of the word that ends a ``sync`` through memory."""
        return tables.constants()["MAILBOX"]

    @contextmanager
    def loop(self, count: int) -> Iterator[None]:
        """Repeat what is added inside ``count`` times (at least once)."""
        if count < 1:
            raise ProgramInvalid(f"A loop runs at least once, not {count} times.")
        self._add("loop", f"repeat {count} times:", x=count)
        yield
        self._add("end_loop", "end of loop")

    @contextmanager
    def processor(self, cpu: int, *, init: bool = True) -> Iterator[Handle]:
        """What is added inside runs on another processor, while this one goes on behind the block.

        ``init`` sends INIT and a start-up IPI first; its registers at the first instruction are then in
        ``result.resets(cpu)``. Without it the processor must have ended an earlier part (:meth:`wait_processor`).
        """
        if not 1 <= cpu < tables.constants()["MAX_CPUS"] or self._processor:
            raise ProgramInvalid(f"There is no other processor {cpu} to run a part of program '{self.name}'.")
        self.vcpus = max(self.vcpus, cpu + 1)
        start = self._add("start_cpu", "")
        self._processor = cpu
        yield start
        self._add("end", f"end of processor {cpu}'s part")
        self._processor = 0
        text = f"processor {cpu}{' (INIT)' if init else ''} runs {start.op + 1} to {len(self.ops) - 1}:"
        opcode = tables.opcode("start_cpu")
        self.ops[start.op] = Op(opcode, text, a=cpu, b=int(init), x=start.op + 1, y=len(self.ops))

    def wait_processor(self, cpu: int) -> Handle:
        """Wait until processor ``cpu`` has ended its part."""
        return self._add("wait_cpu", f"wait for processor {cpu}", a=cpu)

    def barrier(self, processors: int) -> Handle:
        """Go on when as many processors have come to a barrier."""
        return self._add("barrier", f"barrier of {processors} processors", x=processors)

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

    def _add(
        self, opcode: str, text: str, *, a: int = 0, b: int = 0, c: int = 0, x: int = 0, y: int = 0, z: int = 0
    ) -> Handle:
        self.ops.append(Op(tables.opcode(opcode), text, a, b, c, x, y, z))
        return Handle(len(self.ops) - 1)
