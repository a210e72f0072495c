"""The reference hypervisor on the emulated Intel processor, driven through its control channel."""

from __future__ import annotations

import struct
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from harness.emulated.ctl import Code, name_field
from harness.emulated.machine import Listener, Machine
from harness.errors import EmulatorFailed
from harness.guest import EndMethod, Program, Result, Rom, decode, phases
from harness.timing import Deadline

MEMORY = 32 << 20

#: Flags of CTL_RUN (include/ctl.h).
HLT_EXIT, PAUSE_EXIT, TESTDEV, COM1 = 1, 2, 32, 64
#: What bhyve ends with when the guest wrote 8 to pc-testdev.
DONE = 17

#: enum vm_reg_name
DR = {0: 39, 1: 40, 2: 41, 3: 42, 6: 43, 7: 18}


def vmcs_field(encoding: int) -> int:
    """Register number of a raw VMCS field (VMCS_IDENT), as the signed 32 bits it travels in."""
    return encoding - (1 << 31)


@dataclass(frozen=True, slots=True)
class HostDebug:
    """Debug registers of a host CPU, in the order of the witness' messages."""

    dr0: int = 0
    dr1: int = 0
    dr2: int = 0
    dr3: int = 0
    dr6: int = 0xFFFF0FF0
    dr7: int = 0x400
    debugctl: int = 0

    def pack(self) -> bytes:
        return struct.pack("<7Q", self.dr0, self.dr1, self.dr2, self.dr3, self.dr6, self.dr7, self.debugctl)


class Lab:
    """A machine that stays on for all tests of a module; modules and guests come and go."""

    def __init__(self, folder: Path, vendor: str = "intel") -> None:
        self._folder = folder
        self._vendor = vendor
        self._boots = 0
        self._loaded = False
        self.console: dict[str, bytes] = {}
        self.ended: dict[str, tuple[int, str]] = {}
        self.panics: list[str] = []
        self._news = threading.Event()
        self.power_on()

    def power_on(self) -> None:
        self._boots += 1
        self.machine = Machine(
            self._vendor,
            self._folder / f"boot{self._boots}",
            Listener(
                console=self._on_console,
                exited=self._on_exit,
                message=lambda _: None,
                panic=self.panics.append,
                reset=lambda: self.panics.append("reset"),
                died=lambda: self.panics.append("the emulator ended"),
                debug=lambda *_: None,
            ),
        )
        self._loaded = False
        self.panics.clear()
        self.machine.power_on()

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.machine.power_off()

    def _on_console(self, name: str, data: bytes) -> None:
        self.console[name] = self.console.get(name, b"") + data
        self._news.set()

    def _on_exit(self, name: str, status: int, errors: str) -> None:
        self.ended[name] = (status, errors)
        self._news.set()

    def load(self, *defects: str, tunables: tuple[str, ...] = ()) -> None:
        """Load the module anew, with defects and tunables, after the VMs of before are gone."""
        if self._loaded:
            for name in self.machine.request(Code.VM_LIST).decode().split():
                self.machine.vm_request(Code.VM_DESTROY, name)
            self.machine.request(Code.MODUNLOAD)
        text = "".join(f"defect {d}\n" for d in defects) + "".join(f"tunable {t}\n" for t in tunables)
        self.machine.request(Code.MODLOAD, text.encode() + b"\0")
        self._loaded = True

    def sysctl(self, name: str) -> str:
        return self.machine.request(Code.SYSCTL, name.encode() + b"\0").rstrip(b"\0").decode()

    def start(self, program: Program, *, name: str = "g0", pin: int = 0, flags: int = TESTDEV | COM1) -> Guest:
        rom = Rom.build(program, EndMethod.TESTDEV)
        self.machine.request(Code.VM_CREATE, name_field(name))
        self.machine.vm_request(Code.VM_SETMEM, name, struct.pack("<Q", MEMORY))
        self.machine.map_rom(name, rom.image)
        self.console[name] = b""
        self.ended.pop(name, None)
        guest = Guest(self, rom, name)
        self.machine.hold()
        self.machine.vm_request(Code.RUN, name, struct.pack("<IIi", 1, flags, pin))
        return guest

    def run(self, program: Program, *, name: str = "g0", pin: int = 0, flags: int = TESTDEV | COM1) -> Result:
        """Run a program to its end in a VM that is gone afterwards."""
        guest = self.start(program, name=name, pin=pin, flags=flags)
        result = guest.finish()
        guest.destroy()
        return result

    def wait_news(self, deadline: Deadline) -> None:
        self._news.wait(min(0.05, deadline.remaining()))
        self._news.clear()

    def wait_panic(self, seconds: float) -> bool:
        """Whether the kernel ends itself within that time."""
        deadline = Deadline.after(seconds)
        while not self.panics and deadline.remaining() > 0:
            self.wait_news(deadline)
        return bool(self.panics)

    # --- host witnesses ---------------------------------------------------------------------------------

    def plant(self, cpu: int, state: HostDebug) -> HostDebug:
        """Load debug registers of a host CPU; what they read back as."""
        return self._state(self.machine.request(Code.WITNESS_PLANT, struct.pack("<I", cpu) + state.pack()))

    def host_state(self, cpu: int) -> HostDebug:
        return self._state(self.machine.request(Code.WITNESS_READ, struct.pack("<I", cpu)))

    def touch(self, cpu: int, count: int) -> int:
        """Hits that so many stores to the witness variable caused."""
        return int(struct.unpack("<Q", self.machine.request(Code.WITNESS_TOUCH, struct.pack("<II", cpu, count)))[0])

    def witness_address(self) -> int:
        return int(struct.unpack("<Q", self.machine.request(Code.WITNESS_ADDRESS))[0])

    def step(self, cpu: int, on: bool) -> tuple[int, int, int]:
        """Single-step the host through VM entries; (steps, entries that lost TF, entries) so far."""
        answer = self.machine.request(Code.WITNESS_STEP, struct.pack("<II", cpu, on))
        steps, lost, entries = struct.unpack("<QQQ", answer)
        return steps, lost, entries

    @staticmethod
    def _state(data: bytes) -> HostDebug:
        return HostDebug(*struct.unpack("<7Q", data))


class Guest:
    """A running program."""

    def __init__(self, lab: Lab, rom: Rom, name: str) -> None:
        self.lab = lab
        self.rom = rom
        self.name = name
        self._held = True

    def wait_phase(self, phase: int, seconds: float = 10) -> None:
        deadline = Deadline.after(seconds)
        while phase not in phases(self.lab.console[self.name], self.rom.nonce):
            if self.name in self.lab.ended or deadline.remaining() <= 0:
                raise EmulatorFailed(f"no phase {phase}: {self.lab.ended.get(self.name)} {self.lab.panics}")
            self.lab.wait_news(deadline)

    def go(self) -> None:
        self.lab.machine.vm_request(Code.CONSOLE_IN, self.name, b"G")

    def wait_end(self, seconds: float = 10) -> tuple[int, str]:
        """Exit status of bhyve and what it wrote to stderr."""
        deadline = Deadline.after(seconds)
        while self.name not in self.lab.ended:
            if deadline.remaining() <= 0:
                raise EmulatorFailed(f"no end: {self.lab.console[self.name][-300:]!r} {self.lab.panics}")
            self.lab.wait_news(deadline)
        if self._held:
            self._held = False
            self.lab.machine.release()
        return self.lab.ended[self.name]

    def finish(self) -> Result:
        status, errors = self.wait_end()
        assert status == DONE, errors
        return decode(self.lab.console[self.name], self.rom.nonce)

    def destroy(self) -> None:
        self.lab.machine.vm_request(Code.VM_DESTROY, self.name)
        if self._held:
            self._held = False
            self.lab.machine.release()

    def get(self, reg: int) -> int:
        return int(struct.unpack("<Q", self._vm(Code.GET_REG, struct.pack("<Ii", 0, reg))[:8])[0])

    def set(self, reg: int, value: int) -> None:
        self._vm(Code.SET_REG, struct.pack("<IiQ", 0, reg, value))

    def get_desc(self, reg: int) -> tuple[int, int, int]:
        base, limit, access = struct.unpack("<QII", self._vm(Code.GET_DESC, struct.pack("<Ii", 0, reg))[:16])
        return base, limit, access

    def set_desc(self, reg: int, base: int, limit: int, access: int) -> None:
        self._vm(Code.SET_DESC, struct.pack("<IiQII", 0, reg, base, limit, access))

    def pin(self, cpu: int) -> None:
        self._vm(Code.PIN, struct.pack("<II", 0, 1 << cpu))

    def inject_nmi(self) -> None:
        self._vm(Code.INJECT_NMI, struct.pack("<I", 0))

    def stats(self) -> dict[str, int]:
        lines = self._vm(Code.GET_STATS, struct.pack("<I", 0)).rstrip(b"\0").decode().splitlines()
        return {name: int(value) for name, _, value in (line.partition("\t") for line in lines)}

    def _vm(self, code: Code, payload: bytes) -> bytes:
        return self.lab.machine.vm_request(code, self.name, payload)
