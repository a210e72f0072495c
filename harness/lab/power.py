"""Power control: a few verbs, whatever stands behind them. Off is proven before on is tried."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from harness.errors import InfraError
from harness.inventory.model import CommandPower as CommandPowerEntry
from harness.timing import Deadline, wait_until

#: Seconds for one command of a board controller.
_COMMAND_SECONDS = 60


class PowerFailed(InfraError):
    """The board controller did not do what it was asked."""

    code = "INFRA-POWER"
    help = "Check the board controller of the host by hand; the host may be in any state."


class Power(Protocol):
    """Switches a host. Every verb raises :class:`PowerFailed`."""

    def is_on(self) -> bool: ...

    def on(self) -> None: ...

    def off(self) -> None:
        """Returns when the power is off, proven."""

    def cycle(self) -> None:
        """Off, then on; returns when power is on again, not when the host has booted."""


class SimulatedPower:
    """The board controller of an emulated host, at the end of a local socket; it records the console as well."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def is_on(self) -> bool:
        return bool(self.ask({"op": "power", "do": "status"})["on"])

    def on(self) -> None:
        self.ask({"op": "power", "do": "on"})

    def off(self) -> None:
        self.ask({"op": "power", "do": "off"})
        if self.is_on():
            raise PowerFailed("The emulated machine is still on.")

    def cycle(self) -> None:
        self.ask({"op": "power", "do": "cycle"})

    def console(self) -> str:
        """What the host's console has shown since it was first switched on."""
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


class CommandPower:
    """Commands of the controller's (ipmitool, a PDU's client); the secret reaches them in the environment only."""

    def __init__(self, entry: CommandPowerEntry) -> None:
        self._entry = entry

    def is_on(self) -> bool:
        return re.search(self._entry.is_on, self._run(self._entry.status)) is not None

    def on(self) -> None:
        self._run(self._entry.on)

    def off(self) -> None:
        self._run(self._entry.off)
        limit = Deadline.after(self._entry.off_seconds)
        # Controllers answer before the power is gone; switching on too early is swallowed.
        wait_until(lambda: not self.is_on(), limit, "the power to be off", interval=1.0, error=PowerFailed)

    def cycle(self) -> None:
        self.off()
        self.on()

    def _run(self, argv: tuple[str, ...]) -> str:
        environment = dict(os.environ)
        if self._entry.secret is not None:
            environment[self._entry.secret_env] = self._entry.secret.resolve().get_secret_value()
        try:
            done = subprocess.run(
                argv, capture_output=True, text=True, check=False, timeout=_COMMAND_SECONDS, env=environment,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PowerFailed(f"'{argv[0]}' could not be run: {type(error).__name__}.") from None
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip()[:200]
            raise PowerFailed(f"'{argv[0]}' ended with status {done.returncode}: {said or 'no message'}.")
        return done.stdout


class ManualPower:
    """A person at the machine. Without a terminal there is nobody to ask, which is told and not waited for."""

    def __init__(self, name: str, ask: Callable[[str], str] | None = None) -> None:
        self._name = name
        self._ask = ask or _ask_on_terminal

    def is_on(self) -> bool:
        return self._ask(f"Is '{self._name}' switched on? [y/n] ").strip().lower().startswith("y")

    def on(self) -> None:
        self._ask(f"Switch '{self._name}' on, then press Enter. ")

    def off(self) -> None:
        self._ask(f"Switch '{self._name}' off, then press Enter. ")

    def cycle(self) -> None:
        self._ask(f"Switch '{self._name}' off and on again, then press Enter. ")


def _ask_on_terminal(question: str) -> str:
    if not sys.stdin.isatty():
        raise PowerFailed("The inventory says that a person switches this host, but there is no terminal to ask on.")
    return input(question)
