"""A guest without a hypervisor: the ROM as firmware of an emulated CPU, the architectural oracle."""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path

from harness.bochs import CPU_MODELS, BochsConfig, BochsMachine
from harness.errors import EmulatorFailed, GuestHang, GuestSilent, TestDefect
from harness.guest import EndMethod, Program, Result, Rom, decode, has_banner, is_finished
from harness.recording import Recorder
from harness.subjects.protocol import HostActions, Platform, RunningGuest
from harness.timing import Deadline


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
    recorder.add_file("rom.json", json.dumps(facts, indent=2).encode() + b"\n")


def record_result(recorder: Recorder, result: Result) -> None:
    """Evidence of what came back: raw bytes and decoded records side by side."""
    decoded = [record.as_dict() for record in result.records]
    recorder.add_file("records.json", json.dumps(decoded, indent=1).encode() + b"\n")


class BareSubject:
    """Runs each program in an emulator of its own; nothing survives from one run to the next."""

    def __init__(self, alias: str, vendor: str, recorder: Recorder) -> None:
        self._platform = Platform(
            alias=alias,
            kind="bare",
            vendor=vendor,
            heading=f"bare Bochs {CPU_MODELS[vendor]}",
            emulated=True,
            capabilities=frozenset({"bare"}),
        )
        self.recorder = recorder
        #: CPU seconds of all emulators so far.
        self.bochs_seconds = 0.0

    @property
    def platform(self) -> Platform:
        return self._platform

    @property
    def host(self) -> HostActions:
        raise TestDefect("A bare run has no host; the case must name the capability it needs.")

    def run(self, program: Program, *, pin: int | None = 0, seconds: float = 30) -> Result:
        """Run ``program`` as firmware; ``pin`` means nothing here."""
        rom = Rom.build(program, EndMethod.BOCHS)
        record_program(self.recorder, rom)
        folder = Path(tempfile.mkdtemp(prefix="vmmcheck-bare-"))
        try:
            return self._run(rom, folder, seconds)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def start(
        self, program: Program, *, pin: int | None = 0, name: str = "", seconds: float = 30
    ) -> AbstractContextManager[RunningGuest]:
        raise TestDefect("A bare run has no host that could act between phases; the case must need 'bhyve'.")

    def _run(self, rom: Rom, folder: Path, seconds: float) -> Result:
        image, serial = folder / "rom.bin", folder / "serial.out"
        image.write_bytes(rom.image)
        with BochsMachine(BochsConfig(self.platform.vendor, folder, image, serial=serial)) as machine:
            try:
                machine.wait(Deadline.after(seconds))
                timed_out = False
            except EmulatorFailed:
                timed_out = True
            self.bochs_seconds += machine.cpu_seconds()
        console = serial.read_bytes() if serial.exists() else b""
        self.recorder.add_file("console.raw", console)
        if machine.log.exists():
            self.recorder.add_file("bochs.log", machine.log.read_bytes()[-20000:])
        if not is_finished(console):
            if not has_banner(console, rom.nonce):
                raise GuestSilent(f"Program '{rom.program.name}' printed no banner on {self.platform.heading}.")
            if timed_out:
                raise GuestHang(f"Program '{rom.program.name}' did not end within {seconds:g} s.")
            raise EmulatorFailed(f"The emulator ended before program '{rom.program.name}' did.")
        result = decode(console, rom.nonce)
        record_result(self.recorder, result)
        return result
