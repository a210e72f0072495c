"""The board controller of an emulated host: power, console and misbehaviour on request, over a local socket.

One JSON object a line in, one out. It works whatever state the host is in. A *watch* holds the host's next call of a
program, so that misbehaviour can be asked for at that very moment.
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
from harness.emulated.vfs import DEFAULT_SIZE
from harness.emulated.watch import Watch
from harness.errors import EmulatorFailed

_KINDS = {"panic": 1, "hang": 2, "reset": 3, "stuck-cpu": 4}


class BoardController:
    """Serves ``path``; ``stopped`` is set by the request to quit."""

    def __init__(self, host: EmulatedHost, server: SshServer, path: Path) -> None:
        self._host = host
        self._server = server
        self.stopped = threading.Event()
        self._watch: Watch | None = None
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
                machine = self._host.machine
                return {"ok": True, "bochs_seconds": machine.cpu_seconds(), "bochs_pid": machine.pid}
            case "watch":
                self._unwatch()
                self._watch = Watch(self._host.programs, request["program"], int(request["nth"]))
                return {"ok": True}
            case "await":
                watch = self._watch
                return {"ok": True, "hit": watch is not None and watch.hit.wait(float(request["seconds"]))}
            case "go":
                self._unwatch()
                return {"ok": True}
            case "quit":
                self.stopped.set()
                return {"ok": True}
        raise ValueError(f"unknown operation '{request['op']}'")

    def _unwatch(self) -> None:
        if self._watch is not None:
            self._watch.remove()
        self._watch = None

    def _power(self, what: str) -> dict[str, Any]:
        host = self._host
        if what in ("off", "cycle"):
            host.shutdown()
        if what in ("on", "cycle") and not host.machine.is_on:
            self._server.refuse = self._server.mute = False
            threading.Thread(target=host.boot, daemon=True).start()
        return {"ok": True, "on": host.machine.is_on}

    def _misbehave(self, kind: str, request: dict[str, Any]) -> dict[str, Any]:
        host = self._host
        match kind:
            case "panic" | "hang" | "stuck-cpu":
                # No answer will come from a kernel that goes down.
                self._server.mute = kind == "hang"
                threading.Thread(target=self._tell_kernel, args=(_KINDS[kind],), daemon=True).start()
            case "reset":
                threading.Thread(target=host.crash, args=("",), daemon=True).start()
            case "drop-link":
                self._server.refuse = bool(request.get("for_good", False))
                self._server.cut()
            case "outage":
                # The network, not the host: switching the power changes nothing about it.
                self._server.outage = True
                self._server.cut()
            case "new-host-key":
                self._server.show_key("other_host_key")
                self._server.cut()
            case "busy-module":
                host.module_busy = True
            case "clock":
                host.clock_offset = float(request["seconds"])
            case "behave":
                self._server.outage = self._server.refuse = self._server.mute = host.module_busy = False
                self._server.show_key("host_key")
                host.clock_offset, host.boot_delay, host.declared_cpu = 0.0, 0.0, None
                host.files.size = DEFAULT_SIZE
            case "full-disk":
                host.files.size = host.files.used() // 2
            case "slow-boot":
                host.boot_delay = float(request.get("seconds", 3))
            case "wrong-cpu":
                other = {"intel": "AuthenticAMD", "amd": "GenuineIntel"}[host.vendor]
                host.declared_cpu = (other, "vmmcheck wrong CPU")
            case _:
                raise ValueError(f"unknown misbehaviour '{kind}'")
        return {"ok": True}

    def _tell_kernel(self, number: int) -> None:
        with suppress(EmulatorFailed):
            self._host.machine.request(Code.MISBEHAVE, number.to_bytes(4, "little"), seconds=1)
