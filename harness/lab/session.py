"""One host for the life of a worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from harness.inventory import BareHost, Host
from harness.lab.platforms import platform_of
from harness.lab.ssh_session import SshSession
from harness.recording import NullRecorder, Recorder
from harness.subjects import Platform, Subject
from harness.subjects.bare import BareSubject


class HostSession(Protocol):
    """What the plugin does with a host."""

    platform: Platform
    #: What is known of the host on its present boot, once it was opened.
    facts: dict[str, Any]

    def open(self) -> dict[str, Any]:
        """Connect, look, provision; facts for the report. Raises what the host makes of it."""

    def begin(self, recorder: Recorder) -> Subject:
        """Before an item: the host is healthy and on the boot we know, or an ``InfraError``."""

    def mark(self, hazard: str) -> None:
        """Leave word on the host's disk of what is about to be done to it; empty: take that away."""

    def end(self) -> None:
        """After an item: the same boot, no guest left over; raises what is not so."""

    def explain(self, error: Exception) -> Exception:
        """What an error of an item really was: the boot identifier decides between product and lab."""

    def close(self) -> dict[str, Any]:
        """Leave the host as it was found; what was spent, for the report."""


class BareSession:
    """There is no host: nothing to open, nothing to restore."""

    def __init__(self, alias: str, host: BareHost) -> None:
        self.platform = platform_of(alias, host)
        self.facts: dict[str, Any] = {"heading": self.platform.heading}
        self._subject = BareSubject(alias, host.vendor, NullRecorder())

    def open(self) -> dict[str, Any]:
        return self.facts

    def begin(self, recorder: Recorder) -> Subject:
        self._subject.recorder = recorder
        return self._subject

    def mark(self, hazard: str) -> None: ...

    def end(self) -> None:
        self._subject.recorder = NullRecorder()

    def explain(self, error: Exception) -> Exception:
        return error

    def close(self) -> dict[str, Any]:
        return {"bochs_seconds": round(self._subject.bochs_seconds, 3)}


def open_session(
    alias: str, host: Host, reach: Mapping[str, str], run_folder: Path | None, defects: Sequence[str] = ()
) -> HostSession:
    """The session for a host of the inventory, not opened yet.

    ``reach`` is what its launcher told of it, ``defects`` are seeded into the module under test.
    """
    if isinstance(host, BareHost):
        return BareSession(alias, host)
    return SshSession(alias, host, reach, run_folder, defects)
