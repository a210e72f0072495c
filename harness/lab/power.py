"""Power control: four verbs, whatever stands behind them."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any, Protocol

from harness.errors import InfraError


class PowerFailed(InfraError):
    """The board controller did not do what it was asked."""

    code = "INFRA-POWER"
    help = "Check the board controller of the host by hand; the host may be in any state."


class Power(Protocol):
    """Switches a host."""

    def cycle(self) -> None:
        """Off, then on; returns when power is on again, not when the host has booted."""

    def console(self) -> str:
        """What the host's console has shown since it was first switched on."""


class SimulatedPower:
    """The board controller of an emulated host, at the end of a local socket."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def cycle(self) -> None:
        self.ask({"op": "power", "do": "cycle"})

    def console(self) -> str:
        return str(self.ask({"op": "console"})["text"])

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request; raises :class:`PowerFailed`."""
        try:
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                    client.settimeout(30)
                    client.connect(f"/proc/self/fd/{folder}/{self._path.name}")
                    client.sendall(json.dumps(request).encode() + b"\n")
                    answer: dict[str, Any] = json.loads(client.makefile("r", encoding="utf-8").readline() or "{}")
            finally:
                os.close(folder)
        except (OSError, ValueError) as error:
            raise PowerFailed(f"The board controller at '{self._path.name}' does not answer: {error}.") from None
        if not answer.get("ok"):
            raise PowerFailed(f"The board controller refused {request}: {answer.get('error', 'no reason given')}.")
        return answer
