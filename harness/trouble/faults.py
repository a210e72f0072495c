"""What is broken, when it can be, and what may come of it."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HostHang, HostPanic, HostResetUnexplained
from harness.trouble.standing import StandingHost


@dataclass(frozen=True, slots=True)
class Moment:
    """The host's call number 1 to ``most`` of ``program``; the fault strikes up to ``later`` seconds behind it.

    ``in_item`` says whether an item, and so the hypervisor, is at work then. ``loading``: the module under test is
    being loaded then, or before what happened can be noticed; that can take a host down as well.
    """

    program: str
    most: int = 1
    later: float = 0.0
    in_item: bool = False
    loading: bool = False


MOMENTS = {
    "looking": Moment("uname", loading=True),
    "uploading": Moment("chmod", loading=True),
    "loading": Moment("kldload", loading=True),
    "starting": Moment("bhyve", 4, in_item=True),
    "running": Moment("bhyve", 4, later=0.3, in_item=True),
    "reading": Moment("dd", 6, in_item=True),
    "asking": Moment("bhyvectl", 6, in_item=True),
    "behind": Moment("tail", 4, in_item=True),
    "restoring": Moment("kldunload"),
}
ALWAYS = tuple(MOMENTS)
IN_ITEM = tuple(name for name, moment in MOMENTS.items() if moment.in_item)


@dataclass(frozen=True, slots=True)
class Run:
    """The run that is going on: its process and where it writes."""

    pid: int
    folder: Path


#: What a fault does to a host while a run goes on.
Strike = Callable[[StandingHost, Run], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """``strike`` at one of ``moments``, or ``before`` the run; ``mend`` after so many seconds.

    ``panics`` are the codes that one cell of the hit host may have as PANIC. ``kills_run``: the run does not tell
    anything any more, and the next one is what is judged. ``refused``: the host cannot be used, and its first cell
    says so with one of ``says`` in it. ``keeps``: the host is as it was found although the run could do nothing.
    ``told``: what was not put back has to stand in the results. ``status``: the exit status it has to have.
    """

    name: str
    strike: Strike | None = None
    moments: tuple[str, ...] = ()
    before: Callable[[StandingHost], None] | None = None
    panics: tuple[str, ...] = ()
    kills_run: bool = False
    says: str = ""
    told: str = ""
    status: int | None = None
    run_size: int = 0


def _misbehave(kind: str, **more: object) -> Strike:
    def strike(host: StandingHost, run: Run) -> None:
        host.board.ask({"op": "misbehave", "kind": kind, **more})

    return strike


def _kill_emulator(host: StandingHost, run: Run) -> None:
    os.kill(int(host.board.ask({"op": "account"})["bochs_pid"]), signal.SIGKILL)


def _kill_run(host: StandingHost, run: Run) -> None:
    os.kill(run.pid, signal.SIGKILL)


def _end_run(host: StandingHost, run: Run) -> None:
    os.kill(run.pid, signal.SIGTERM)


def _kill_worker(host: StandingHost, run: Run) -> None:
    """The process below the run that holds a connection to the host."""
    for pid in children(run.pid):
        if _connected(pid, int(host.told["port"])):
            os.kill(pid, signal.SIGKILL)
            return


def _short_outage(host: StandingHost, run: Run) -> None:
    _misbehave("outage")(host, run)
    # Shorter than the host has to come back, longer than a connection takes to notice.
    threading.Timer(3.0, lambda: _misbehave("behave")(host, run)).start()


def _fill_disk(host: StandingHost, run: Run) -> None:
    """Leave no room on the file system that the run writes to."""
    with suppress(OSError), (run.folder / "filler").open("wb") as stream:
        while True:
            stream.write(bytes(1 << 16))
            stream.flush()


def _foreign_machine(host: StandingHost, run: Run | None = None) -> None:
    with suppress(Exception):
        host.run("kldload vmm 2>/dev/null; bhyvectl --vm=precious --create")


def _preload(host: StandingHost) -> None:
    host.run("cp /boot/kernel/vmm.ko /boot/modules/vmm.ko; kldload /boot/modules/vmm.ko; kldload cpuctl")


def _wrong_processor(host: StandingHost) -> None:
    host.board.ask({"op": "misbehave", "kind": "wrong-cpu"})
    host.board.cycle()
    host.await_boot()


_DOWN = (HostPanic.code, HostResetUnexplained.code, HostHang.code)

FAULTS = {
    fault.name: fault
    for fault in (
        Fault("panic", _misbehave("panic"), ALWAYS, panics=_DOWN),
        Fault("reset", _misbehave("reset"), ALWAYS, panics=_DOWN),
        Fault("hang", _misbehave("hang"), ALWAYS, panics=_DOWN),
        Fault("emulator-killed", _kill_emulator, ALWAYS, panics=_DOWN),
        Fault("worker-killed", _kill_worker, ALWAYS),
        Fault("controller-killed", _kill_run, ALWAYS, kills_run=True),
        Fault("controller-ended", _end_run, ALWAYS, status=2),
        Fault("link-cut", _misbehave("drop-link"), ALWAYS),
        Fault("outage-short", _short_outage, ALWAYS),
        Fault("outage", _misbehave("outage"), ALWAYS, told="*"),
        Fault("disk-full", _misbehave("full-disk"), ALWAYS, told="*"),
        Fault("controller-disk-full", _fill_disk, ALWAYS, run_size=72),
        Fault("foreign-machine", before=_foreign_machine, says="not ours"),
        Fault("foreign-machine-later", _foreign_machine, IN_ITEM, told="precious"),
        Fault("module-loaded", before=_preload),
        Fault("module-busy", _misbehave("busy-module"), ("running", "restoring"), told="cannot be unloaded"),
        Fault("clock-forward", _misbehave("clock", seconds=7200), ALWAYS),
        Fault("clock-back", _misbehave("clock", seconds=-7200), ALWAYS),
        Fault("wrong-processor", before=_wrong_processor, says="declares"),
        Fault("new-host-key", _misbehave("new-host-key"), ALWAYS, told="*"),
    )
}


def children(pid: int) -> list[int]:
    """All processes below ``pid``."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):
            fields = path.read_text(encoding="utf-8").rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, queue = [], [pid]
    while queue:
        below = parents.get(queue.pop(), [])
        found += below
        queue += below
    return found


def _connected(pid: int, port: int) -> bool:
    """Whether a process has a TCP connection to ``port`` of this machine (``/proc/net/tcp``)."""
    there = socket.inet_aton("127.0.0.1")[::-1].hex().upper() + f":{port:04X}"
    sockets = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()
        if fields[2] == there:
            sockets.add(f"socket:[{fields[9]}]")
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            if str(path.readlink()) in sockets:
                return True
    return False
