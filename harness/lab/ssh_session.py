"""A host behind SSH for the life of a worker: provisioned once, checked around every item, restored at the end."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import (
    CommandTimeout,
    GuestHang,
    HostHang,
    HostLost,
    HostPanic,
    HostResetUnexplained,
    HostUnready,
    InfraError,
    SshLost,
    SshUnreachable,
    VmmcheckError,
)
from harness.hosts import Host
from harness.lab.power import Power, SimulatedPower
from harness.recording import NullRecorder, Recorder
from harness.subjects import Platform, Subject
from harness.subjects.bhyve import BhyveSubject
from harness.timing import CLOCK, Deadline
from harness.transport import Endpoint, SshTransport, key_from_file

CONNECT_SECONDS = 30.0
#: How long a host may take to come back by itself, and after a power cycle.
COMEBACK_SECONDS = 20.0
BOOT_SECONDS = 60.0
#: Climbs of the recovery ladder before a host is given up.
MAX_CLIMBS = 8

STOCK_MODULE = "/boot/kernel/vmm.ko"
_WITNESS_MODULE = "vmmcheck_witness.ko"


def reference_module(defects: Sequence[str]) -> bytes:
    """The file that stands for a vmm.ko with seeded defects on an emulated host."""
    return "".join(f"{line}\n" for line in ("vmmcheck reference vmm.ko", *(f"defect {id}" for id in defects))).encode()


class SshSession:
    """Implements :class:`harness.lab.session.HostSession`.

    ``reach`` tells address, port, user, host key and identity, and for emulated hosts the board controller.
    """

    def __init__(
        self, platform: Platform, reach: Mapping[str, str], run_folder: Path | None, defects: Sequence[str] = ()
    ) -> None:
        self.platform = platform
        self._reach = reach
        self._power: Power | None = SimulatedPower(Path(reach["control"])) if "control" in reach else None
        self._owner = run_folder.name if run_folder is not None else "vmmcheck"
        self._folder = run_folder / "hosts" / platform.alias if run_folder is not None else None
        self._host: Host | None = None
        self._subject: BhyveSubject | None = None
        self._boot_id = ""
        self._defects = tuple(defects)
        self._module = STOCK_MODULE
        self._module_sha256 = ""
        self._climbs = 0
        self._channels = 0
        self._items = 0
        self._lost: HostLost | None = None

    # --- connection and provisioning -----------------------------------------------------------------------

    def open(self) -> dict[str, Any]:
        self._connect(Deadline.after(CONNECT_SECONDS))
        self._provision()
        return self._facts()

    def _connect(self, deadline: Deadline) -> Host:
        endpoint = Endpoint(
            self._reach["address"],
            int(self._reach["port"]),
            self._reach["user"],
            [key_from_file(self._reach["identity"])],
            [self._reach["host_key"]],
        )
        transport = SshTransport.connect(self.platform.alias, endpoint, deadline=deadline)
        self._host = Host(transport)
        return self._host

    @property
    def _connected(self) -> Host:
        if self._host is None:
            raise SshLost(f"There is no connection to '{self.platform.alias}'.")
        return self._host

    def _provision(self) -> None:
        """Private folder, module under test by path, witnesses; nothing else is changed on the host."""
        host = self._connected
        self._boot_id = host.boot_id()
        self._take_over()
        foreign = host.run("ls /dev/vmm").text.split()
        if foreign:
            raise HostUnready(
                f"Virtual machines that are not ours exist on '{self.platform.alias}': {', '.join(foreign)}.",
                help="End them or choose another host; vmmcheck does not touch machines of others.",
            )
        host.check(f"mkdir -p -m 700 {host.folder} && echo {self._owner} >{host.folder}/owner")
        if self._defects:
            # Never over the stock module: a reset comes back to that one by itself.
            self._module = f"{host.folder}/vmm.ko"
            host.put(self._module, reference_module(self._defects))
        self._module_sha256 = host.load(self._module)
        if "witness" in self.platform.capabilities:
            host.put(f"{host.folder}/{_WITNESS_MODULE}", b"vmmcheck witness.ko\n")
            host.check(f"kldload {host.folder}/{_WITNESS_MODULE}")
            host.put(f"{host.folder}/vmmwitness", b"vmmcheck vmmwitness\n", mode="755")
        self._subject = BhyveSubject(self.platform, host)

    def _take_over(self) -> None:
        """What a worker of this very run left behind when it died is ours to clear away; another run's is not."""
        host = self._connected
        owner = host.run(f"cat {host.folder}/owner").text
        if not owner:
            return
        if owner != self._owner:
            raise HostUnready(
                f"'{self.platform.alias}' is in use by run '{owner}' (its folder {host.folder} exists).",
                help=f"Wait for that run; if it is dead, remove {host.folder} and unload vmm on the host.",
            )
        for name in host.run("ls /dev/vmm").text.split():
            host.run(f"bhyvectl --vm={shlex.quote(name)} --destroy")
        host.run(f"kldunload {_WITNESS_MODULE}; kldunload vmm; rm -rf {host.folder}")

    def _facts(self) -> dict[str, Any]:
        return {
            "heading": self.platform.heading,
            "label": "EMULATED" if self.platform.emulated else "",
            "boot_id": self._boot_id,
            "vmm_path": self._module,
            "defects": list(self._defects),
            "vmm_sha256": self._module_sha256,
            **self._connected.collect_facts(),
        }

    # --- around an item -----------------------------------------------------------------------------------------

    def begin(self, recorder: Recorder) -> Subject:
        if self._lost is not None:
            raise self._lost
        host, subject = self._connected, self._subject
        if subject is None or not host.transport.alive():
            raise SshLost(f"The connection to '{self.platform.alias}' was gone before the item began.")
        host.transport.recorder = recorder
        subject.recorder = recorder
        self._items += 1
        return subject

    def end(self) -> None:
        """The same boot, our module, no machine left over: one round trip."""
        host = self._connected
        command = "sysctl -n kern.boot_id; kldstat -v -n vmm.ko | grep -cF ' (%s)'; ls /dev/vmm 2>/dev/null"
        result = host.run(command % self._module)
        lines = result.text.split("\n")
        host.transport.recorder = NullRecorder()
        if lines[0] != self._boot_id:
            raise SshLost(f"'{self.platform.alias}' has another boot identifier than before the item: {lines[0]!r}.")
        if lines[1:2] != ["1"]:
            raise HostUnready(f"The loaded vmm.ko is not '{self._module}' any more: {result.text!r}.")
        if lines[2:]:
            raise InfraError(f"Virtual machines were left over: {' '.join(lines[2:])}.")

    # --- when something went wrong -------------------------------------------------------------------------------

    def explain(self, error: Exception) -> Exception:
        """Tell product from lab by the boot identifier, and bring the host back for the next item."""
        if not isinstance(error, (SshLost, SshUnreachable, CommandTimeout, GuestHang)) or self._lost is not None:
            return error
        self._note("trouble", error=str(error))
        if self._climbs >= MAX_CLIMBS:
            return self._give_up(f"'{self.platform.alias}' needed recovery {MAX_CLIMBS} times in this run.", error)
        self._climbs += 1
        before = self._boot_id
        try:
            cycled = self._come_back()
            after = self._connected.boot_id()
            if after == before:
                self._tidy()
                return error
            verdict = self._verdict(cycled, error)
            self._provision()
        except VmmcheckError as problem:
            return self._give_up(f"'{self.platform.alias}' could not be brought back: {problem.message}", error)
        return verdict

    def _give_up(self, message: str, error: Exception) -> HostLost:
        self._lost = HostLost(message)
        self._note("lost", message=message)
        self._lost.__cause__ = error
        return self._lost

    def _come_back(self) -> bool:
        """Climb: a new connection; then a power cycle. True when the second was needed."""
        if self._host is not None:
            self._host.transport.close()
        if self._reconnect(COMEBACK_SECONDS):
            return False
        if self._power is None:
            raise SshUnreachable(f"'{self.platform.alias}' does not answer and has no power control.")
        self._note("power-cycle")
        self._power.cycle()
        if not self._reconnect(BOOT_SECONDS):
            raise SshUnreachable(f"'{self.platform.alias}' does not answer after a power cycle.")
        return True

    def _reconnect(self, seconds: float) -> bool:
        deadline = Deadline.after(seconds)
        while not deadline.expired():
            try:
                self._connect(deadline.at_most(5)).boot_id()
            except (SshUnreachable, SshLost, CommandTimeout):
                CLOCK.sleep(0.1)
                continue
            self._note("connected")
            return True
        return False

    def _verdict(self, cycled: bool, error: Exception) -> HostPanic:
        host = self._connected
        dump = host.run("ls /var/crash").text.split()
        trace = next((name for name in reversed(dump) if name.startswith("info.")), "")
        text = host.run(f"cat /var/crash/{trace}").text if trace else ""
        self._save_crash(dump)
        if cycled:
            return HostHang(f"'{self.platform.alias}' stopped answering and needed a power cycle; before: {error}")
        if text:
            host.run("rm -f /var/crash/info.* /var/crash/core.txt.*")
            return HostPanic(f"'{self.platform.alias}' panicked while the item ran: {text}")
        return HostResetUnexplained(
            f"'{self.platform.alias}' came back with another boot identifier and left no trace of why."
        )

    def _save_crash(self, names: list[str]) -> None:
        if self._folder is None:
            return
        target = self._folder / "crash"
        target.mkdir(parents=True, exist_ok=True)
        for name in names:
            result = self._connected.run(f"cat /var/crash/{shlex.quote(name)}")
            (target / f"{self._climbs}-{name}").write_bytes(result.stdout)
        if self._power is not None:
            (target / f"{self._climbs}-console.log").write_text(self._power.console(), encoding="utf-8")

    def _tidy(self) -> None:
        """The same boot: remove what the item left, and go on with a fresh connection."""
        host = self._connected
        for name in host.run("ls /dev/vmm").text.split():
            host.run(f"bhyvectl --vm={shlex.quote(name)} --destroy")
        self._subject = BhyveSubject(self.platform, host)

    def _note(self, rung: str, **data: Any) -> None:
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            entry = {"at": round(time.time(), 3), "rung": rung, "climb": self._climbs, **data}
            with (self._folder / "ladder.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry) + "\n")

    # --- end ---------------------------------------------------------------------------------------------------------

    def close(self) -> dict[str, Any]:
        """Unload what we loaded, remove our folder; what was spent, for the report."""
        if self._host is None:
            return {}
        host = self._host
        spent = {"channels": getattr(host.transport, "channels", 0), "items": self._items}
        try:
            if host.transport.alive() and self._lost is None:
                if "witness" in self.platform.capabilities:
                    host.run("kldunload vmmcheck_witness.ko")
                host.run(f"kldunload vmm; rm -rf {host.folder}")
        finally:
            host.transport.close()
        return spent
