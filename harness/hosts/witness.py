"""Witnesses of the host's own debug state: the helper module's sysctls and the vmmwitness program."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields

from harness.errors import UnexpectedAnswer
from harness.hosts.host import Host
from harness.hosts.state import HostDebugState, SentinelReport
from harness.timing import Deadline
from harness.transport import RemoteProcess

_PAIR = re.compile(r"(\w+)=(0x[0-9a-f]+|\d+)")
_NAMES = tuple(field.name for field in fields(HostDebugState))


def parse_state(text: str) -> HostDebugState:
    """``dr0=0x... dr7=0x...`` on one line; raises :class:`UnexpectedAnswer` when registers are missing."""
    values = {name: int(value, 0) for name, value in _PAIR.findall(text)}
    if not set(_NAMES) - {"debugctl"} <= values.keys():
        raise UnexpectedAnswer(f"Expected debug registers by name, found {text[:200]!r}.")
    return HostDebugState(**{name: values[name] for name in _NAMES if name in values})


def show_state(state: HostDebugState, *, separator: str = " ", debugctl: bool = True) -> str:
    return separator.join(
        f"{name}={value:#x}" for name, value in asdict(state).items() if debugctl or name != "debugctl"
    )


class RunningSentinel:
    """A vmmwitness sentinel that touches its variable until :meth:`stop`."""

    def __init__(self, process: RemoteProcess, address: int) -> None:
        self._process = process
        self.address = address
        self._report: SentinelReport | None = None

    def stop(self) -> SentinelReport:
        """End it and return what it saw."""
        if self._report is None:
            self._process.close_stdin()
            text = self._process.wait(Deadline.after(30)).text
            values = {name: int(value, 0) for name, value in _PAIR.findall(text)}
            try:
                counts = [values[name] for name in ("touches", "hits", "foreign")]
            except KeyError as error:
                raise UnexpectedAnswer(f"The sentinel's report lacks {error}: {text[:200]!r}.") from None
            self._report = SentinelReport(self.address, counts[0], counts[1], counts[2], parse_state(text))
        return self._report


class Witness:
    """Implements :class:`harness.subjects.protocol.HostActions`."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def plant(self, cpu: int, state: HostDebugState) -> HostDebugState:
        return parse_state(self._host.check(f'sysctl -n debug.vmmcheck.plant="cpu={cpu} {show_state(state)}"').text)

    def state(self, cpu: int) -> HostDebugState:
        return parse_state(self._host.check(f"sysctl -n debug.vmmcheck.state.{cpu}").text)

    def touch(self, cpu: int, count: int) -> int:
        self._host.check(f'sysctl debug.vmmcheck.touch="cpu={cpu} count={count}"', seconds=60)
        return int(self._host.check("sysctl -n debug.vmmcheck.hits").text)

    def witness_variable(self) -> int:
        return int(self._host.check("sysctl -n debug.vmmcheck.variable").text, 0)

    @contextmanager
    def sentinel(
        self, cpu: int, *, watch: bool, pattern: HostDebugState | None = None
    ) -> Iterator[RunningSentinel]:
        registers = show_state(pattern or HostDebugState(), separator=",", debugctl=False)
        options = f"--cpu {cpu} --dr {registers}" + (" --watch" if watch else "")
        command = f"{self._host.folder}/vmmwitness sentinel {options}"
        process = self._host.transport.start(command, deadline=Deadline.after(20))
        deadline = Deadline.after(20)
        while b"\n" not in process.stdout and process.read(deadline) and not deadline.expired():
            pass
        match = re.match(rb"address=(0x[0-9a-f]+)\n", process.stdout)
        if match is None:
            raise UnexpectedAnswer(f"The sentinel did not start: {process.stdout!r} {process.stderr!r}.")
        running = RunningSentinel(process, int(match[1], 16))
        try:
            yield running
        finally:
            running.stop()

    @contextmanager
    def step_through_entry(self, cpu: int) -> Iterator[Mapping[str, int]]:
        report: dict[str, int] = {}
        self._host.check(f'sysctl debug.vmmcheck.step="cpu={cpu} on=1"')
        try:
            yield report
        finally:
            self._host.check(f'sysctl debug.vmmcheck.step="cpu={cpu} on=0"')
            text = self._host.check("sysctl -n debug.vmmcheck.stepped").text
            report.update({name: int(value, 0) for name, value in _PAIR.findall(text)})
