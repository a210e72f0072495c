"""A guest without a hypervisor: the ROM as firmware of an emulated CPU, the architectural oracle."""

from __future__ import annotations

import os
import select
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from harness.bochs import CPU_MODELS, BochsConfig, nursery_seconds, start_machine
from harness.errors import EmulatorFailed, GuestHang, GuestSilent, TestDefect
from harness.guest import EndMethod, Program, Result, Rom, check_operations, decode, has_banner, is_finished, phases
from harness.hosts.state import HostDebugState, ThreadBases
from harness.jsontext import listed
from harness.recording import Recorder
from harness.subjects.protocol import Debugger, HostActions, Platform, SavedGuest
from harness.timing import Deadline

_GO = b"g"
_NO_HOST = "A bare run has no host; the case must name the capability it needs."


def record_program(recorder: Recorder, rom: Rom) -> None:
    """Evidence of what was run: the operations as text, and the hashes of the image."""
    recorder.add_file("program.txt", rom.program.listing().encode())
    facts = {
        "program": rom.program.name,
        "nonce": f"{rom.nonce:08x}",
        "rom_sha256": rom.sha256,
        "runtime_sha256": rom.runtime_sha256,
        "rom_bytes": len(rom.image),
    }
    recorder.add_file("rom.json", listed(facts).encode())


def record_result(recorder: Recorder, result: Result) -> None:
    """Evidence of what came back: raw bytes and decoded records side by side."""
    decoded: list[dict[str, str | int]] = [record.as_dict() for record in result.records]
    for entry, line in zip(decoded, result.lines(), strict=False):
        entry["line"] = line
    recorder.add_file("records.json", listed(decoded).encode())


class BareGuest:
    """One emulator with one program. Phases work; there is no host that could act between them.

    ``interactive`` is whether COM1 goes both ways (a pseudo-terminal) or into a file, which is quicker.
    """

    def __init__(
        self, rom: Rom, vendor: str, folder: Path, recorder: Recorder, seconds: float, *, interactive: bool
    ) -> None:
        image = folder / "rom.bin"
        image.write_bytes(rom.image)
        self._rom = rom
        self._recorder = recorder
        self._serial = None if interactive else folder / "serial.out"
        self._console = b""
        self._deadline = Deadline.after(seconds)
        self._result: Result | None = None
        self.machine = start_machine(BochsConfig(vendor, folder, image, ncpu=rom.program.vcpus, serial=self._serial))

    def wait_phase(self, phase: int) -> None:
        while phase not in phases(self._console, self._rom.nonce):
            if not self._read():
                self.finish()
                raise TestDefect(f"Program '{self._rom.program.name}' ended before the phase that the case waits for.")

    def go(self) -> None:
        os.write(self.machine.serial_fd, _GO)

    def finish(self) -> Result:
        if self._result is None:
            self._result = self._finish()
        return self._result

    def _finish(self) -> Result:
        timed_out = False
        if self._serial is None:
            while self._read():
                pass
        else:
            try:
                self.machine.wait(self._deadline)
            except EmulatorFailed:
                timed_out = True
            self._console = self._serial.read_bytes() if self._serial.exists() else b""
        return self._judge(self._deadline.expired() or timed_out)

    def _read(self) -> bool:
        """Take what the guest has sent; whether more can come."""
        descriptor = self.machine.serial_fd
        while not self._deadline.expired():
            if select.select([descriptor], [], [], min(0.05, self._deadline.remaining()))[0]:
                self._console += os.read(descriptor, 65536)
                return True
            if self.machine.ended():
                return False
        return False

    def _judge(self, timed_out: bool) -> Result:
        name, console = self._rom.program.name, self._console
        self._recorder.add_file("console.raw", console)
        if self.machine.log.exists():
            self._recorder.add_file("bochs.log", self.machine.log.read_bytes()[-20000:])
        if not is_finished(console):
            if not has_banner(console, self._rom.nonce):
                raise GuestSilent(f"Program '{name}' printed no banner.")
            if timed_out:
                raise GuestHang(f"Program '{name}' did not end within {self._deadline.seconds:g} s.")
            raise EmulatorFailed(f"The emulator ended before program '{name}' did.")
        result = decode(console, self._rom.nonce)
        record_result(self._recorder, result)
        check_operations(result, self._rom.program.ops)
        return result

    # --- what only a host could do ------------------------------------------------------------------------

    def wait_reset(self) -> None:
        raise TestDefect(_NO_HOST)

    def force_reset(self) -> None:
        raise TestDefect(_NO_HOST)

    def save(self) -> SavedGuest:
        raise TestDefect(_NO_HOST)

    def try_destroy(self, by: str) -> bool:
        raise TestDefect(_NO_HOST)

    def registers(self, *names: str, vcpu: int = 0, by: str = "root") -> Mapping[str, int]:
        raise TestDefect(_NO_HOST)

    def all_registers(self, *names: str, vcpu: int = 0) -> Mapping[str, int]:
        raise TestDefect(_NO_HOST)

    def set_registers(self, vcpu: int = 0, **values: int) -> None:
        raise TestDefect(_NO_HOST)

    def try_set_registers_as(self, by: str, **values: int) -> bool:
        raise TestDefect(_NO_HOST)

    def try_set_registers(self, vcpu: int = 0, **values: int) -> bool:
        raise TestDefect(_NO_HOST)

    def descriptor(self, name: str, vcpu: int = 0) -> tuple[int, int, int]:
        raise TestDefect(_NO_HOST)

    def set_descriptor(self, name: str, base: int, limit: int, access: int = 0, vcpu: int = 0) -> None:
        raise TestDefect(_NO_HOST)

    def set_capability(self, name: str, on: bool, vcpu: int = 0) -> None:
        raise TestDefect(_NO_HOST)

    def write_memory(self, address: int, data: bytes) -> None:
        raise TestDefect(_NO_HOST)

    def capability(self, name: str, vcpu: int = 0) -> bool:
        raise TestDefect(_NO_HOST)

    def read_memory(self, address: int, length: int) -> bytes:
        raise TestDefect(_NO_HOST)

    def debugger(self) -> AbstractContextManager[Debugger]:
        raise TestDefect(_NO_HOST)

    def stats(self, vcpu: int = 0) -> Mapping[str, int]:
        raise TestDefect(_NO_HOST)

    def pin(self, cpu: int, vcpu: int = 0) -> None:
        raise TestDefect(_NO_HOST)

    def stop(self) -> None:
        raise TestDefect(_NO_HOST)

    def cont(self) -> None:
        raise TestDefect(_NO_HOST)

    def inject_nmi(self) -> None:
        raise TestDefect(_NO_HOST)

    def thread_number(self, vcpu: int = 0) -> int:
        raise TestDefect(_NO_HOST)

    def thread_debug_registers(self) -> HostDebugState:
        raise TestDefect(_NO_HOST)

    def set_thread_debug_registers(self, state: HostDebugState) -> None:
        raise TestDefect(_NO_HOST)

    def thread_bases(self) -> ThreadBases:
        raise TestDefect(_NO_HOST)


class BareSubject:
    """Runs each program in an emulator of its own; nothing survives from one run to the next."""

    def __init__(self, alias: str, vendor: str, recorder: Recorder) -> None:
        self._platform = Platform(
            alias=alias,
            kind="bare",
            vendor=vendor,
            heading=f"bare Bochs {CPU_MODELS[vendor]}",
            emulated=True,
            capabilities=frozenset({"bare", "smp", "string-io", "vm86", "task-switch", "trap-at-exit"}),
        )
        self.recorder = recorder
        self._machine_seconds = 0.0
        self._nursery_before = nursery_seconds()

    @property
    def platform(self) -> Platform:
        return self._platform

    @property
    def bochs_seconds(self) -> float:
        """CPU seconds of all emulators so far, with what it took to set them up."""
        return self._machine_seconds + nursery_seconds() - self._nursery_before

    @property
    def host(self) -> HostActions:
        raise TestDefect(_NO_HOST)

    def run(
        self, program: Program, *, pin: int | None = 0, seconds: float = 30, lenient_msrs: bool = False
    ) -> Result:
        """Run ``program`` as firmware; ``pin`` and ``lenient_msrs`` mean nothing here."""
        with self._guest(program, seconds, interactive=False) as guest:
            return guest.finish()

    @contextmanager
    def start(
        self,
        program: Program,
        *,
        pin: int | None = 0,
        name: str = "",
        seconds: float = 30,
        lenient_msrs: bool = False,
        debug_stub: bool = False,
        keep: bool = False,
    ) -> Iterator[BareGuest]:
        """Start a program that waits in phases."""
        with self._guest(program, seconds, interactive=True) as guest:
            yield guest

    def restore(
        self, saved: SavedGuest, *, pin: int | None = 0, name: str = "", seconds: float = 30
    ) -> AbstractContextManager[BareGuest]:
        """Nobody saved a guest here."""
        raise TestDefect(_NO_HOST)

    @contextmanager
    def _guest(self, program: Program, seconds: float, *, interactive: bool) -> Iterator[BareGuest]:
        rom = Rom.build(program, EndMethod.BOCHS)
        record_program(self.recorder, rom)
        folder = Path(tempfile.mkdtemp(prefix="vmmcheck-bare-"))
        try:
            guest = BareGuest(rom, self._platform.vendor, folder, self.recorder, seconds, interactive=interactive)
            try:
                yield guest
            finally:
                guest.machine.kill()
                self._machine_seconds += guest.machine.cpu_seconds()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
