"""A host behind SSH for the life of a worker: provisioned once, checked around every item, restored at the end."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import (
    CommandTimeout,
    HostLost,
    HostPanic,
    HostUnready,
    LeaseLost,
    ProcessorStuck,
    SshLost,
    VmmcheckError,
)  # fmt: skip
from harness.hosts import Boot, Host, Messages
from harness.hosts.messages import DELTA
from harness.inventory import BochsHost, EmulatedHost, FreebsdHost, QemuHost
from harness.lab.aftermath import Aftermath
from harness.lab.checks import follow_reload, judge, look_at, mark_hazard, stuck_processor
from harness.lab.connecting import Connector
from harness.lab.crash import CrashFolder
from harness.lab.ladder import DOUBTFUL, Ladder, Rung
from harness.lab.lease import Lease
from harness.lab.platforms import platform_of
from harness.lab.provision import Prepared, Provisioning, facts_for_report
from harness.lab.reach import reach_of
from harness.recording import NullRecorder, Recorder
from harness.subjects import Platform, Subject
from harness.subjects.bhyve import BhyveSubject
from harness.timing import Deadline

#: Seconds for the connection that is made anew only to leave a host as it was found.
_LAST_ATTEMPT = 20.0
#: Climbs of the recovery ladder before a host is given up; an emulated one is back after a second.
MAX_CLIMBS, MAX_CLIMBS_EMULATED = 8, 200


class SshSession:
    """Implements :class:`harness.lab.session.HostSession` for emulated and real hosts alike.

    ``told`` is what the launcher of an emulated host knows of the way to it; ``run_folder`` receives ``ladder.jsonl``,
    crash dumps and consoles below ``hosts/ALIAS``.
    """

    def __init__(
        self,
        alias: str,
        entry: EmulatedHost | FreebsdHost | BochsHost | QemuHost,
        told: Mapping[str, str],
        run_folder: Path | None,
        defects: Sequence[str] = (),
    ) -> None:
        self.platform: Platform = platform_of(alias, entry)
        self._reach = reach_of(alias, entry, told)
        self._connector = Connector(alias, self._reach)
        self._folder = run_folder / "hosts" / alias if run_folder is not None else None
        self._run = run_folder.name if run_folder is not None else f"manual-{uuid.uuid4().hex[:8]}"
        work = self._folder / "module" if self._folder is not None else None
        self._provisioning = Provisioning(self.platform, entry, defects, work)
        self._defects = list(defects)
        log = self._folder / "ladder.jsonl" if self._folder is not None else None
        crash = self._folder / "crash" if self._folder is not None else None
        self._aftermath = Aftermath(alias, CrashFolder(self._reach.crash), self._reach.console, crash)
        console = self._aftermath.console
        self._ladder = Ladder(alias, self._connector.connect, self._reach.power, self._reach.timeouts, log, console)
        self._recorder: Recorder = NullRecorder()
        self._host: Host | None = None
        self._lease: Lease | None = None
        self._prepared: Prepared | None = None
        self._subject: BhyveSubject | None = None
        self._boot = Boot()
        self._channels = 0
        self._items = 0
        self._closed = False
        self.facts: dict[str, Any] = {}
        #: What the report says of how the host was got.
        self._told: dict[str, Any] = {"broke_lease_of": ""}
        self._lost: VmmcheckError | None = None
        self._climbs = MAX_CLIMBS_EMULATED if self.platform.emulated else MAX_CLIMBS
        self._max_climbs = self._climbs

    # --- connection and provisioning -----------------------------------------------------------------------

    def open(self) -> dict[str, Any]:
        """Provisions the host. What breaks off on the way is begun again, once, and told (``opened_again``).

        Raises :class:`HostPanic` when the module under test took the host down as it was loaded, and what else stands
        against it.
        """
        try:
            return self._open()
        except DOUBTFUL as error:
            if self._lease is None:
                raise  # nothing is ours yet: there is nothing to come back to
            self._open_again(error)
            self._told["opened_again"] = str(error)
            return self._open()

    def _open(self) -> dict[str, Any]:
        if self._host is None:
            self._host = self._connector.first(self._note_slow_boot)
        host = self._host
        self._boot = host.boot()
        lease = Lease(host, self._run)
        broken = lease.take(self._boot, Deadline.after(self._reach.timeouts.lease))
        self._lease = lease
        if broken:
            self._told["broke_lease_of"] = broken
            self._ladder.note(Rung.LOOK, broke_lease_of=broken)
        self._aftermath.remember_dumps(host)
        self._aftermath.remember_console()
        return self._tell(self._prepare(host))

    def _note_slow_boot(self, what: str) -> None:
        self._told["switched_on_again"] = what
        self._ladder.note(Rung.POWER, trouble_while_booting=what)

    def _open_again(self, error: VmmcheckError) -> None:
        """A connection again, after ``error`` broke off the provisioning."""
        self._ladder.climbs += 1
        self._ladder.note(Rung.LOOK, trouble_while_opening=str(error))
        cycled = self._regain()
        host = self._connected
        boot = host.boot()
        self._take_lease_along(host, boot)
        went_down = not boot.same_as(self._boot)
        if not went_down and self._provisioning.touched and isinstance(error, CommandTimeout):
            # Something that we began does not end, and would stand in the way of a second attempt.
            self._host = self._ladder.reboot(host, boot)
            boot = self._connected.boot()
            self._take_lease_along(self._connected, boot)
        self._boot = boot
        if went_down and self._provisioning.loading:
            down = self._went_down(cycled, error)
            raise type(down)(f"While the module under test was loaded: {down.message}")

    def _tell(self, prepared: Prepared) -> dict[str, Any]:
        more = {"boot_id": str(self._boot), "defects": self._defects, **self._told, **self._provisioning.told}
        self.facts = facts_for_report(self.platform, prepared, more)
        return self.facts

    @property
    def _connected(self) -> Host:
        if self._host is None:
            raise SshLost(f"There is no connection to '{self.platform.alias}'.")
        return self._host

    def _prepare(self, host: Host) -> Prepared:
        prepared = self._prepared = self._provisioning.prepare(host, self._ladder)
        self._subject = BhyveSubject(self.platform, host, testdev=prepared.facts.has_testdev)
        self._connector.module, self._connector.proof = prepared.module.path, host.proof
        self._connector.prelude = host.transport.prelude
        self._aftermath.remember_console()
        return prepared

    def renew(self, defects: Sequence[str], *, patience: float) -> None:
        """Load the module with other seeded defects (or none) on a freshly booted host.

        A defect may have left anything anywhere, so only a boot gives the next one a clean start. ``patience``
        multiplies all limits from now on. Raises what the host makes of it.
        """
        if self._lost is not None:
            raise self._lost
        self._provisioning = self._provisioning.seeded(defects)
        self._defects = list(defects)
        self._ladder.patience = self._connector.patience = patience
        self._max_climbs = self._ladder.climbs + self._climbs
        self._channels += self._connected.transport.channels
        self._host = self._ladder.reboot(self._connected, self._boot)
        self._settle(self._connected.boot())

    @property
    def alive(self) -> bool:
        """Whether the connection still stands, as far as this side knows."""
        return self._host is not None and self._host.transport.alive()

    # --- around an item -----------------------------------------------------------------------------------------

    def begin(self, recorder: Recorder) -> Subject:
        if self._lost is not None:
            raise self._lost
        if not self._connected.transport.alive():
            self._recover_idle()
        host, subject = self._connected, self._subject
        if subject is None or self._lease is None:
            raise SshLost(f"The session with '{self.platform.alias}' was never opened.")
        self._lease.renew(self._boot)
        self._recorder = host.transport.recorder = subject.recorder = recorder
        subject.messages.begin()
        self._items += 1
        return subject

    def mark(self, hazard: str) -> None:
        mark_hazard(self._connected, hazard)

    def end(self) -> None:
        """The same boot, our module, no machine left over, no complaint of the kernel."""
        if self._closed:
            return  # an interrupted run gives its hosts back before pytest ends the item
        host, subject, recorder = self._connected, self._subject, self._recorder
        view = subject.fresh_view() if subject is not None else None
        if view is None or view.machines:
            # Something was done behind the last guest, or another guest still lived then: look now.
            view = look_at(host)
            if subject is not None:
                subject.messages.take(view.tail)
        host.transport.recorder = self._recorder = NullRecorder()
        messages = subject.messages.item if subject is not None else Messages()
        delta = messages.as_delta()
        if delta:
            recorder.add_file(DELTA, delta)
        if self._prepared is None:
            raise SshLost(f"'{self.platform.alias}' is not prepared any more: the item lost it on the way.")
        self._prepared = follow_reload(host, self._prepared)
        judge(self.platform.alias, view, self._boot, self._prepared, messages)

    # --- when something went wrong -------------------------------------------------------------------------------

    def explain(self, error: Exception) -> Exception:
        """Tell product from lab by the boot, and bring the host back for the next item."""
        if self._lost is not None:
            return error
        if isinstance(error, LeaseLost):
            self._lost = error  # the host belongs to somebody else now: nothing is torn down
            return error
        if not isinstance(error, DOUBTFUL):
            return self._look_at_processors(error)
        self._ladder.climbs += 1
        self._ladder.note(Rung.LOOK, trouble=str(error))
        if self._ladder.climbs > self._max_climbs:
            return self._give_up(f"'{self.platform.alias}' needed recovery {self._climbs} times in this run.", error)
        try:
            cycled = self._regain()
            boot = self._connected.boot()
            if boot.same_as(self._boot):
                self._tidy()
                return self._look_at_processors(error)
            verdict = self._went_down(cycled, error)
            self._settle(boot)
        except LeaseLost as lost:
            self._lost = lost
            return lost
        except VmmcheckError as problem:
            return self._give_up(f"'{self.platform.alias}' could not be brought back: {problem.message}", error)
        return verdict

    def _went_down(self, cycled: bool, error: Exception) -> HostPanic:
        """Why the host is on another boot; ``cycled``: it had to be switched off and on."""
        ladder = self._ladder
        return self._aftermath.verdict(
            self._connected, ladder.climbs, self._recorder, ladder.last_words, cycled=cycled, error=error
        )

    def _look_at_processors(self, error: Exception) -> Exception:
        """What failed may have taken a processor with it, which no other check would see; then the host is booted."""
        if self._host is None or not self.alive or self._prepared is None or isinstance(error, HostLost):
            return error
        try:
            cpu = stuck_processor(self._host, self.platform.ncpu)
        except VmmcheckError as trouble:
            # What failed stays what it is; a link that went is looked into before the next item.
            self._ladder.note(Rung.LOOK, trouble_while_looking=str(trouble))
            return error
        if cpu is None:
            return error
        self._ladder.climbs += 1
        self._ladder.note(Rung.LOOK, stuck_processor=cpu, trouble=str(error))
        try:
            self._host = self._ladder.reboot(self._host, self._boot)
            self._settle(self._connected.boot())
        except LeaseLost as lost:
            self._lost = lost
            return lost
        except VmmcheckError as problem:
            return self._give_up(f"'{self.platform.alias}' could not be brought back: {problem.message}", error)
        return ProcessorStuck(
            f"CPU {cpu} of '{self.platform.alias}' runs nothing any more, and the host was booted anew; before: {error}"
        )

    def _recover_idle(self) -> None:
        """The link went between two items: nobody's result. The item that is about to start runs afterwards."""
        self._ladder.climbs += 1
        try:
            self._regain()
            boot = self._connected.boot()
            if boot.same_as(self._boot):
                self._tidy()
            else:
                self._ladder.note(Rung.LOOK, rebooted_between_items=str(boot))
                self._settle(boot)
        except VmmcheckError as problem:
            message = f"'{self.platform.alias}' was lost between two items: {problem.message}"
            raise self._give_up(message, problem) from problem

    def _take_lease_along(self, host: Host, boot: Boot) -> None:
        """To another connection or boot; raises :class:`LeaseLost` when it is not ours any more."""
        if self._lease is not None:
            self._lease.move_to(host, boot)

    def _regain(self) -> bool:
        """A connection that answers; whether the host had to be switched off and on for it."""
        host = self._host
        if host is not None:
            if self._ladder.look(host) is not None:
                return False
            self._channels += host.transport.channels
            host.transport.close()
        self._host, cycled = self._ladder.come_back()
        self._subject = None
        return cycled

    def _settle(self, boot: Boot) -> None:
        """On another boot: the lease goes with us, and everything is prepared again."""
        host = self._connected
        self._boot = boot
        self._take_lease_along(host, boot)
        self._tell(self._prepare(host))

    def _tidy(self) -> None:
        """The same boot: remove what the item left; what cannot be removed takes a reboot."""
        host = self._connected
        self._take_lease_along(host, self._boot)
        try:
            self._ladder.clear_guests(host)
        except HostUnready:
            self._host = self._ladder.reboot(host, self._boot)
            self._settle(self._connected.boot())
            return
        prepared = self._prepared
        if self._subject is None and prepared is not None:
            self._subject = BhyveSubject(self.platform, host, testdev=prepared.facts.has_testdev)

    def _give_up(self, message: str, error: Exception) -> HostLost:
        lost = HostLost(message)
        lost.__cause__ = error
        self._lost = lost
        self._ladder.note(Rung.GIVEN_UP, message=message)
        return lost

    def _restore(self, host: Host) -> None:
        if not self._provisioning.touched:
            return
        if not host.boot().same_as(self._boot):
            self._provisioning.restore_after_boot(host)
            return
        self._ladder.clear_guests(host)
        self._provisioning.restore(host)

    # --- end ---------------------------------------------------------------------------------------------------------

    def close(self) -> dict[str, Any]:
        """Unload what we loaded, remove our folder, give the host back; what was spent, for the report."""
        host, self._closed = self._host, True
        if host is None:
            return {}
        spent: dict[str, Any] = {"items": self._items, "climbs": self._ladder.climbs}
        try:
            if self._lost is None:
                self._leave(spent)
            else:
                spent["not_restored"] = f"The host was given up: {self._lost.message}"
        except VmmcheckError as problem:
            spent["not_restored"] = problem.message
        finally:
            host = self._host or host
            with contextlib.suppress(VmmcheckError):
                if self._lease is not None and not isinstance(self._lost, LeaseLost) and host.transport.alive():
                    self._lease.release()
            spent["channels"] = self._channels + host.transport.channels
            host.transport.close()
        return spent

    def _leave(self, spent: dict[str, Any]) -> None:
        """Put everything back; once more after a host that went down, or a link that was lost, on the way."""
        try:
            if not self._connected.transport.alive():
                # The link went with the last item: what we loaded is still there.
                self._host = self._connector.connect(Deadline.after(_LAST_ATTEMPT * self._connector.patience))
                self._take_lease_along(self._host, self._boot)
            self._restore(self._connected)
            return
        except DOUBTFUL as error:
            self._ladder.climbs += 1
            self._ladder.note(Rung.LOOK, trouble_while_restoring=str(error))
            cycled = self._regain()
            trouble = error
        host = self._connected
        self._take_lease_along(host, self._boot)
        if not host.boot().same_as(self._boot):
            # No item ran: no cell can tell it.
            down = self._went_down(cycled, trouble)
            spent["down_while_restored"] = f"{down.code}: {down.message}"
        self._restore(host)
