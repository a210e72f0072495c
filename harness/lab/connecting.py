"""Connections to one host: the first one, which may have to wait for a boot, and every later one."""

from __future__ import annotations

from collections.abc import Callable

from harness.errors import SshUnreachable
from harness.hosts import Host
from harness.hosts.host import NO_PROOF
from harness.lab.reach import Reach
from harness.timing import CLOCK, Deadline
from harness.transport import SshTransport

#: Seconds for one attempt at the first connection: a host that is about to come up may take the first and stay silent.
_FIRST_ATTEMPT = 15.0


class Connector:
    """Makes connections to the host ``name``. ``patience`` multiplies all limits of what is done over them."""

    def __init__(self, name: str, reach: Reach) -> None:
        self._name = name
        self._reach = reach
        self.patience = reach.timeouts.patience
        #: File of the vmm.ko under test, as soon as there is one.
        self.module = ""
        self.proof = NO_PROOF
        #: What stands before every command there (see :attr:`harness.transport.Transport.prelude`).
        self.prelude = ""

    def connect(self, deadline: Deadline) -> Host:
        """Raises :class:`SshUnreachable`, :class:`HostKeyMismatch`, :class:`SshAuthFailed`."""
        reach = self._reach
        transport = SshTransport.connect(self._name, reach.endpoint, deadline=deadline, become=reach.become)
        transport.prelude = self.prelude
        host = Host(transport, patience=self.patience)
        if self.module:
            host.module, host.proof = self.module, self.proof
        return host

    def first(self, note: Callable[[str], None]) -> Host:
        """A host may be about to come up; whoever refuses us or is another one is told at once.

        A machine that was booted for this run and never answers is switched off and on, once, of which ``note`` is
        told. Any other host may be at somebody's work: we hold no lease on it yet, and do nothing to it.
        """
        try:
            return self._wait()
        except SshUnreachable as error:
            if not self._reach.booted_for_us or self._reach.power is None:
                raise
            note(f"{error.message} Its boot stood still: it was switched off and on.")
            self._reach.power.cycle()
            return self._wait()

    def _wait(self) -> Host:
        deadline = Deadline.after(self._reach.timeouts.connect)
        while True:
            try:
                return self.connect(deadline.at_most(_FIRST_ATTEMPT * self.patience))
            except SshUnreachable:
                if deadline.expired():
                    raise
                CLOCK.sleep(min(0.5 * self.patience, deadline.remaining()))
