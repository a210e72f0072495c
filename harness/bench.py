"""What the lab costs: ratios and rates measured in one go, for comparing two states of the tree on one machine."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.guest import Program
from harness.inventory import EmulatedHost
from harness.lab import Launcher, open_session
from harness.recording import NullRecorder
from harness.subjects import Subject
from harness.subjects.bare import BareSubject

ROOT = Path(__file__).resolve().parents[1]


class BenchFailed(Exception):
    """What was to be measured did not work."""


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


def measure_run(count: int) -> Iterator[Measure]:
    """A run of the emulated lab, ``count`` variants of every test: how well it keeps the emulators busy.

    Raises :class:`BenchFailed` when a cell of it stays unanswered or fails.
    """
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="vmmcheck-bench-") as folder:
        command = [sys.executable, "-m", "harness.cli", "run", "--run-dir", folder, "--sample", str(count)]
        started, spent = time.perf_counter(), _cpu_of_children()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        wall, spent = time.perf_counter() - started, _cpu_of_children() - spent
        if done.returncode:
            raise BenchFailed(f"The measured run ended with status {done.returncode}:\n{done.stdout[-2000:]}")
        (results,) = Path(folder).glob("*/results.json")
        run = json.loads(results.read_text(encoding="utf-8"))
    busy = sum(float(facts.get("bochs_seconds", 0.0)) for facts in run["hosts"].values())
    ran = Counter(cell["host"] for cell in run["cells"] if cell["verdict"] != "SKIP")
    channels = {alias: int(facts["channels"]) for alias, facts in run["hosts"].items() if "channels" in facts}
    cells = sum(ran.values())
    yield Measure(f"cells run, {count} variants of every test", cells, "")
    yield Measure("wall time of that run", wall, "s")
    yield Measure("CPU time of its emulators", busy, "s")
    yield Measure("wall time / (CPU time of the emulators / cores)", wall / (busy / cores), "")
    yield Measure("CPU time of the emulators a cell", 1000 * busy / cells, "ms")
    yield Measure("CPU time of everything else", spent - busy, "s")
    yield Measure("CPU time of everything else a cell", 1000 * (spent - busy) / cells, "ms")
    yield Measure("SSH channels a cell", sum(channels.values()) / sum(ran[alias] for alias in channels), "")


def _cpu_of_children() -> float:
    """CPU seconds, user and system, of all processes below this one that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
