"""What the lab costs: ratios and rates measured in one go, for comparing two states of the tree on one machine."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.guest import Program
from harness.inventory import EmulatedHost
from harness.lab import Launcher, open_session
from harness.recording import NullRecorder
from harness.subjects import Subject
from harness.subjects.bare import BareSubject


@dataclass(frozen=True, slots=True)
class Measure:
    """One line of the table."""

    what: str
    value: float
    unit: str


def _program() -> Program:
    program = Program("bench")
    watched = program.watched()
    program.arm(dr=0, address=watched, type="write", length=8)
    program.exit("cpuid")
    program.store(watched)
    program.snapshot()
    return program


def _boots(subject: Subject, count: int) -> float:
    """Seconds for one boot, run and decode, averaged over ``count``."""
    subject.run(_program())
    started = time.perf_counter()
    for _ in range(count):
        subject.run(_program())
    return (time.perf_counter() - started) / count


def measure(count: int) -> Iterator[Measure]:
    """Yield measures as they come; ``count`` boots for each rate."""
    cores = os.cpu_count() or 1
    yield Measure("cores", cores, "")
    for vendor in ("intel", "amd"):
        bare = BareSubject(f"bare{vendor}", vendor, NullRecorder())
        seconds = _boots(bare, count)
        yield Measure(f"bare guest boots, {vendor}", 1 / seconds, "1/s")
        yield Measure(f"share of the emulator in that, {vendor}", bare.bochs_seconds / (count + 1) / seconds, "")
    for vendor in ("intel", "amd"):
        yield from _emulated(vendor, count)


def _emulated(vendor: str, count: int) -> Iterator[Measure]:
    launcher = Launcher()
    host = EmulatedHost.model_validate({"kind": "emulated", "vendor": vendor})
    with tempfile.TemporaryDirectory(prefix="vmmcheck-bench-") as folder:
        try:
            started = time.perf_counter()
            reach = launcher.start({"bench": host}, Path(folder))["bench"]
            yield Measure(f"boot of an emulated host, {vendor}", time.perf_counter() - started, "s")
            session = open_session("bench", host, reach, Path(folder))
            session.open()
            subject = session.begin(NullRecorder())
            seconds = _boots(subject, count)
            session.end()
            spent = session.close()
            yield Measure(f"guest boots in the reference hypervisor, {vendor}", 1 / seconds, "1/s")
            yield Measure(f"SSH channels a boot, {vendor}", float(spent["channels"]) / (count + 1), "")
        finally:
            facts = launcher.stop()
    busy = float(facts.get("bench", {}).get("bochs_seconds", 0.0))
    yield Measure(f"emulator CPU a boot, {vendor}", 1000 * busy / (count + 1), "ms")
