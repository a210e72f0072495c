"""What the harness does on a host beside running guests: commands, files, the boot it is on."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import CommandFailed, LeaseLost, UnexpectedAnswer
from harness.timing import Deadline
from harness.transport import CommandResult, Framed, Transport, shown

if TYPE_CHECKING:
    from harness.hosts.modules import LoadedFile

#: Seconds for a command that only asks, and for one that changes something.
QUICK = 20.0
SLOW = 60.0
#: Our private folder, mode 700. Nothing else is written on a host.
FOLDER = "/root/.vmmcheck"
#: Status by which a guarded command says that the host is not ours any more.
FENCED = 98
#: Prints what changes at every boot: an identifier (opaque, so only -x shows it), or on releases without it the
#: time of the boot.
BOOT_COMMAND = "sysctl -nx kern.boot_id 2>/dev/null || sysctl -n kern.boottime"
#: Seconds by which the time of a boot may seem to move when the clock is set.
BOOTTIME_TOLERANCE = 5


#: Whom a command is run as: the superuser, a user without privileges, the superuser of a jail that was not given
#: ``allow.vmm`` (jail(8)).
ROOT, NOBODY, JAIL = "root", "nobody", "jail"
_AS = {ROOT: "", NOBODY: "chroot -u nobody / ", JAIL: "jail -c name=vmmcheck path=/ command="}


def run_as(by: str, command: str) -> str:
    """The command as :data:`ROOT`, :data:`NOBODY` or :data:`JAIL` runs it."""
    return _AS[by] + command


@dataclass(frozen=True, slots=True)
class Boot:
    """Which boot a host is on: ``id`` from ``kern.boot_id``, or ``seconds`` from ``kern.boottime`` (12.x)."""

    id: str = ""
    seconds: int = 0

    def same_as(self, other: Boot) -> bool:
        """Whether both name one boot; a clock that was set does not make another one."""
        if self.id or other.id:
            return self.id == other.id
        return abs(self.seconds - other.seconds) <= BOOTTIME_TOLERANCE

    def __str__(self) -> str:
        return self.id or f"boottime {self.seconds}"


def parse_boot(text: str) -> Boot:
    """Output of :data:`BOOT_COMMAND`; raises :class:`UnexpectedAnswer`."""
    opaque = re.fullmatch(r"Format:\s*Length:16 Dump:0x([0-9a-f]{32})", text)
    if opaque:
        return Boot(id=opaque[1])
    match = re.match(r"\{ sec = (\d+), usec = \d+ \}", text)
    if match:
        return Boot(seconds=int(match[1]))
    raise UnexpectedAnswer(f"'{BOOT_COMMAND}' printed {text[:120]!r}; expected a boot identifier or a boot time.")


@dataclass(frozen=True, slots=True)
class FileProof:
    """``sha256`` of a file as it was when ``identity`` was its device, inode, size and times (``identity_command``)."""

    identity: str = ""
    sha256: str = ""


NO_PROOF = FileProof()


class Host:
    """One connection to a FreeBSD host, real or emulated.

    ``guard`` is a shell test that everything which changes the host is run behind: it holds as long as the host is
    ours (see :mod:`harness.lab.lease`).
    """

    def __init__(self, transport: Transport, folder: str = FOLDER, *, patience: float = 1.0) -> None:
        self.transport = transport
        #: Multiplies every limit.
        self.patience = patience
        self.folder = folder
        self.guard = ""
        #: What vmm.ko is since a case had it loaded again; whoever checks the module takes it from here.
        self.reloaded: LoadedFile | None = None
        #: File of the vmm.ko under test, hashed after every guest.
        self.module = "/boot/kernel/vmm.ko"
        #: That file's hash as it was proven.
        self.proof = NO_PROOF

    # --- commands ----------------------------------------------------------------------------------------------

    def run(self, command: str, *, stdin: bytes = b"", seconds: float = QUICK) -> CommandResult:
        """Run a command that changes nothing, whatever its status."""
        return self.transport.run(command, stdin=stdin, deadline=Deadline.after(seconds * self.patience))

    def check(self, command: str, *, stdin: bytes = b"", seconds: float = QUICK) -> CommandResult:
        """The same, when the harness needs it to work; raises :class:`CommandFailed` for a nonzero status."""
        return _succeeded(self.run(command, stdin=stdin, seconds=seconds))

    def change(self, command: str, *, stdin: bytes = b"", seconds: float = SLOW) -> CommandResult:
        """Run a command that changes the host. Raises :class:`LeaseLost`, :class:`CommandFailed`."""
        return _succeeded(self.try_change(command, stdin=stdin, seconds=seconds))

    def try_change(self, command: str, *, stdin: bytes = b"", seconds: float = SLOW) -> CommandResult:
        """The same, whatever the command's own status. Raises :class:`LeaseLost`."""
        result = self.run(self.guarded(command), stdin=stdin, seconds=seconds)
        if self.guard and result.status == FENCED:
            raise self.lease_lost()
        return result

    def guarded(self, command: str) -> str:
        """``command``, to be run only as long as the host is ours; status :data:`FENCED` says that it is not."""
        return f"{self.guard} || exit {FENCED}; {command}" if self.guard else command

    def lease_lost(self) -> LeaseLost:
        return LeaseLost(
            f"'{self.transport.name}' is leased to another run now; nothing more is done there.",
            help="/root/.vmmcheck.lease/holder on the host says who holds it; run again when it is free.",
        )

    def ask(self, commands: Mapping[str, str], *, seconds: float = QUICK) -> dict[str, CommandResult]:
        """Several commands in one round trip: answers by name, both output streams of each together.

        Each is told to the recorder as if it had been run alone. Raises :class:`UnexpectedAnswer` when one is missing.
        """
        framed = Framed(commands)
        script = framed.script()
        whole = self.transport.run(script, deadline=Deadline.after(seconds * self.patience), record=False)
        answers = framed.parse(whole.stdout, whole.started, whole.seconds, whole.out_times)
        for one in answers.values():
            self.transport.recorder.add_command(one.command, one.status, one.stdout, b"", one.started, one.seconds)
        framed.require(answers, script)
        return answers

    # --- files ---------------------------------------------------------------------------------------------------

    def put(self, path: str, data: bytes, *, mode: str = "600") -> str:
        """Write a file and prove by its SHA-256, which is returned, that it arrived whole."""
        quoted = shlex.quote(path)
        command = f"cat >{quoted} && chmod {mode} {quoted} && sha256 -q {quoted}"
        result = self.change(command, stdin=data)
        expected = hashlib.sha256(data).hexdigest()
        if result.text != expected:
            raise CommandFailed(f"'{path}' did not arrive whole: {len(data)} bytes sent, sha256 {result.text} found.")
        return expected

    def get(self, path: str) -> bytes:
        """The content of a file; raises :class:`CommandFailed`."""
        return self.check(f"cat {shlex.quote(path)}", seconds=SLOW).stdout

    def names_in(self, folder: str) -> list[str]:
        """Names in a folder; none when it does not exist."""
        return self.run(f"ls {shlex.quote(folder)} 2>/dev/null").text.split()

    # --- the boot ----------------------------------------------------------------------------------------------------

    def boot(self) -> Boot:
        """Changes at every boot; the one thing that tells a reset from a lost link."""
        return parse_boot(self.check(BOOT_COMMAND).text)


def _succeeded(result: CommandResult) -> CommandResult:
    if result.status != 0:
        said = result.errors[:300] or result.text[:300]
        raise CommandFailed(f"'{shown(result.command)}' ended with status {result.status}: {said or 'no message'}.")
    return result
