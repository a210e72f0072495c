"""A running D program: probes on, records turned into firings of its clauses, probes off, what is left printed."""

from __future__ import annotations

import fnmatch
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

from harness.emulated.dprint import default_print
from harness.emulated.drun import WANT_EACH, ActionFailed, Compiler, Firing, State
from harness.emulated.fbt import ENTRY, RETURN, FunctionTracer, Record
from harness.emulated.kerneltypes import Function, KernelTypes

#: Rows of ``dtrace -l`` begin with the probes of dtrace itself.
BEGIN_ID, END_ID, FIRST_ID = 1, 2, 1000


class NoSuchProbe(Exception):
    """A description that matches nothing."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A row of ``dtrace -l``."""

    id: int
    provider: str
    module: str
    function: str
    name: str


def matches(description: str, probe: Probe) -> bool:
    """Whether ``provider:module:function:name`` (parts may be missing on the left, or empty) names a probe."""
    parts = ["", "", "", *description.split(":")][-4:]
    values = (probe.provider, probe.module, probe.function, probe.name)
    return all(not part or fnmatch.fnmatchcase(value, part) for part, value in zip(parts, values, strict=True))


class Probes:
    """What the kernel offers. ``loaded`` says whether functions of vmm count."""

    def __init__(self, types: KernelTypes, tracer: FunctionTracer, loaded: bool) -> None:
        self._types = types
        self._tracer = tracer
        self._loaded = loaded

    def listing(self, description: str = "") -> Iterator[Probe]:
        """Probes that a description matches, by their numbers."""
        own = (
            Probe(BEGIN_ID, "dtrace", "", "", "BEGIN"),
            Probe(END_ID, "dtrace", "", "", "END"),
        )
        yield from (probe for probe in own if matches(description, probe))
        for number, function in enumerate(self._types.functions.values()):
            if function.module == "vmm" and not self._loaded:
                continue
            entry = Probe(FIRST_ID + 2 * number, "fbt", function.module, function.name, "entry")
            leave = replace(entry, id=entry.id + 1, name="return")
            wanted = [probe for probe in (entry, leave) if matches(description, probe)]
            if not wanted:
                continue
            sites = self._tracer.sites(function)
            if sites.entry < 0:
                continue
            yield from (probe for probe in wanted if probe is entry or sites.returns)

    def function(self, probe: Probe) -> Function:
        return self._types.functions[probe.function]


class Consumer:
    """One dtrace: it enables probes and hands what they recorded to the program's clauses."""

    def __init__(self, compiler: Compiler, probes: Probes, tracer: FunctionTracer, types: KernelTypes) -> None:
        self.state = State()
        self.errors: list[str] = []
        self.matched = 0
        self.ticks: list[float] = []
        self.lock = threading.Lock()
        self._compiler = compiler
        self._probes = probes
        self._tracer = tracer
        self._types = types
        self._threads: dict[int, tuple[int, int]] = {}
        self._last: Record | None = None
        self._by_probe: dict[tuple[str, str], list[int]] = {}
        self._ids: dict[tuple[str, str], Probe] = {}
        self._stacks: dict[tuple[int, ...], tuple[str, ...]] = {}

    # --- probes -----------------------------------------------------------------------------------------------

    def resolve(self) -> None:
        """Find the probes of every clause; raises :class:`NoSuchProbe`."""
        for index, (clause, _) in enumerate(self._compiler.clauses):
            for description in clause.probes:
                tick = re.fullmatch(r"(?:profile:::)?tick-(\d+)s(?:ec)?", description)
                if tick:
                    key = ("", f"tick-{tick[1]}s")
                    self.ticks.append(float(tick[1]))
                    self._ids[key] = Probe(FIRST_ID - len(self.ticks), "profile", *key[:1], "", key[1])
                    self._by_probe.setdefault(key, []).append(index)
                    self.matched += 1
                    continue
                found = list(self._probes.listing(description))
                if not found:
                    raise NoSuchProbe(description)
                for probe in found:
                    self._ids[probe.function, probe.name] = probe
                    self._by_probe.setdefault((probe.function, probe.name), []).append(index)
                    self.matched += 1

    def enable(self) -> None:
        """Switch the probes on; raises :class:`harness.emulated.ctl.KernelError`."""
        what: dict[str, int] = {}
        for function, name in self._by_probe:
            if function:
                what[function] = what.get(function, 0) | (ENTRY if name == "entry" else RETURN)
        # What is still there belongs to somebody who is gone.
        for _ in self._tracer.read():
            pass
        for function, mask in what.items():
            self._tracer.enable(
                self._types.functions[function], mask, self._compiler.mask, self._compiler.fetches
            )

    def disable(self) -> None:
        """Switch them off, take the last records, tell of lost ones."""
        dropped = self._tracer.disable()
        self.drain()
        if dropped:
            self.errors.append(f"dtrace: {dropped} drops on CPU 0\n")

    # --- firing ---------------------------------------------------------------------------------------------------

    def learn(self, thread: int, tid: int, pid: int) -> None:
        """Which thread of which process a record's thread is. The lock is held since before the thread could run."""
        self._threads[thread] = (tid, pid)

    def fire(self, name: str) -> None:
        """BEGIN, END or a tick."""
        probe = self._ids.get(("", name))
        with self.lock:
            self._run(("", name), Firing(probe=str(probe.id if probe is not None else 0), name=name))

    def drain(self) -> None:
        with self.lock:
            self.drain_locked()

    def drain_locked(self) -> None:
        for record in self._tracer.read():
            self._take(record)

    def _take(self, record: Record) -> None:
        one = self._firing(record)
        self._run((one.function, one.name), one)
        if record.repeats and self._last is not None:
            self._repeat((self._firing(self._last), one), record.repeats)
        self._last = record

    def _repeat(self, pair: tuple[Firing, Firing], count: int) -> None:
        """Two firings by turns. Once they change no variable any more, only how often matters."""
        done = 0
        while done < count:
            before = self.state.variables()
            for firing in pair[: count - done]:
                self._run((firing.function, firing.name), firing)
                done += 1
            left = (count - done) // 2
            if left and not self._compiler.mask & WANT_EACH and self.state.variables() == before:
                for firing in pair:
                    self._run((firing.function, firing.name), replace(firing, weight=left))
                done += 2 * left

    def _firing(self, record: Record) -> Firing:
        function = self._tracer.function(record.id)
        name = "return" if record.is_return else "entry"
        tid, pid = self._threads.get(record.thread, (record.thread >> 4 & 0xFFFFF, 0))
        return Firing(
            probe=str(self._ids[function.name, name].id),
            name=name,
            function=function.name,
            cpu=record.cpu,
            tid=tid,
            pid=pid,
            execname="bhyve" if pid else "kernel",
            td_name=record.name,
            args=record.args,
            values=record.values,
            faults=record.faults,
            stack=self._stack(record.frames),
            timestamp=record.tsc,
        )

    def _stack(self, frames: tuple[int, ...]) -> tuple[str, ...]:
        if frames not in self._stacks:
            self._stacks[frames] = tuple(self._place(frame) for frame in frames)
        return self._stacks[frames]

    def _place(self, address: int) -> str:
        function = self._types.function_at(address)
        if function is None:
            return f"{address:#x}"
        module = "vmm.ko" if function.module == "vmm" else function.module
        return f"{module}`{function.name}+{address - function.start:#x}"

    def _run(self, key: tuple[str, str], firing: Firing) -> None:
        self.state.this = {}
        for index in self._by_probe.get(key, ()):
            try:
                self._compiler.clauses[index][1](self.state, firing)
            except ActionFailed as failed:
                probe = self._ids.get(key)
                where = f"{probe.provider}:{probe.module}:{probe.function}:{probe.name}" if probe else key[1]
                self.errors.append(
                    f"dtrace: error on enabled probe ID {index + 1} (ID {firing.probe}: {where}): {failed}\n"
                )

    def rest(self) -> str:
        """Aggregations that the program did not print itself."""
        state = self.state
        return default_print(
            {
                name: {} if name in state.printed else state.aggregations.get(name, {})
                for name in self._compiler.functions
            }
        )
