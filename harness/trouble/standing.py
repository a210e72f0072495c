"""Emulated hosts that outlive runs, reached as FreeBSD machines are: what a run leaves behind can be looked at."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from harness.hosts import Host, collect_facts
from harness.hosts.modules import parse_kldstat
from harness.inventory import EmulatedHost
from harness.lab import Launcher
from harness.lab.power import SimulatedPower
from harness.lab.reach import reach_of
from harness.timing import Deadline
from harness.transport import SshTransport

#: Seconds that a host gets to answer again, and to boot.
COMEBACK, BOOT = 8, 40

_ENTRY = """
[host.{alias}]
kind = "freebsd"
address = "{address}"
port = {port}
identity = {{ file = "{identity}" }}
host_keys = ["{host_key}"]
cpu = {{ vendor = "{vendor}", family = {family}, model = {model}, stepping = {stepping}, class = "{alias}" }}
power = {{ kind = "command", on = {on}, off = {off}, status = {status}, is_on = "is on", off_seconds = 20 }}
console = {{ kind = "command", command = {console} }}
timeouts = {{ connect = 6, comeback = {comeback}, boot = {boot}, lease = 1, patience = 2 }}
"""
#: What must be the same before and after a run.
_STATE = {
    "modules": "kldstat -v",
    "machines": "ls /dev/vmm 2>/dev/null",
    "root": "ls /root",
    "hidden": "for name in .vmmcheck .vmmcheck.lease .vmmcheck.found; do test ! -e /root/$name || echo $name; done",
    "processes": "ps -ax | grep bhyve",
    "kenv": "kenv",
}


@dataclass(frozen=True, slots=True)
class State:
    """A host as a user of it sees it: answer by what was asked."""

    answers: dict[str, str]

    def differences(self, other: State) -> list[str]:
        """What ``other`` shows that is not so here."""
        return [
            f"{name}: {self.answers[name]!r} before, {other.answers[name]!r} after"
            for name in self.answers
            if self.answers[name] != other.answers[name]
        ]


class StandingHost:
    """One emulated host of ``vendor`` below ``folder``, until :meth:`stop`."""

    def __init__(self, alias: str, vendor: str, folder: Path) -> None:
        self.alias, self.vendor = alias, vendor
        self._launcher = Launcher()
        self._entry = EmulatedHost.model_validate({"kind": "emulated", "vendor": vendor})
        self.told = self._launcher.start({alias: self._entry}, folder)[alias]
        self.board = SimulatedPower(Path(self.told["control"]))

    def entry(self) -> str:
        """Its part of an inventory."""
        host = self.connect()
        try:
            cpu = collect_facts(host).cpu
        finally:
            host.transport.close()
        tool = [sys.executable, "-m", "harness.trouble.board", self.told["control"]]
        words = {name: _toml([*tool, name]) for name in ("on", "off", "status", "console")}
        return _ENTRY.format(
            alias=self.alias, vendor=cpu.vendor, family=cpu.family, model=cpu.model, stepping=cpu.stepping,
            comeback=COMEBACK, boot=BOOT, **words,
            **{name: self.told[name] for name in ("address", "port", "identity", "host_key")},
        )  # fmt: skip

    def connect(self) -> Host:
        """A connection of our own, as any other user has."""
        endpoint = reach_of(self.alias, self._entry, self.told).endpoint
        return Host(SshTransport.connect(self.alias, endpoint, deadline=Deadline.after(20)))

    def run(self, script: str) -> str:
        """The output of a script there; raises what happens to it."""
        host = self.connect()
        try:
            return host.check(script).text
        finally:
            host.transport.close()

    def state(self) -> State:
        """The host now."""
        host = self.connect()
        try:
            answers = {name: one.text for name, one in host.ask(_STATE).items()}
        finally:
            host.transport.close()
        # The kernel gives a module that is loaded again another number and address.
        answers["modules"] = " ".join(sorted(file.path for file in parse_kldstat(answers["modules"])))
        return State(answers)

    def make_clean(self) -> None:
        """Switch it off and on, and take away whatever is ours: the next trial begins as the first one did."""
        self.board.ask({"op": "go"})
        self.board.ask({"op": "misbehave", "kind": "behave"})
        self.board.cycle()
        self.await_boot()
        self.run("rm -rf /root/.vmmcheck /root/.vmmcheck.lease /root/.vmmcheck.found")

    def await_boot(self) -> None:
        """Until it answers; raises what stands against that."""
        limit = Deadline.after(BOOT)
        while True:
            try:
                self.run("true")
            except Exception:
                if limit.expired():
                    raise
                continue
            return

    def stop(self) -> None:
        self._launcher.stop()


def _toml(words: list[str]) -> str:
    return "[" + ", ".join(f'"{word}"' for word in words) + "]"
