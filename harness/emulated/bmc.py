"""The board controller of an emulated host: power, console and misbehaviour on request, over a local socket.

One JSON object a line in, one out. It works whatever state the host is in.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.bochs.control import ControlSocket
from harness.emulated.ctl import Code
from harness.emulated.host import EmulatedHost
from harness.emulated.sshd import SshServer
from harness.errors import EmulatorFailed

_KINDS = {"panic": 1, "hang": 2, "reset": 3}


class BoardController:
    """Serves ``path``; ``stopped`` is set by the request to quit."""

    def __init__(self, host: EmulatedHost, server: SshServer, path: Path) -> None:
        self._host = host
        self._server = server
        self.stopped = threading.Event()
        self._socket = ControlSocket(path, self.handle)

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request."""
        match request["op"]:
            case "power":
                return self._power(request["do"])
            case "misbehave":
                return self._misbehave(request["kind"], request)
            case "console":
                return {"ok": True, "text": "".join(f"{line}\n" for line in self._host.console)}
            case "account":
                return {"ok": True, "bochs_seconds": self._host.machine.cpu_seconds()}
            case "quit":
                self.stopped.set()
                return {"ok": True}
        raise ValueError(f"unknown operation '{request['op']}'")

    def _power(self, what: str) -> dict[str, Any]:
        host = self._host
        if what in ("off", "cycle"):
            host.shutdown()
        if what in ("on", "cycle") and not host.machine.is_on:
            self._server.refuse = False
            threading.Thread(target=host.boot, daemon=True).start()
        return {"ok": True, "on": host.machine.is_on}

    def _misbehave(self, kind: str, request: dict[str, Any]) -> dict[str, Any]:
        host = self._host
        match kind:
            case "panic" | "hang":
                # No answer will come from a kernel that goes down.
                threading.Thread(target=self._tell_kernel, args=(_KINDS[kind],), daemon=True).start()
            case "reset":
                threading.Thread(target=host.crash, args=("",), daemon=True).start()
            case "drop-link":
                self._server.refuse = bool(request.get("for_good", False))
                self._server.cut()
            case "full-disk":
                host.files.size = host.files.used()
            case "slow-boot":
                host.boot_delay = float(request.get("seconds", 3))
            case "wrong-cpu":
                host.declared_cpu = ("GenuineIntel", "vmmcheck wrong CPU")
            case _:
                raise ValueError(f"unknown misbehaviour '{kind}'")
        return {"ok": True}

    def _tell_kernel(self, number: int) -> None:
        with suppress(EmulatorFailed):
            self._host.machine.request(Code.MISBEHAVE, number.to_bytes(4, "little"), seconds=1)
