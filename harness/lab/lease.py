"""A lease on a host: a directory there, made atomically, that expires by the host's clock.

Two controllers that never heard of each other exclude each other by it. Whatever changes the host is run behind a test
that the lease still names this run (:attr:`Lease.guard`), so that a run which lost its host does nothing more to it.
"""

from __future__ import annotations

import getpass
import os
import shlex
import socket
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HostUnready, LeaseLost, UnexpectedAnswer
from harness.hosts import Boot, Host
from harness.timing import CLOCK, Clock, Deadline

#: On persistent storage: it must survive the reboots that we cause.
FOLDER = "/root/.vmmcheck.lease"
#: Seconds that a lease lives, and after which it is renewed.
LIFE = 900
RENEW = 300
_RETRY = 5.0
#: Seconds after which a lease that nobody signed is what a broken controller left.
_NAMELESS = 10.0
#: Status by which a command says that another lease is there, and that ours could not be written.
_TAKEN, _UNWRITTEN = 17, 18


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a host: run, person and controller, the boot last seen, times by the host's clock."""

    run: str
    owner: str
    boot: str
    taken: int
    expires: int
    #: The process that holds it (:func:`this_process`); empty where that cannot be told.
    process: str = ""

    def text(self) -> str:
        """The form on the host: a line a field."""
        fields = {
            "run": self.run, "owner": self.owner, "boot": self.boot, "taken": self.taken, "expires": self.expires,
            "process": self.process,
        }  # fmt: skip
        return "".join(f"{name}={value}\\n" for name, value in fields.items())

    @classmethod
    def parse(cls, text: str) -> Holder:
        """Raises :class:`UnexpectedAnswer` for what is no holder."""
        values = dict(line.partition("=")[::2] for line in text.splitlines() if "=" in line)
        try:
            return cls(
                values["run"], values["owner"], values["boot"], int(values["taken"]), int(values["expires"]),
                values.get("process", ""),
            )  # fmt: skip
        except (KeyError, ValueError):
            raise UnexpectedAnswer(f"The lease on the host cannot be read: {text[:200]!r}.") from None


def this_process() -> str:
    """This process among all that ever ran on this machine since it booted; empty where the system does not tell.

    Boot, process namespace, number, and start time in clock ticks (proc(5)): containers may share a machine's name.
    """
    return _process(os.getpid())


def _process(pid: int) -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = Path("/proc/self/ns/pid").stat().st_ino
        started = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
    return f"{boot}.{space}.{pid}.{started}"


def is_gone(process: str) -> bool:
    """Whether a process that called itself so has certainly ended; false for one that could not be seen from here."""
    here, pid = this_process(), process.split(".")[2:3]
    if not here or not pid or not pid[0].isdigit() or here.split(".")[:2] != process.split(".")[:2]:
        return False
    return _process(int(pid[0])) != process


class Lease:
    """The lease of ``run`` on one host. ``run`` has no characters that a shell would look at."""

    def __init__(self, host: Host, run: str, *, folder: str = FOLDER, clock: Clock = CLOCK) -> None:
        self._run = "".join(letter for letter in run if letter.isalnum() or letter in "-_.")
        self._owner = "".join(c for c in f"{getpass.getuser()}@{socket.gethostname()}" if c.isalnum() or c in "-_.@")
        self._host = host
        self._folder = folder
        self._clock = clock
        self._taken = 0
        self._renewed = 0.0

    @property
    def guard(self) -> str:
        """A shell test that holds as long as the host is ours."""
        return f'test "$(cat {shlex.quote(self._folder)}/run 2>/dev/null)" = {self._run}'

    def take(self, boot: Boot, deadline: Deadline) -> str:
        """Take the lease, waiting for another run to end until ``deadline``; whose lease was broken, if any.

        An expired lease is broken. So is one of another boot whose owner did not come back to renew it. Raises
        :class:`HostUnready` naming the owner when the host does not become free.
        """
        broken = ""
        nameless: Deadline | None = None
        removed = False
        while True:
            now = self._now()
            made, said = self._make(boot, now)
            if made:
                self._taken, self._renewed = now, self._clock.now()
                self._host.guard = self.guard
                return broken
            other = self.holder()
            if other is None:
                # Released between the two looks; or made a moment ago and not written yet, which takes no seconds.
                nameless = nameless or Deadline.after(_NAMELESS, self._clock)
                if nameless.expired():
                    if removed:
                        raise self._unwritten(said)
                    self._host.run(f"test -s {self._path('holder')} || rm -rf {shlex.quote(self._folder)}")
                    removed = True
                self._clock.sleep(1.0)
                continue
            if other.run == self._run:
                # A worker of this very run died and this one takes its place.
                self._taken = other.taken
                self._write(boot)
                self._host.guard = self.guard
                return broken
            gone = is_gone(other.process)
            if gone or other.expires < now or (other.boot != str(boot) and other.expires - LIFE + RENEW < now):
                self._break(other)
                why = "whose process has ended" if gone else f"expired {now - other.expires} s ago"
                broken = f"{other.owner} (run {other.run}), {why}"
                continue
            if deadline.expired():
                left = other.expires - now
                raise HostUnready(
                    f"'{self._host.transport.name}' is leased to {other.owner} (run {other.run}) for another {left} s.",
                    help="Wait for that run, or ask its owner; a lease whose owner is gone expires by itself.",
                )
            self._clock.sleep(min(_RETRY, deadline.remaining()))

    def move_to(self, host: Host, boot: Boot) -> None:
        """Go on with a new connection, on a boot that we caused or recovered from. Raises :class:`LeaseLost`."""
        self._host = host
        host.guard = self.guard
        self._write(boot)

    def renew(self, boot: Boot) -> None:
        """Renew when a third of the life has passed. Raises :class:`LeaseLost`."""
        if self._clock.now() - self._renewed >= RENEW:
            self._write(boot)

    def holder(self) -> Holder | None:
        """Who holds the host now; ``None`` when nobody does, or nobody has said so yet."""
        result = self._host.run(f"cat {self._path('holder')} 2>/dev/null")
        return Holder.parse(result.text) if result.status == 0 and result.text else None

    def release(self) -> None:
        """Give the host back; nothing happens when it is not ours any more."""
        self._host.guard = ""
        self._host.run(f"{self.guard} && rm -rf {shlex.quote(self._folder)}")

    # --- parts -----------------------------------------------------------------------------------------------------

    def _path(self, name: str) -> str:
        return shlex.quote(f"{self._folder}/{name}")

    def _holder(self, boot: Boot, now: int) -> Holder:
        return Holder(self._run, self._owner, str(boot), self._taken or now, now + LIFE, this_process())

    def _make(self, boot: Boot, now: int) -> tuple[bool, str]:
        """Whether the folder is ours now, and what mkdir(1) says; raises :class:`HostUnready`."""
        folder, holder = shlex.quote(self._folder), self._holder(boot, now)
        script = (
            f"umask 077; mkdir {folder} || exit {_TAKEN};"
            f" {{ echo {self._run} >{self._path('run')} && {self._store(holder)}; }}"
            f" || {{ rm -rf {folder}; exit {_UNWRITTEN}; }}"
        )
        result = self._host.run(script)
        if result.status == _UNWRITTEN:
            raise self._unwritten(result.errors)
        return result.status == 0, result.errors

    def _store(self, holder: Holder) -> str:
        """Whole or not at all: a disk that is full must not leave half of a lease."""
        new = self._path("holder.new")
        return f"printf '{holder.text()}' >{new} && mv -f {new} {self._path('holder')}"

    def _write(self, boot: Boot) -> None:
        store = self._store(self._holder(boot, self._now()))
        result = self._host.run(f"{self.guard} || exit {_TAKEN}; {store}")
        if result.status == _TAKEN:
            raise LeaseLost(f"The lease on '{self._host.transport.name}' is not ours any more: {self.holder()}.")
        if result.status != 0:
            raise self._unwritten(result.errors)
        self._renewed = self._clock.now()

    def _unwritten(self, said: str) -> HostUnready:
        where = f"'{self._folder}' on '{self._host.transport.name}'"
        return HostUnready(
            f"The lease {where} cannot be written: {said[:200] or 'no message'}.",
            help="Make room on the host's disk, and see that it is not mounted read-only.",
        )

    def _break(self, other: Holder) -> None:
        """Only what was looked at is removed: somebody else may have broken it already."""
        folder = shlex.quote(self._folder)
        self._host.run(f'test "$(cat {self._path("run")} 2>/dev/null)" = {shlex.quote(other.run)} && rm -rf {folder}')

    def _now(self) -> int:
        """Seconds by the host's clock."""
        text = self._host.check("date +%s").text
        if not text.isdigit():
            raise UnexpectedAnswer(f"'date +%s' printed {text[:80]!r}.")
        return int(text)
