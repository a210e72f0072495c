"""Witnesses of the host's own debug state: the helper module's sysctls and the vmmwitness program."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, fields

from harness.errors import HostUnready, UnexpectedAnswer
from harness.hosts.host import QUICK, Host, run_as
from harness.hosts.modules import Modules
from harness.hosts.observation import Observation
from harness.hosts.state import HostDebugState, SentinelReport, ThreadBases
from harness.hosts.tracing import ProbeRow, Tracing
from harness.hosts.tunables import tunable
from harness.timing import Deadline
from harness.transport import RemoteProcess

_PAIR = re.compile(r"(\w+)=(0x[0-9a-f]+|\d+)")
#: cpuctl is the stock module of that name whoever loaded it, so -n hides nothing here.
_CPUCTL = "kldload -n cpuctl;"
_NAMES = tuple(field.name for field in fields(HostDebugState))


def parse_state(text: str) -> HostDebugState:
    """``dr0=0x... dr7=0x...`` on one line; raises :class:`UnexpectedAnswer` when registers are missing."""
    values = {name: int(value, 0) for name, value in _PAIR.findall(text)}
    if not set(_NAMES) - {"debugctl"} <= values.keys():
        raise UnexpectedAnswer(f"Expected debug registers by name, found {text[:200]!r}.")
    return HostDebugState(**{name: values[name] for name in _NAMES if name in values})


def parse_bases(text: str) -> ThreadBases:
    """``fsbase=0x... gsbase=0x...`` on one line; raises :class:`UnexpectedAnswer` when one is missing."""
    values = {name: int(value, 0) for name, value in _PAIR.findall(text)}
    if not {"fsbase", "gsbase"} <= values.keys():
        raise UnexpectedAnswer(f"Expected FS and GS base by name, found {text[:200]!r}.")
    return ThreadBases(values["fsbase"], values["gsbase"])


def show_state(state: HostDebugState, *, separator: str = " ", debugctl: bool = True) -> str:
    return separator.join(
        f"{name}={value:#x}" for name, value in asdict(state).items() if debugctl or name != "debugctl"
    )


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise UnexpectedAnswer(f"Expected a number from the witness, found {text[:120]!r}.") from None


class RunningSentinel:
    """A vmmwitness sentinel that touches its variable until :meth:`stop`."""

    def __init__(self, process: RemoteProcess, address: int, seconds: float) -> None:
        self._process = process
        self._seconds = seconds
        self.address = address
        self._report: SentinelReport | None = None

    def stop(self) -> SentinelReport:
        """End it and return what it saw."""
        if self._report is None:
            self._process.close_stdin()
            text = self._process.wait(Deadline.after(self._seconds)).text
            values = {name: int(value, 0) for name, value in _PAIR.findall(text)}
            try:
                counts = [values[name] for name in ("touches", "hits", "foreign")]
            except KeyError as error:
                raise UnexpectedAnswer(f"The sentinel's report lacks {error}: {text[:200]!r}.") from None
            touches, hits, foreign = counts
            self._report = SentinelReport(
                self.address, touches, hits, foreign, parse_state(text), parse_bases(text)
            )
        return self._report


class Witness:
    """Implements :class:`harness.subjects.protocol.HostActions`."""

    def __init__(self, host: Host, vendor: str = "") -> None:
        self._host = host
        self._tracing = Tracing(host, vendor)

    def plant(self, cpu: int, state: HostDebugState) -> HostDebugState:
        return parse_state(self._host.change(f'sysctl -n debug.vmmcheck.plant="cpu={cpu} {show_state(state)}"').text)

    def state(self, cpu: int) -> HostDebugState:
        return parse_state(self._host.check(f"sysctl -n debug.vmmcheck.state.{cpu}").text)

    def descriptor_tables(self, cpu: int) -> Mapping[str, int]:
        text = self._host.check(f"sysctl -n debug.vmmcheck.tables.{cpu}").text
        values = {name: int(value, 0) for name, value in _PAIR.findall(text)}
        if not {"gdtr_base", "gdtr_limit", "idtr_base", "idtr_limit", "ldtr", "tr"} <= values.keys():
            raise UnexpectedAnswer(f"Expected descriptor tables by name, found {text[:200]!r}.")
        return values

    def touch(self, cpu: int, count: int) -> int:
        touch = f'sysctl debug.vmmcheck.touch="cpu={cpu} count={count}" >/dev/null'
        return _number(self._host.change(f"{touch} && sysctl -n debug.vmmcheck.hits").text)

    @contextmanager
    def without_vmm(self) -> Iterator[None]:
        """Raises :class:`HostUnready` when vmm.ko cannot be unloaded, or does not come back."""
        modules = Modules(self._host)
        file = modules.loaded("vmm.ko")
        if file is None:
            raise HostUnready("vmm.ko is not loaded, so that it cannot be unloaded either.")
        modules.unload("vmm.ko")
        try:
            yield
        finally:
            # The session takes the same file under its new number for the module that it had loaded.
            self._host.reloaded = modules.load(file.path, "vmm")

    def rdmsr(self, cpu: int, msr: int) -> int:
        """Through cpuctl(4): ``MSR 0x1d9: 0xHHHHHHHH 0xLLLLLLLL``, high half first."""
        text = self._host.change(f"{_CPUCTL} cpucontrol -m {msr:#x} /dev/cpuctl{cpu}").text
        match = re.fullmatch(r"MSR 0x[0-9a-f]+: 0x([0-9a-f]{8}) 0x([0-9a-f]{8})", text)
        if match is None:
            raise UnexpectedAnswer(f"'cpucontrol -m {msr:#x}' printed {text[:120]!r}.")
        return int(match[1], 16) << 32 | int(match[2], 16)

    def wrmsr(self, cpu: int, msr: int, value: int) -> None:
        self._host.change(f"{_CPUCTL} cpucontrol -m {msr:#x}={value:#x} /dev/cpuctl{cpu}")

    def witness_variable(self) -> int:
        return _number(self._host.check("sysctl -n debug.vmmcheck.variable").text)

    @contextmanager
    def sentinel(
        self, cpu: int, *, watch: bool, pattern: HostDebugState | None = None, bases: ThreadBases | None = None
    ) -> Iterator[RunningSentinel]:
        registers = show_state(pattern or HostDebugState(), separator=",", debugctl=False)
        options = f"--cpu {cpu} --dr {registers}" + (" --watch" if watch else "")
        if bases is not None:
            options += f" --fsbase {bases.fsbase:#x} --gsbase {bases.gsbase:#x}"
        command = f"{self._host.folder}/vmmwitness sentinel {options}"
        deadline = Deadline.after(20 * self._host.patience)
        process = self._host.transport.start(command, deadline=deadline)
        while b"\n" not in process.stdout and process.read(deadline) and not deadline.expired():
            pass
        match = re.match(rb"address=(0x[0-9a-f]+)\n", process.stdout)
        if match is None:
            raise UnexpectedAnswer(f"The sentinel did not start: {process.stdout!r} {process.stderr!r}.")
        running = RunningSentinel(process, int(match[1], 16), 30 * self._host.patience)
        try:
            yield running
        finally:
            running.stop()

    @contextmanager
    def step_through_entry(self, cpu: int) -> Iterator[Mapping[str, int]]:
        report: dict[str, int] = {}
        self._host.change(f'sysctl debug.vmmcheck.step="cpu={cpu} on=1"')
        try:
            yield report
        finally:
            off = f'sysctl debug.vmmcheck.step="cpu={cpu} on=0" >/dev/null'
            text = self._host.change(f"{off} && sysctl -n debug.vmmcheck.stepped").text
            report.update({name: int(value, 0) for name, value in _PAIR.findall(text)})

    # --- dtrace, tunables -----------------------------------------------------------------------------------

    def observe(self) -> AbstractContextManager[Observation]:
        return self._tracing.observe()

    def profile(self) -> AbstractContextManager[Observation]:
        return self._tracing.profile()

    def probes(self, description: str) -> list[ProbeRow]:
        return self._tracing.probes(description)

    def toggle_probes(self, times: int) -> None:
        self._tracing.toggle(times)

    def tunable(self, name: str, value: int) -> AbstractContextManager[None]:
        return tunable(self._host, name, value)

    def can_save(self) -> bool:
        usage = self._host.run("bhyvectl 2>&1")
        return "--suspend" in usage.text

    def check_as(self, by: str) -> None:
        self._host.check(run_as(by, "true"))

    def wait(self, seconds: float) -> None:
        self._host.check(f"sleep {seconds:g}", seconds=seconds + QUICK)

    def sysctl(self, name: str) -> str:
        return self._host.check(f"sysctl -n {name}").text
