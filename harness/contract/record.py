"""Records the scripts on one host of a lab, whatever its kind."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from harness.contract.scripts import SCRIPTS
from harness.contract.transcript import Transcript
from harness.errors import ConfigError, HostUnready
from harness.guest import Program
from harness.hosts import Host as HostConnection
from harness.inventory import BareHost, Host
from harness.lab import Launcher, open_session, platform_of
from harness.lab.lease import Lease
from harness.lab.reach import reach_of
from harness.recording import NullRecorder
from harness.timing import Deadline
from harness.transport import SshTransport

#: Name of the recorded guest run, a JSON file: its steps and the console.
GUEST = "guest-run.json"


class _Steps(NullRecorder):
    """Keeps commands as they are told."""

    def __init__(self) -> None:
        self.steps: list[dict[str, object]] = []

    def add_command(
        self, argv: str, status: int | None, stdout: bytes, stderr: bytes, started: float, seconds: float
    ) -> None:
        out, err = stdout.decode("latin-1"), stderr.decode("latin-1")
        self.steps.append({"command": argv, "status": status, "stdout": out, "stderr": err})


def record_host(alias: str, entry: Host, out: Path, tell: Callable[[str], None]) -> list[str]:
    """Run every script and one guest on a host; ``out`` gets a file each. Names of what was recorded.

    Raises :class:`ConfigError` for a host without a command line, :class:`HostUnready` when vmm is loaded there (the
    scripts load and unload it, which is not ours to do then), and whatever the host makes of it.
    """
    if isinstance(entry, BareHost):
        raise ConfigError(f"'{alias}' is a bare run: there is no command line to record.")
    out.mkdir(parents=True, exist_ok=True)
    launcher = Launcher()
    with tempfile.TemporaryDirectory(prefix="vmmcheck-record-") as name:
        folder = Path(name)
        try:
            told = launcher.start({alias: entry}, folder).get(alias, {})
            reach = reach_of(alias, entry, told)
            session = open_session(alias, entry, told, folder)
            # First the guest: a session waits for a host that is still coming up.
            tell(f"guest run on {platform_of(alias, entry).heading}")
            session.open()
            try:
                steps = _Steps()
                program = Program("transcript")
                program.exit("cpuid", 3)
                program.snapshot()
                session.begin(steps).run(program)
                session.end()
            finally:
                session.close()
            (out / GUEST).write_text(json.dumps(steps.steps, indent=1) + "\n", encoding="utf-8")
            deadline = Deadline.after(reach.timeouts.connect)
            transport = SshTransport.connect(alias, reach.endpoint, deadline=deadline, become=reach.become)
            try:
                host = HostConnection(transport, patience=reach.timeouts.patience)
                _record_scripts(host, alias, out, tell)
            finally:
                transport.close()
        finally:
            launcher.stop()
    return [*SCRIPTS, Path(GUEST).stem]


def _record_scripts(host: HostConnection, alias: str, out: Path, tell: Callable[[str], None]) -> None:
    lease = Lease(host, "record")
    lease.take(host.boot(), Deadline.after(30))
    try:
        if host.run("kldstat -q -n vmm.ko").status == 0:
            raise HostUnready(f"vmm is loaded on '{alias}'; the scripts load and unload it themselves.")
        for name, script in SCRIPTS.items():
            tell(name)
            result = host.try_change(script, seconds=120)
            release = host.run("uname -sr").text if name == "boot-id" else ""
            head = (f"{alias}: {name}", f"status {result.status}", *((release,) if release else ()))
            errors = result.errors + "\n" if result.errors else ""
            transcript = Transcript(name, head, script, result.text + "\n", errors)
            (out / f"{name}.txt").write_text(transcript.text(), encoding="utf-8")
    finally:
        lease.release()
