"""The reference kernel on the AMD model, driven through its control channel alone.

No host around it: what these tests look at is the kernel's own behaviour, VMCB fields included.
"""

from __future__ import annotations

import contextlib
import re
import struct
import threading
from collections.abc import Iterable
from dataclasses import dataclass, fields
from enum import IntEnum
from functools import cache
from pathlib import Path
from types import TracebackType

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from harness.build import ImageSpec, build_image
from harness.build.reference import build_reference_hypervisor
from harness.emulated.ctl import Code, KernelError, name_field
from harness.emulated.machine import Listener, Machine
from harness.errors import EmulatorFailed

HERE = Path(__file__).parent
VM = "vm"
COM1_AND_TESTDEV = 0x60
MEMORY = 16 << 20
MAGIC = 0x54524F52
#: Codes of include/ctl.h for function boundary tracing.
FBT_LIST, FBT_ENABLE, FBT_READ, FBT_DISABLE = 0x60, 0x61, 0x62, 0x63
#: The emulator answers within milliseconds; a kernel that takes this long is gone.
ANSWER_SECONDS = 3.0


class Reg(IntEnum):
    """FreeBSD's ``enum vm_reg_name``, as far as it is used here."""

    RAX = 0
    CR0 = 15
    CR3 = 16
    CR4 = 17
    DR7 = 18
    DS = 25
    IDTR = 30
    GDTR = 31
    EFER = 32
    CR2 = 33
    DR0 = 39
    DR1 = 40
    DR2 = 41
    DR3 = 42
    DR6 = 43


#: Offsets of VMCB fields (APM volume 2, appendix B) with their sizes in bytes.
VMCB_CLEAN = (0x0C0, 4)
VMCB_ASID = (0x058, 4)
VMCB_DR_INTERCEPT = (0x004, 4)


@dataclass(frozen=True, slots=True)
class State:
    """What the state guest reports of itself, in the order of its words."""

    dr0: int
    dr1: int
    dr2: int
    dr3: int
    dr6: int
    dr7: int
    cr0: int
    cr2: int
    cr3: int
    cr4: int
    efer: int
    gdt_base: int
    gdt_limit: int
    idt_base: int
    idt_limit: int
    cs: int
    ds: int
    es: int
    ss: int
    at_ds: int
    at_es: int
    cr8: int
    irqs: int
    debugs: int
    seen_dr6: int
    tsc_low: int
    tsc_high: int


@dataclass(frozen=True, slots=True)
class HostDebugState:
    dr: tuple[int, int, int, int]
    dr6: int
    dr7: int


_RECORD = struct.Struct("<IIIIQQ5QQ6Q24s104x")


@dataclass(frozen=True, slots=True)
class ProbeRecord:
    """One hit of a probe; ``frames`` are return addresses, innermost first."""

    is_return: bool
    cpu: int
    thread: str
    dr7: int
    frames: tuple[int, ...]

    @classmethod
    def unpack(cls, part: tuple[int | bytes, ...]) -> ProbeRecord:
        numbers = [value for value in part if isinstance(value, int)]
        name = part[-1]
        assert isinstance(name, bytes)
        frames = tuple(address for address in numbers[12:18] if address)
        return cls(numbers[1] == 2, numbers[2], name.rstrip(b"\0").decode(), numbers[11], frames)


@cache
def _symbols() -> dict[str, tuple[int, int]]:
    _, kernel = build_reference_hypervisor()
    with kernel.elf.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        return {entry.name: (entry["st_value"], entry["st_size"]) for entry in table.iter_symbols()}


def symbol(name: str) -> tuple[int, int]:
    """Address and size of a function of the kernel."""
    return _symbols()[name]


def function_at(address: int) -> str:
    """The kernel function that holds ``address``; empty when none does."""
    return next((name for name, (start, size) in _symbols().items() if start <= address < start + size), "")


def defects() -> list[str]:
    """Names of the seeded defects of the SVM half."""
    text = (HERE.parents[1] / "kernel/reference/include/defects_svm.def").read_text(encoding="ascii")
    return [name.lower().replace("_", "-") for name in re.findall(r"^DEFECT\((\w+)\)", text, re.MULTILINE)]


def state_rom() -> bytes:
    """The ROM of the state guest, 64 KiB."""
    image = build_image(ImageSpec("svm-state-guest", (HERE / "state_guest.S",), HERE / "state_guest.ld", "start16"))
    return image.binary.read_bytes()


class GuestGone(Exception):
    """The guest ended, or the kernel did, or an answer did not come."""


class Kernel:
    """A booted machine. ``load`` and ``unload`` are kldload and kldunload."""

    def __init__(self, folder: Path) -> None:
        self._changed = threading.Condition()
        self._console: dict[str, bytes] = {}
        self._exits: dict[str, int] = {}
        self._panics: list[str] = []
        self._dead = False
        self.machine = Machine(
            "amd",
            folder,
            Listener(
                console=self._on_console,
                exited=self._on_exit,
                message=lambda _: None,
                panic=self._on_panic,
                reset=lambda: self._on_panic("reset"),
                died=lambda: self._on_panic("the emulator ended"),
                debug=lambda *_: None,
            ),
        )
        self.machine.power_on()
        self.machine.hold()

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.machine.power_off()

    def load(self, *defects: str, tunables: Iterable[str] = ()) -> None:
        lines = [*(f"tunable {line}" for line in tunables), *(f"defect {name}" for name in defects)]
        self._ask(Code.MODLOAD, "".join(f"{line}\n" for line in lines).encode())

    def unload(self) -> None:
        self._ask(Code.MODUNLOAD)

    def sysctl(self, name: str) -> str:
        return self._ask(Code.SYSCTL, name.encode()).decode().strip("\0\n")

    def is_dead(self) -> bool:
        """Whether the kernel panicked or answers no more."""
        if not self._dead and not self._panics:
            with contextlib.suppress(EmulatorFailed):
                self._ask(Code.HELLO)
        return self._dead or bool(self._panics)

    def _ask(self, code: int, payload: bytes = b"") -> bytes:
        try:
            return self.machine.request(code, payload, seconds=ANSWER_SECONDS)
        except EmulatorFailed:
            self._dead = True
            raise

    def _vm(self, code: int, name: str, payload: bytes = b"") -> bytes:
        return self._ask(code, name_field(name) + payload)

    # --- virtual machines -----------------------------------------------------------------------------

    def start(self, rom: bytes, *, name: str = VM, cpu: int = 0, flags: int = COM1_AND_TESTDEV) -> None:
        self._vm(Code.VM_CREATE, name)
        self._vm(Code.VM_SETMEM, name, struct.pack("<Q", MEMORY))
        self.machine.map_rom(name, rom)
        self._console[name] = b""
        self._exits.pop(name, None)
        self._vm(Code.RUN, name, struct.pack("<IIi", 1, flags, cpu))

    def destroy(self, name: str = VM) -> None:
        self._vm(Code.VM_DESTROY, name)

    def pin(self, cpu: int, name: str = VM) -> None:
        self._vm(Code.PIN, name, struct.pack("<II", 0, 1 << cpu))

    def get(self, reg: int, name: str = VM) -> int:
        return int.from_bytes(self._vm(Code.GET_REG, name, struct.pack("<Ii", 0, reg)), "little")

    def set(self, reg: int, value: int, name: str = VM) -> None:
        self._vm(Code.SET_REG, name, struct.pack("<IiQ", 0, reg, value))

    def vmcb(self, field: tuple[int, int], name: str = VM) -> int:
        offset, size = field
        return self.get((0x80000000 | size << 16 | offset) - (1 << 32), name)

    def desc(self, reg: int, name: str = VM) -> tuple[int, int, int]:
        data = self._vm(Code.GET_DESC, name, struct.pack("<Ii", 0, reg))
        base, limit, access = struct.unpack_from("<QII", data)
        return base, limit, access

    def set_desc(self, reg: int, base: int, limit: int, access: int, name: str = VM) -> None:
        self._vm(Code.SET_DESC, name, struct.pack("<IiQII", 0, reg, base, limit, access))

    def capability(self, cap: int, value: int, name: str = VM) -> None:
        self._vm(Code.SET_CAP, name, struct.pack("<Iii", 0, cap, value))

    def send(self, commands: bytes, name: str = VM) -> None:
        self._vm(Code.CONSOLE_IN, name, commands)

    def state(self, before: bytes = b"", *, name: str = VM, seconds: float = 3.0) -> State:
        """Let the state guest carry out ``before`` and report; raises :class:`GuestGone` when it does not."""
        words = len(fields(State)) + 1
        self._console[name] = b""
        self.send(before + b"r", name)
        with self._changed:
            self._changed.wait_for(
                lambda: len(self._console[name]) >= 4 * words or name in self._exits or self._panics, seconds
            )
        data = self._console[name]
        if len(data) != 4 * words:
            raise GuestGone(f"{len(data)} bytes, exits {self._exits}, panics {self._panics}")
        magic, *values = struct.unpack(f"<{words}I", data)
        if magic != MAGIC:
            raise GuestGone(f"not a report: {data!r}")
        return State(*values)

    def exit_status(self, name: str = VM, seconds: float = 5.0) -> int:
        with self._changed:
            if not self._changed.wait_for(lambda: name in self._exits, seconds):
                raise GuestGone("it runs on")
        return self._exits[name]

    # --- host ---------------------------------------------------------------------------------------------

    def plant(self, cpu: int, state: HostDebugState) -> None:
        self._ask(Code.WITNESS_PLANT, struct.pack("<I7Q", cpu, *state.dr, state.dr6, state.dr7, 0))

    def host_state(self, cpu: int) -> HostDebugState:
        values = struct.unpack_from("<7Q", self._ask(Code.WITNESS_READ, struct.pack("<I", cpu)))
        return HostDebugState((values[0], values[1], values[2], values[3]), values[4], values[5])

    # --- probes: function boundary tracing ----------------------------------------------------------------

    def probe_sites(self, function: str) -> tuple[int, int]:
        """Offset of the entry probe (-1: none) and number of return probes of a kernel function."""
        entry, returns = struct.unpack_from("<iI", self._ask(FBT_LIST, struct.pack("<QI", *symbol(function))))
        return entry, returns

    def probe(self, function: str) -> None:
        """Enable the entry and return probes of a kernel function."""
        self._ask(FBT_ENABLE, struct.pack("<IQII", 0, *symbol(function), 3))

    def probe_end(self) -> tuple[int, int, list[ProbeRecord]]:
        """Disable them: counted entries and returns, and the records kept."""
        records = [ProbeRecord.unpack(part) for part in _RECORD.iter_unpack(self._ask(FBT_READ, struct.pack("<I", 64)))]
        entries, returns, _ = struct.unpack_from("<QQQ", self._ask(FBT_DISABLE, struct.pack("<I", 0)))
        return entries, returns, records

    # --- events -------------------------------------------------------------------------------------------

    def _on_console(self, name: str, data: bytes) -> None:
        with self._changed:
            self._console[name] = self._console.get(name, b"") + data
            self._changed.notify_all()

    def _on_exit(self, name: str, status: int, _: str) -> None:
        with self._changed:
            self._exits[name] = status
            self._changed.notify_all()

    def _on_panic(self, text: str) -> None:
        with self._changed:
            self._panics.append(text)
            self._changed.notify_all()


__all__ = ["Code", "GuestGone", "HostDebugState", "Kernel", "KernelError", "Reg", "State", "defects", "state_rom"]
