"""``python -m harness.emulated``: one emulated host, until it is told to quit or its parent is gone."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
from pathlib import Path

from filelock import FileLock, Timeout

from harness.emulated.bmc import BoardController
from harness.emulated.commands_base import BasePrograms
from harness.emulated.commands_bhyve import BhyvePrograms
from harness.emulated.commands_debug import DebugPrograms
from harness.emulated.commands_dtrace import DtracePrograms
from harness.emulated.commands_kernel import KernelPrograms
from harness.emulated.commands_users import UserPrograms
from harness.emulated.commands_witness import WitnessPrograms
from harness.emulated.host import EmulatedHost
from harness.emulated.sshd import USER, SshServer, fingerprint
from harness.errors import VmmcheckError
from harness.garbage import search_seldom

PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent ends, however it ends: no emulator may be left behind."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == 1:
        sys.exit(0)


def build_host(vendor: str, state: Path) -> EmulatedHost:
    """A host with all its programs, switched off."""
    host = EmulatedHost(vendor, state)
    kernel = KernelPrograms(host)
    host.programs.update(BasePrograms(host).table())
    host.programs.update(kernel.table())
    host.programs.update(WitnessPrograms(host).table())
    host.programs.update(UserPrograms(host).table())
    host.programs.update(BhyvePrograms(host, kernel).table())
    host.programs.update(DtracePrograms(host).table())
    host.programs.update(DebugPrograms(host).table())
    return host


def main() -> int:
    """Start, tell how to reach the host in ``ready.json``, serve."""
    parser = argparse.ArgumentParser(prog="python -m harness.emulated", description=__doc__)
    parser.add_argument("--model", choices=("intel", "amd"), required=True)
    parser.add_argument("--state", type=Path, required=True, help="folder for keys, logs and ready.json")
    arguments = parser.parse_args()
    _die_with_parent()
    state: Path = arguments.state
    state.mkdir(parents=True, exist_ok=True)
    lock = FileLock(state / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"Another emulated host already uses '{state}'; choose another folder with --state.", file=sys.stderr)
        return 4
    host = build_host(arguments.model, state)
    server = SshServer(host, state / "keys")
    host.cut_links = server.cut
    (state / "control").unlink(missing_ok=True)
    controller = BoardController(host, server, state / "control")
    signal.signal(signal.SIGTERM, lambda *_: controller.stopped.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        host.boot()
        ready = {
            "label": "EMULATED",
            "pid": os.getpid(),
            "bochs_pid": host.machine.pid,
            "address": "127.0.0.1",
            "port": server.port,
            "user": USER,
            "host_key": fingerprint(server.host_key),
            "identity": str(server.identity.resolve()),
            "control": str((state / "control").resolve()),
        }
        partial = state / "ready.partial"
        partial.write_text(json.dumps(ready, indent=1) + "\n", encoding="utf-8")
        partial.replace(state / "ready.json")
        search_seldom()
        controller.stopped.wait()
    except VmmcheckError as error:
        print(error, file=sys.stderr)
        return 10
    finally:
        host.machine.power_off()
        (state / "ready.json").unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
