"""The emulated machine behind a host: Bochs with the reference hypervisor, switched on and off like a real one."""

from __future__ import annotations

import hashlib
import os
import re
import select
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.bochs import BochsConfig, BochsMachine, RamImage
from harness.bochs.machine import start_resting
from harness.build.reference import KERNEL_ADDRESS, MEMORY, NCPU, build_reference_hypervisor
from harness.emulated.ctl import Code, ControlChannel, Event, KernelError, name_field
from harness.errors import EmulatorFailed
from harness.timing import Deadline

PAGE = 4096
ENOENT = 2

#: What the kernel says first (kern/ctl.c).
READY_LINE = "reference kernel ready"
#: Seconds that nobody needs the machine after which its process is stopped. The kernel rests by itself; one that
#: panicked or hangs does not.
IDLE_SECONDS = 0.2
#: Seconds for the kernel to come up; it takes about a fifth of one.
BOOT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Hello:
    """What the kernel says of its processor."""

    vendor: str
    signature: int
    brand: str
    svm_features: int
    svm_asids: int
    ncpu: int

    @classmethod
    def unpack(cls, data: bytes) -> Hello:
        _, _, ncpu, vendor, signature, brand, features, asids, _ = struct.unpack_from("<III12sI48sIIQ", data)
        return cls(vendor.decode(), signature, brand.rstrip(b"\0 ").decode().strip(), features, asids, ncpu)

    @property
    def family(self) -> int:
        """CPUID family with the extended family added (SDM volume 2, CPUID)."""
        base = self.signature >> 8 & 0xF
        return base + (self.signature >> 20 & 0xFF) if base == 0xF else base

    @property
    def model(self) -> int:
        return (self.signature >> 4 & 0xF) | (self.signature >> 12 & 0xF0)

    @property
    def stepping(self) -> int:
        return self.signature & 0xF


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told what the kernel reports by itself."""

    console: Callable[[str, bytes], None]
    exited: Callable[[str, int, str], None]
    message: Callable[[str], None]
    panic: Callable[[str], None]
    #: The processors were reset without anybody having asked for it (a triple fault): the machine is to boot again.
    reset: Callable[[], None]
    #: The emulator itself ended.
    died: Callable[[], None]
    #: A vCPU of a VM stands for the debug stub: which one, why, and its RIP.
    debug: Callable[[str, int, int, int], None]


_PACKED = re.compile(rb"\0(.)(.)", re.DOTALL)


def unpack_runs(data: bytes) -> bytes:
    """Undo the run-length encoding of the console: 0, count, byte (``kernel/reference/bhyve/uart.c``)."""
    return _PACKED.sub(lambda match: match[2] * match[1][0], data)


_RUN_MOST = 255
#: What is worth three bytes: zeros, which have to be written so, and four or more of another byte.
_RUNS = re.compile(rb"\0+|(.)\1{3,}", re.DOTALL)
_NOTHING = bytes(PAGE)


def pack_runs(data: bytes) -> bytes:
    """The encoding that :func:`unpack_runs` undoes; each byte on the line costs more than finding the runs."""
    return _RUNS.sub(_packed, data)


def _packed(match: re.Match[bytes]) -> bytes:
    whole, rest = divmod(len(match[0]), _RUN_MOST)
    byte = match[0][:1]
    return (bytes([0, _RUN_MOST]) + byte) * whole + (bytes([0, rest]) + byte if rest else b"")


class Machine:
    """Power on, power off, and requests while it is on. The emulator stands still while nobody needs it."""

    def __init__(self, vendor: str, folder: Path, listener: Listener) -> None:
        self.vendor = vendor
        self._folder = folder
        self._listener = listener
        self._bochs: BochsMachine | None = None
        self._channel: ControlChannel | None = None
        self._ready = threading.Event()
        self._busy = 0
        self._busy_lock = threading.Lock()
        self._idle_since = 0.0
        self._paused = False
        self._cpu_seconds = 0.0
        self._expected_end = False
        #: Keys of the ROM pages that the kernel was given since it booted.
        self._rom_keys = set[bytes]()

    # --- power -----------------------------------------------------------------------------------------

    @property
    def is_on(self) -> bool:
        return self._bochs is not None and self._bochs.alive()

    @property
    def pid(self) -> int:
        return self._bochs.pid if self._bochs is not None else 0

    def power_on(self) -> Hello:
        """Boot; raises :class:`EmulatorFailed` when the kernel does not come up."""
        firmware, kernel = build_reference_hypervisor()
        self._ready.clear()
        self._rom_keys.clear()
        config = BochsConfig(
            self.vendor,
            self._folder,
            firmware.binary,
            ncpu=NCPU,
            memory=MEMORY,
            ram_images=(RamImage(kernel.binary, KERNEL_ADDRESS),),
            log_errors=False,
            rests=True,
            # The emulator cannot restart two processors: a triple fault ends it, and the host is switched on anew.
            reset_on_triple_fault=False,
        )
        self._bochs = BochsMachine(config, start_resting)
        self._expected_end = False
        threading.Thread(target=self._watch, args=(os.pidfd_open(self._bochs.pid),), daemon=True).start()
        self._channel = ControlChannel(self._bochs.serial_fd, self._on_event)
        if not self._ready.wait(BOOT_SECONDS):
            self.power_off()
            raise EmulatorFailed(f"The reference hypervisor did not boot within {BOOT_SECONDS:g} s.")
        hello = Hello.unpack(self.request(Code.HELLO))
        threading.Thread(target=self._stop_when_idle, args=(self._bochs,), daemon=True).start()
        return hello

    def _watch(self, pidfd: int) -> None:
        select.select([pidfd], [], [])
        os.close(pidfd)
        if self._expected_end:
            return
        # A triple fault ends the emulator by itself, and a machine that met one starts anew; a signal is lost power.
        status = self._bochs.poll() if self._bochs is not None else None
        if status is not None and status >= 0:
            self._listener.reset()
        else:
            self._listener.died()

    def power_off(self) -> None:
        self._expected_end = True
        if self._channel is not None:
            self._channel.close()
        if self._bochs is not None:
            self._bochs.resume()
            self._cpu_seconds += self._bochs.cpu_seconds()
            self._bochs.kill()
        self._bochs = self._channel = None
        self._busy = 0
        self._paused = False

    def cpu_seconds(self) -> float:
        """CPU time of all emulators of this machine so far."""
        return self._cpu_seconds + (self._bochs.cpu_seconds() if self._bochs is not None else 0.0)

    # --- standing still ------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Somebody needs the machine to run (a request, or a running guest); pairs with :meth:`release`."""
        with self._busy_lock:
            self._busy += 1
            if self._paused and self._bochs is not None:
                self._paused = False
                self._bochs.resume()

    def release(self) -> None:
        with self._busy_lock:
            self._busy = max(0, self._busy - 1)
            self._idle_since = time.monotonic()

    def _stop_when_idle(self, bochs: BochsMachine) -> None:
        """Runs beside each emulator, as long as it is this machine's."""
        while self._bochs is bochs:
            with self._busy_lock:
                idle = self._busy == 0 and time.monotonic() - self._idle_since > IDLE_SECONDS
                if idle and not self._paused and self._bochs is bochs:
                    self._paused = True
                    bochs.pause()
            time.sleep(IDLE_SECONDS)

    # --- requests -----------------------------------------------------------------------------------------

    def request(self, code: int, payload: bytes = b"", *, seconds: float = 10.0) -> bytes:
        """One request; raises :class:`KernelError`, or :class:`EmulatorFailed` when the machine is off or dead."""
        channel = self._channel
        if channel is None:
            raise EmulatorFailed("The emulated machine is switched off.")
        self.hold()
        try:
            return channel.request(code, payload, seconds=seconds)
        finally:
            self.release()

    def vm_request(self, code: int, name: str, payload: bytes = b"") -> bytes:
        return self.request(code, name_field(name) + payload)

    def requests(self, requests: Sequence[tuple[int, bytes]]) -> list[bytes]:
        """Several requests in one go; see :meth:`ControlChannel.requests`."""
        channel = self._channel
        if channel is None:
            raise EmulatorFailed("The emulated machine is switched off.")
        self.hold()
        try:
            return channel.requests(requests)
        finally:
            self.release()

    def prepare_vm(self, name: str, *, create: bool, memory: int, image: bytes) -> None:
        """Create a VM, or make an existing one as new, give it ``memory`` bytes and map its ROM (:meth:`map_rom`)."""
        field = name_field(name)
        begin = (Code.VM_CREATE if create else Code.VM_REINIT, field)
        self.map_rom(name, image, before=[begin, (Code.VM_SETMEM, field + struct.pack("<Q", memory))])

    def map_rom(self, name: str, image: bytes, *, before: Sequence[tuple[int, bytes]] = ()) -> None:
        """Map ``image`` so that it ends at 4 GiB, sending only the pages that the kernel does not have yet.

        The requests ``before`` go in the same turn. Raises :class:`KernelError`.
        """
        pages = [image[at : at + PAGE].ljust(PAGE, b"\0") for at in range(0, len(image), PAGE)]
        keys = [bytes(8) if page == _NOTHING else hashlib.sha256(page).digest()[:8] for page in pages]
        table = dict(zip(keys, pages, strict=True))
        mapping = (Code.ROM_MAP, name_field(name) + b"".join(keys))
        wanted = [key for key in table if any(key)]
        new = [(Code.ROM_PAGE, key + pack_runs(table[key])) for key in wanted if key not in self._rom_keys]
        self._rom_keys.update(wanted)
        try:
            self.requests([*before, *new, mapping])
        except KernelError as error:
            if error.errno != ENOENT or len(error.data) < 8:
                raise
            # The kernel keeps a limited number of pages and had dropped one.
            self._rom_keys = set(wanted)
            self.requests([*((Code.ROM_PAGE, key + pack_runs(table[key])) for key in wanted), mapping])

    def _on_event(self, code: int, payload: bytes) -> None:
        if code == Event.KLOG:
            text = payload.decode("utf-8", "replace")
            if READY_LINE in text:
                if self._ready.is_set():
                    self._listener.reset()
                    return
                self._ready.set()
            self._listener.message(text)
        elif code == Event.PANIC:
            self._listener.panic(payload.decode("utf-8", "replace"))
        elif code in (Event.CONSOLE_OUT, Event.EXITED, Event.DEBUG):
            name = payload[:32].rstrip(b"\0").decode()
            if code == Event.CONSOLE_OUT:
                self._listener.console(name, unpack_runs(payload[32:]))
            elif code == Event.DEBUG:
                self._listener.debug(name, *struct.unpack_from("<IIQ", payload, 32))
            else:
                status = int.from_bytes(payload[32:36], "little", signed=True)
                self._listener.exited(name, status, payload[36:].decode("utf-8", "replace"))

    def wait_dead(self, deadline: Deadline) -> bool:
        """Wait until the emulator ended by itself."""
        if self._bochs is None:
            return True
        try:
            self._bochs.wait(deadline)
        except EmulatorFailed:
            return False
        return True
