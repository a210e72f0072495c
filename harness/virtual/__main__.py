"""``python -m harness.virtual``: one virtual host, switched on until it is told to quit or its parent is gone."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from harness.bochs.control import ControlSocket
from harness.errors import VmmcheckError
from harness.inventory import BochsHost, QemuHost
from harness.virtual.machines import Machine, machine_for

PR_SET_PDEATHSIG = 1
#: Bytes of a console that are told.
_TAIL = 200_000


def _die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent ends, however it ends: no emulator may be left behind."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == 1:
        sys.exit(0)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Board:
    """Power, console and account of one machine, by requests as an emulated host's board takes them."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self._machine = machine
        self._folder = folder
        self._lock = threading.Lock()
        self.stopped = threading.Event()

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request."""
        with self._lock:
            match request["op"]:
                case "power":
                    return self._power(request["do"])
                case "console":
                    return {"ok": True, "text": self._console()}
                case "account":
                    return {"ok": True, "bochs_seconds": self._machine.cpu_seconds()}
                case "quit":
                    self.stopped.set()
                    return {"ok": True}
        raise ValueError(f"unknown operation '{request['op']}'")

    def _power(self, what: str) -> dict[str, Any]:
        if what not in ("status", "on", "off", "cycle"):
            raise ValueError(f"unknown power verb '{what}'")
        try:
            if what in ("off", "cycle"):
                self._machine.off()
            if what in ("on", "cycle"):
                self._machine.on()
        except VmmcheckError as error:
            return {"ok": False, "error": str(error)}
        is_on = self._machine.is_on()
        return {"ok": True, "on": is_on, "why": "" if is_on else self._machine.why_off()}

    def _console(self) -> str:
        logs = sorted(self._folder.glob("serial.*"), key=lambda path: int(path.suffix[1:]))
        text = b"".join(path.read_bytes() for path in logs)
        return text[-_TAIL:].decode("utf-8", "replace")


def main() -> int:
    """Switch on, tell how to reach the host in ``ready.json`` at once (it boots meanwhile), serve."""
    parser = argparse.ArgumentParser(prog="python -m harness.virtual", description=__doc__)
    parser.add_argument("--entry", required=True, help="the host's entry in the inventory, as JSON")
    parser.add_argument("--state", type=Path, required=True, help="folder for disk changes, logs and ready.json")
    arguments = parser.parse_args()
    _die_with_parent()
    state: Path = arguments.state.resolve()
    state.mkdir(parents=True, exist_ok=True)
    adapter: TypeAdapter[BochsHost | QemuHost] = TypeAdapter(BochsHost | QemuHost)
    entry = adapter.validate_json(arguments.entry)
    port = _free_port()
    (state / "control").unlink(missing_ok=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    machine: Machine | None = None
    try:
        machine = machine_for(entry, state, port)
        board = Board(machine, state)
        signal.signal(signal.SIGTERM, lambda *_: board.stopped.set())
        machine.on()
        ControlSocket(state / "control", board.handle)
        ready = {"pid": os.getpid(), "address": "127.0.0.1", "port": port, "control": str(state / "control")}
        partial = state / "ready.partial"
        partial.write_text(json.dumps(ready, indent=1) + "\n", encoding="utf-8")
        partial.replace(state / "ready.json")
        board.stopped.wait()
    except VmmcheckError as error:
        print(error, file=sys.stderr)
        return 10
    finally:
        if machine is not None:
            machine.off()
        (state / "ready.json").unlink(missing_ok=True)
        # Hundreds of megabytes that speak of nothing any more; logs and consoles stay.
        for name in ("disk.changes", "disk.changes.lock", "disk.qcow2"):
            (state / name).unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
