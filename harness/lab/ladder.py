"""The recovery ladder: each rung is written down before it is climbed, and proven by what it claims to repair."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any

from harness.bhyve import remove_machine
from harness.errors import (
    CommandFailed,
    CommandTimeout,
    GuestHang,
    GuestSilent,
    HostUnready,
    SshAuthFailed,
    SshLost,
    SshUnreachable,
)
from harness.hosts import Boot, Host, Modules
from harness.hosts.host import BOOT_COMMAND, parse_boot
from harness.inventory.model import Timeouts
from harness.lab.power import Power, PowerFailed, SimulatedPower
from harness.subjects.bhyve import NAME_PREFIX
from harness.timing import CLOCK, Deadline

#: What a host says nothing or nonsense with while it goes down or comes up.
NO_ANSWER = (SshUnreachable, SshLost, SshAuthFailed, CommandTimeout, CommandFailed)
#: What can be the sign of a host that went down, and has to be looked into before it is believed.
DOUBTFUL = (SshLost, SshUnreachable, CommandTimeout, GuestHang, GuestSilent)
#: Seconds for one attempt to connect, and for the first look over a connection that may be dead.
_ATTEMPT = 10.0
PROBE = 8.0


class Rung(IntEnum):
    """Rungs, lowest first."""

    LOOK = 0  #: does the connection still carry an answer
    RECONNECT = 1
    GUESTS = 2  #: remove our virtual machines
    MODULE = 3  #: unload the module under test
    REBOOT = 4
    POWER = 6  #: off, proven off, on
    GIVEN_UP = 8


class Ladder:
    """Climbs for one host.

    ``connect`` makes a new connection before its deadline, or raises; ``console`` gives the host's console as far as
    it was recorded, which is kept in :attr:`last_words` before the power is cut.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[Deadline], Host],
        power: Power | None,
        timeouts: Timeouts,
        log: Path | None,
        console: Callable[[], str],
    ) -> None:
        self._name = name
        self._connect = connect
        self._power = power
        self._timeouts = timeouts
        self._log = log
        self._console = console
        self.climbs = 0
        #: Share of the time to come back by itself that a host gets (its boot is not hurried).
        self.patience = 1.0
        self.last_words = ""

    def note(self, rung: Rung, **data: Any) -> None:
        """Write down what is about to be done: a controller that dies on the way has said where it was."""
        if self._log is None:
            return
        where = {"rung": int(rung), "name": rung.name.lower(), "climb": self.climbs}
        entry = {"at": round(time.time(), 3), **where, **data}
        # A disk that is full must not keep a host from being brought back.
        with contextlib.suppress(OSError):
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry) + "\n")

    def look(self, host: Host) -> Boot | None:
        """The boot that an existing connection answers with, or ``None``."""
        self.note(Rung.LOOK)
        if not host.transport.alive():
            return None
        try:
            return _boot(host)
        except NO_ANSWER:
            return None

    def come_back(self) -> tuple[Host, bool]:
        """A working connection, and whether the host had to be switched off and on for it.

        Raises :class:`SshUnreachable`, :class:`PowerFailed`.
        """
        self.last_words = ""
        seconds = self._timeouts.comeback * self.patience
        self.note(Rung.RECONNECT, seconds=seconds)
        host = self._reconnect(seconds, unless_off=True)
        if host is not None:
            return host, False
        if self._power is None:
            raise SshUnreachable(f"'{self._name}' does not answer and the inventory names no power control for it.")
        self.last_words = self._console()
        self.note(Rung.POWER)
        self._power.cycle()
        host = self._reconnect(self._timeouts.boot)
        if host is None:
            raise SshUnreachable(f"'{self._name}' does not answer after a power cycle.")
        return host, True

    def clear_guests(self, host: Host) -> None:
        """Remove every VM of ours; raises :class:`HostUnready` when one stays."""
        left = [name for name in host.names_in("/dev/vmm") if name.startswith(NAME_PREFIX)]
        if not left:
            return
        self.note(Rung.GUESTS, machines=left)
        stuck = [name for name in left if not remove_machine(host, name)]
        if stuck:
            raise HostUnready(f"Virtual machines of ours cannot be removed on '{self._name}': {', '.join(stuck)}.")

    def unload(self, host: Host) -> None:
        """Unload vmm.ko; raises :class:`HostUnready`."""
        self.note(Rung.MODULE)
        Modules(host).unload("vmm.ko")

    def reboot(self, host: Host, before: Boot) -> Host:
        """An orderly reboot, for what nothing less repairs; a power cycle when it hangs on the way down."""
        self.note(Rung.REBOOT)
        try:
            host.try_change("sync; shutdown -r now", seconds=PROBE)
        except (SshLost, CommandTimeout):
            pass
        finally:
            host.transport.close()
        limit = Deadline.after(self._timeouts.boot)
        while not limit.expired():
            again = self._reconnect(min(_ATTEMPT * self._timeouts.patience, limit.remaining()))
            if again is not None:
                if not _boot(again).same_as(before):
                    return again
                again.transport.close()
                CLOCK.sleep(min(1.0, limit.remaining()))
        return self.come_back()[0]

    def _reconnect(self, seconds: float, *, unless_off: bool = False) -> Host | None:
        """``unless_off``: a machine that is off is not waited for. One that is about to boot may be off as well."""
        limit = Deadline.after(seconds)
        pause = 0.1
        while not limit.expired():
            try:
                host = self._connect(limit.at_most(_ATTEMPT * self._timeouts.patience))
                _boot(host)
            except NO_ANSWER:
                if unless_off and self._is_dark():
                    return None
                CLOCK.sleep(min(pause, limit.remaining()))
                pause = min(2.0, pause * 1.5)
                continue
            return host
        return None

    def _is_dark(self) -> bool:
        """Whether the machine is known to be off, so that waiting for it is in vain; nobody is asked about it."""
        try:
            return isinstance(self._power, SimulatedPower) and not self._power.is_on()
        except PowerFailed:
            return False


def _boot(host: Host) -> Boot:
    """The boot, asked with little patience."""
    return parse_boot(host.check(BOOT_COMMAND, seconds=PROBE).text)
