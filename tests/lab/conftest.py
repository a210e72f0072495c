"""A real sshd, and emulated hosts shared by the tests of a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.guest import Program
from harness.hosts import Host
from harness.inventory import EmulatedHost
from harness.lab import Launcher
from harness.lab.power import SimulatedPower
from harness.lab.reach import reach_of
from harness.lab.ssh_session import SshSession
from harness.recording import NullRecorder
from harness.timing import Deadline
from harness.transport import SshTransport
from tests.sshd import sshd, transport

__all__ = ["sshd", "transport"]


def quiet(*, phases: int = 0) -> Program:
    program = Program("quiet")
    for phase in range(1, phases + 1):
        program.sync(phase)
    program.exit("cpuid", 3)
    return program


class Notes(NullRecorder):
    """Keeps files, notes and command texts."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.notes: list[str] = []
        self.commands: list[str] = []

    def add_file(self, name: str, data: bytes) -> None:
        self.files[name] = data

    def add_note(self, text: str) -> None:
        self.notes.append(text)

    def add_command(
        self, argv: str, status: int | None, stdout: bytes, stderr: bytes, started: float, seconds: float
    ) -> None:
        self.commands.append(argv)


class EmulatedLab:
    """One emulated host, and sessions on it."""

    def __init__(self, entry: EmulatedHost, told: dict[str, str], folder: Path) -> None:
        self.entry = entry
        self.told = told
        self.folder = folder
        self.board = SimulatedPower(Path(told["control"]))
        self._runs = 0

    def session(self, run: str = "", defects: tuple[str, ...] = ()) -> SshSession:
        """A session of a run of its own."""
        self._runs += 1
        return SshSession("emulated", self.entry, self.told, self.folder / (run or f"run{self._runs}"), defects)

    def host(self) -> Host:
        """Another connection to it, as any other user has."""
        endpoint = reach_of("emulated", self.entry, self.told).endpoint
        return Host(SshTransport.connect("emulated", endpoint, deadline=Deadline.after(20)))


def other_state(lab: EmulatedLab) -> str:
    """Modules, and the files of ours."""
    host = lab.host()
    try:
        return host.check("kldstat -v; ls /root; ls -d /root/.vmmcheck /root/.vmmcheck.found; true").text
    finally:
        host.transport.close()


@pytest.fixture(scope="session")
def start_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], EmulatedLab]]:
    """Starts an emulated host of a vendor; all of them end with the tests."""
    launchers: list[Launcher] = []

    def start(vendor: str) -> EmulatedLab:
        launcher = Launcher()
        launchers.append(launcher)
        folder = tmp_path_factory.mktemp(f"lab-{vendor}")
        entry = EmulatedHost.model_validate({"kind": "emulated", "vendor": vendor})
        return EmulatedLab(entry, launcher.start({"emulated": entry}, folder)["emulated"], folder)

    yield start
    for launcher in launchers:
        launcher.stop()


@pytest.fixture(scope="session")
def amd(start_host: Callable[[str], EmulatedLab]) -> EmulatedLab:
    return start_host("amd")
