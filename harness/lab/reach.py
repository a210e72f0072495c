"""How a host of the inventory is reached: keys resolved late, in the process that needs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.inventory import EmulatedHost, FreebsdHost, Host, VirtualHost
from harness.inventory.model import CommandConsole, CommandPower, Crash, FileConsole, Jump, ManualPower, Timeouts
from harness.inventory.secrets import Identity
from harness.lab.console import CommandLog, Console, FileLog
from harness.lab.power import CommandPower as PowerByCommand
from harness.lab.power import ManualPower as PowerByHand
from harness.lab.power import Power, SimulatedPower
from harness.transport import Endpoint, PrivateKey, key_from_file, key_from_text, keys_from_agent

#: An emulated host boots in a second or two. Its machine is one of several processes on the controller, which may have
#: other work as well: guests are given more time than on a machine of their own.
EMULATED_TIMEOUTS = Timeouts(connect=15, comeback=20, boot=60, lease=0.1, patience=3)


@dataclass(frozen=True, slots=True)
class Reach:
    """Everything that leads to a host: SSH, power, console, where its crash dumps are, how long things may take."""

    endpoint: Endpoint
    become: Sequence[str]
    power: Power | None
    console: Console | None
    crash: Crash
    timeouts: Timeouts
    #: Whether the machine was booted for this run: then nobody else can be at work on it.
    booted_for_us: bool = False


def patience_of(host: Host) -> float:
    """What the limits of a host are multiplied by, and what decides how it is asked."""
    if isinstance(host, FreebsdHost | VirtualHost):
        return host.timeouts.patience
    return EMULATED_TIMEOUTS.patience


def reach_of(alias: str, host: EmulatedHost | FreebsdHost | VirtualHost, told: Mapping[str, str]) -> Reach:
    """The way to a host; ``told`` is what the launcher knows of one it started. Raises ``SshAuthFailed`` for keys."""
    if isinstance(host, EmulatedHost):
        endpoint = Endpoint(
            told["address"], int(told["port"]), told["user"], [key_from_file(told["identity"])], [told["host_key"]]
        )
        board = SimulatedPower(Path(told["control"]))
        return Reach(endpoint, (), board, board, Crash(), EMULATED_TIMEOUTS, booted_for_us=True)
    become = (host.become, "-n") if host.become is not None else ()
    if isinstance(host, VirtualHost):
        endpoint = Endpoint(told["address"], int(told["port"]), host.user, _keys(host.identity), host.host_keys)
        board = SimulatedPower(Path(told["control"]))
        return Reach(endpoint, become, board, board, host.crash, host.timeouts, booted_for_us=True)
    jump = _jump(host.jump) if host.jump is not None else None
    endpoint = Endpoint(host.address, host.port, host.user, _keys(host.identity), host.host_keys, jump)
    return Reach(endpoint, become, _power(alias, host), _console(host), host.crash, host.timeouts)


def _jump(jump: Jump) -> Endpoint:
    return Endpoint(jump.address, jump.port, jump.user, _keys(jump.identity), jump.host_keys)


def _keys(identity: Identity) -> Sequence[PrivateKey]:
    if identity.agent:
        return keys_from_agent()
    if identity.file is not None:
        return [key_from_file(identity.file)]
    secret = identity.secret
    assert secret is not None, "not the agent, so one of the references"
    return [key_from_text(secret.resolve().get_secret_value(), str(secret))]


def _power(alias: str, host: FreebsdHost) -> Power | None:
    match host.power:
        case CommandPower() as entry:
            return PowerByCommand(entry)
        case ManualPower():
            return PowerByHand(alias)
    return None


def _console(host: FreebsdHost) -> Console | None:
    match host.console:
        case FileConsole() as entry:
            return FileLog(entry)
        case CommandConsole() as entry:
            return CommandLog(entry)
    return None
