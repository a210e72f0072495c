"""dtrace(1) on a host: the D programs of ``kernel/dtrace`` around what a case does, and lists of probes.

A program counts as running once it said ``armed``, and as complete with its last line. dtrace's exit status is 0 even
when it lost records, so everything that it writes to standard error is looked at.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HostUnready, ProbeMismatch, TraceIncomplete, UnexpectedAnswer
from harness.hosts.host import SLOW, Host
from harness.hosts.observation import Observation, fill
from harness.timing import Deadline
from harness.transport import RemoteProcess

PROGRAMS = Path(__file__).resolve().parents[2] / "kernel" / "dtrace"
#: Seconds to load dtrace, compile the program and enable its probes, and to take them away again: an emulated machine
#: whose emulator had half a processor took 31 of them (at ten times patience, 310 s).
ARMING = 60.0
#: It is the stock module of that name whoever loaded it, so -n hides nothing here.
_LOAD = "kldload -n dtraceall 2>/dev/null;"
#: dtrace as this module calls it. Without the system's D libraries, of which nothing here uses anything: to parse them
#: took more than a quarter of dtrace's time on FreeBSD 13.2 in an emulator.
_DTRACE = "dtrace -x nolibs"
#: Destructive actions are allowed, of which the programs have none: what counts is that dtrace_probe() (dtrace.c) then
#: goes on where the machine was late for 10 s (dtrace_deadman_timeout) instead of ending the program ("Abort due to
#: systemic unresponsiveness"). No kernel variable changes that limit. Only for hosts that are known to be slow: on any
#: other one it is right that the program ends.
_SLOW_DTRACE = f"{_DTRACE} -w"
_ARMED, _NO_PROBE = b"armed\n", "does not match any probes"
#: What dtrace says without anything being wrong.
_HARMLESS = re.compile(r"dtrace: (buffer size|aggregation size|\S+ size) lowered to |dtrace: (script|description) ")


@dataclass(frozen=True, slots=True)
class ProbeRow:
    """A row of ``dtrace -l``."""

    id: int
    provider: str
    module: str
    function: str
    name: str


def parse_rows(text: str) -> list[ProbeRow]:
    """Rows of a listing; raises :class:`UnexpectedAnswer` when it is none."""
    lines = text.splitlines()
    if not lines or lines[0].split() != ["ID", "PROVIDER", "MODULE", "FUNCTION", "NAME"]:
        raise UnexpectedAnswer(f"'dtrace -l' printed no listing: {text[:200]!r}.")
    rows = [line.split() for line in lines[1:] if line.strip()]
    return [ProbeRow(int(row[0]), *row[1:]) for row in rows if len(row) == 5 and row[0].isdigit()]


def complaints_of(errors: str) -> list[str]:
    """Lines of dtrace's standard error after which its counts cannot be believed (drops, errors in actions)."""
    return [line for line in errors.splitlines() if line.strip() and not _HARMLESS.match(line)]


class Tracing:
    """D programs of one host, whose processor's vendor decides which function enters a guest."""

    def __init__(self, host: Host, vendor: str) -> None:
        self._host = host
        self._vendor = vendor
        self._dtrace = _SLOW_DTRACE if host.patience > 1 else _DTRACE

    @property
    def program(self) -> str:
        """Text of the program that watches the world switch."""
        return (PROGRAMS / f"vmentry_{self._vendor}.d").read_text(encoding="ascii")

    def probes(self, description: str) -> list[ProbeRow]:
        """Rows of ``dtrace -l -n``; its exit status says nothing, a description without a match has no rows."""
        return parse_rows(self._host.change(f"{_LOAD} {_DTRACE} -l -n {shlex.quote(description)}").text)

    def observe(self) -> AbstractContextManager[Observation]:
        """Watch the world switch; the observation is filled when the context ends.

        Raises :class:`ProbeMismatch` (the function has no such probe), :class:`TraceIncomplete`, ``SshLost``.
        """
        return self._running(self.program)

    def profile(self) -> AbstractContextManager[Observation]:
        """Whom the interrupts of the profile provider meet, 997 times a second on each CPU: the threads of the
        observation, which is filled when the context ends. Raises as :meth:`observe`.
        """
        return self._running((PROGRAMS / "profile.d").read_text(encoding="ascii"))

    @contextmanager
    def _running(self, program: str) -> Iterator[Observation]:
        text, observation = program.encode(), Observation()
        path = f"{self._host.folder}/observe.d"
        command = f"{_LOAD} head -c {len(text)} >{path} && {self._dtrace} -qs {path} -c cat"
        deadline = Deadline.after(ARMING * self._host.patience)
        process = self._host.transport.start(self._host.guarded(command), deadline=deadline)
        process.write(text)
        self._wait_armed(process, deadline)
        try:
            yield observation
        finally:
            # Its end is what ends the program, whatever happened meanwhile; a lost link ends it as well.
            process.close_stdin()
            done = process.wait(Deadline.after(ARMING * self._host.patience))
        said = complaints_of(done.errors)
        if done.status != 0 or said:
            raise TraceIncomplete(f"dtrace ended with status {done.status}: {'; '.join(said[:3]) or 'no message'}.")
        fill(observation, done.text)

    def _wait_armed(self, process: RemoteProcess, deadline: Deadline) -> None:
        while not process.stdout.startswith(_ARMED):
            if process.read(deadline) and not deadline.expired():
                continue
            process.close_stdin()
            errors = process.stderr.decode("utf-8", "replace").strip()
            if _NO_PROBE in errors:
                raise ProbeMismatch(f"The function that enters a guest cannot be probed: {errors[:300]}")
            raise HostUnready(
                f"dtrace did not arm its probes on '{self._host.transport.name}': {errors[:300] or 'no message'}.",
                help="See whether dtraceall can be loaded and vmm.ko has type information (ctfdump -S).",
            )

    def toggle(self, times: int) -> None:
        """Switch the probes of the program on and off so often, one right after the other."""
        text = self.program.encode()
        path = f"{self._host.folder}/toggle.d"
        once = f"{self._dtrace} -qs {path} -c true >/dev/null || exit 1"
        rounds = " ".join(str(n) for n in range(times))
        command = f"{_LOAD} head -c {len(text)} >{path} && for n in {rounds}; do {once}; done"
        result = self._host.change(command, stdin=text, seconds=SLOW + 2 * times)
        said = complaints_of(result.errors)
        if said:
            raise TraceIncomplete(f"dtrace complained while its probes went on and off: {said[0]}")
