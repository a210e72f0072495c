"""Why a host is on another boot than an item began on, as far as it left a trace."""

from __future__ import annotations

import contextlib
from pathlib import Path

from harness.errors import HostHang, HostPanic, HostResetUnexplained, InfraError
from harness.hosts import Host
from harness.lab.console import Console, new_text, panic_text
from harness.lab.crash import CrashFolder, keep
from harness.recording import Recorder


class Aftermath:
    """Keeps what a host has told of itself before, so that what is new can be told apart.

    ``folder`` receives dumps and consoles as ``CLIMB-NAME``; ``None``: they are read, not kept.
    """

    def __init__(self, name: str, crash: CrashFolder, console: Console | None, folder: Path | None) -> None:
        self._name = name
        self._crash = crash
        self._recorded = console
        self._folder = folder
        self._before = ""

    def console(self) -> str:
        """The host's console as far as it was recorded."""
        if self._recorded is None:
            return ""
        with contextlib.suppress(InfraError):  # the console must not hide the trouble it is asked about
            return self._recorded.console()
        return ""

    def remember_dumps(self, host: Host) -> None:
        """Dumps that are there already are not ours."""
        self._crash.remember(host)

    def remember_console(self) -> None:
        """What the console shows already is not ours."""
        self._before = self.console()

    def verdict(
        self, host: Host, climb: int, recorder: Recorder, last_words: str, *, cycled: bool, error: Exception
    ) -> HostPanic:
        """What happened to the host when ``error`` came, now that it answers again.

        ``last_words`` is the console before the power was cut, ``cycled`` whether it had to be cut.
        """
        trace = self._crash.collect(host, self._folder, str(climb))
        # What was said before the power was cut, and since: a log may have been begun anew meanwhile.
        after = self.console()
        shown = new_text(self._before, last_words) + new_text(last_words or self._before, after)
        if self._folder is not None and shown:
            keep(self._folder / f"{climb}-console.log", shown.encode())
        if self._folder is not None and (shown or trace.names):
            where = f"hosts/{self._name}/crash/{climb}-*"
            recorder.add_note(f"What was left of the host: {where} in the run's folder.")
        panic = trace.panic or panic_text(shown)
        if panic:
            return HostPanic(f"'{self._name}' panicked: {panic}")
        if trace.names:
            return HostPanic(f"'{self._name}' left a crash dump: {', '.join(trace.names)}.")
        if cycled:
            return HostHang(f"'{self._name}' stopped answering and needed a power cycle; before: {error}")
        return HostResetUnexplained(
            f"'{self._name}' came back on another boot and left no trace of why; before: {error}"
        )
