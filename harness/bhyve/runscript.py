"""One round trip for a whole guest run: upload, bhyve, removal of the VM, and a look at the host afterwards.

The script's standard input carries the ROM image first and the guest's COM1 after it, its standard output is COM1
alone. Everything else goes to standard error between marks: bhyve makes standard output non-blocking, so that a
writer behind it could lose bytes. The records are read in the memory of the guest that ended, before its VM goes.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from dataclasses import dataclass

from harness.bhyve.command import BhyveOptions
from harness.errors import CommandFailed, InfraError, UnexpectedAnswer
from harness.guest import tables
from harness.hosts.host import BOOT_COMMAND, FENCED, Boot, Host, parse_boot
from harness.hosts.messages import TAIL_COMMAND, mark_command, since
from harness.hosts.modules import LoadedFile, hash_command, parse_kldstat
from harness.recording import Recorder
from harness.transport import CommandResult, Framed

#: Until the VM's node has vanished; 10.x destroys it behind our back.
_NODE_GONE = "for i in 1 2 3 4 5 6 7 8 9 10; do test ! -e {node} || sleep 0.2; done; test ! -e {node}"


def _records_command(node: str) -> str:
    """Print the records of a guest that ended; nothing when it did not come that far.

    ``/dev/vmm/NAME`` is the guest's memory (``vmmdev_rw()`` of vmm_dev.c) until the VM is destroyed. It cannot be
    sought in: dd(1) reads every block before the first one, so these are large, and what is behind the last record in
    its block comes along.
    """
    known = tables.constants()
    block = known["RECORDS_BLOCK"]
    length = f"dd if={node} bs=16 iseek={known['RECORDS_LENGTH'] // 16} count=1 2>/dev/null"
    records = f'dd if={node} bs={block} iseek={known["RECORDS"] // block} "count=$blocks" 2>/dev/null'
    return f'blocks=$({length}); test -z "$blocks" || {records}'


@dataclass(frozen=True, slots=True)
class HostView:
    """The host right after a guest: its boot, the loaded vmm.ko, machines there, kernel messages of the run."""

    boot: Boot
    module: LoadedFile | None
    #: Of the file that the harness loaded, empty when it is gone.
    module_sha256: str
    machines: tuple[str, ...]
    messages: tuple[str, ...]
    #: The end of the kernel's message buffer, whoever it belongs to.
    tail: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """How the script ended: bhyve's status and standard error, the guest's records, and the host afterwards."""

    status: int
    stderr: str
    records: bytes
    view: HostView


class RunScript:
    """Builds the script for one guest and reads what it printed. ``mark`` names the run in the kernel's log.

    ``keep``: the VM is not removed, since another bhyve is going to take it.
    """

    def __init__(self, options: BhyveOptions, rom: bytes, host: Host, mark: str, *, keep: bool = False) -> None:
        self._options = options
        self._rom = rom
        self._host = host
        self._mark = mark
        node = shlex.quote(f"/dev/vmm/{options.name}")
        name, path = shlex.quote(options.name), shlex.quote(options.rom)
        self._commands = {
            "upload": f"head -c {len(rom)} >{path} && sha256 -q {path}",
            "mark": mark_command(mark),
            "bhyve": options.command(),
            "records": _records_command(node),
            "destroy": f"bhyvectl --vm={name} --destroy",
            "remove": f"rm -f {path}",
            "node": _NODE_GONE.format(node=node),
            "boot": BOOT_COMMAND,
            "module": "kldstat -v -n vmm.ko",
            "hash": hash_command(host.module, host.proof),
            "machines": "ls /dev/vmm 2>/dev/null",
            "messages": TAIL_COMMAND,
        }
        if keep:
            del self._commands["destroy"], self._commands["node"]
        self._framed = Framed(self._commands, fd=2)

    def text(self) -> str:
        """One line for /bin/sh."""
        parts = ["umask 077; ulimit -c 0 2>/dev/null"]
        for name, command in self._commands.items():
            mark = f"{self._framed.mark(name)} >&2"
            if name == "upload":
                parts.append(f"( {command} ) >&2; {mark}")
            elif name == "bhyve":
                # Not the last command: the shell has to live to tell the status of a bhyve that a signal ends.
                parts.append(f"{command}; {mark}")
            else:
                parts.append(f"( {command} ) </dev/null >&2; {mark}")
        return self._host.guarded("; ".join(parts))

    def ended(self, stderr: bytes) -> bool:
        """Whether bhyve itself has ended, going by what the script has said so far."""
        return any(name == "bhyve" for name, _, _ in self._framed.pieces(stderr))

    def read(self, done: CommandResult, recorder: Recorder) -> Finished:
        """Check every step of the finished script and tell each to the recorder.

        Raises :class:`LeaseLost`, :class:`CommandFailed` (the image did not arrive), :class:`InfraError` (the VM could
        not be removed), :class:`UnexpectedAnswer`.
        """
        pieces = {name: (output, code) for name, output, code in self._framed.pieces(done.stderr)}
        self._record(done, pieces, recorder)
        if not pieces and done.status == FENCED and self._host.guard:
            raise self._host.lease_lost()
        missing = [name for name in self._commands if name not in pieces]
        if missing:
            said = done.stderr[-300:].decode("utf-8", "replace")
            raise UnexpectedAnswer(f"The run of '{self._options.name}' told nothing of {', '.join(missing)}: {said!r}.")
        self._check_upload(*pieces["upload"])
        if "node" in pieces and pieces["node"][1] != 0:
            said = pieces["destroy"][0].decode("utf-8", "replace").strip()
            name = self._options.name
            raise InfraError(f"The virtual machine '{name}' could not be removed: {said or 'no message'}.")
        output, code = pieces["bhyve"]
        return Finished(code, output.decode("utf-8", "replace"), pieces["records"][0], self._view(pieces))

    def _record(self, done: CommandResult, pieces: dict[str, tuple[bytes, int]], recorder: Recorder) -> None:
        times = self._framed.times(done.stderr, done.err_times)
        for name, (output, code) in pieces.items():
            out, err = output, b""
            if name == "bhyve":
                out, err = done.stdout, output
            elif name == "records":
                # They are kept beside the console, byte by byte.
                out = f"({len(output)} bytes)\n".encode()
            elif name == "messages":
                out = "".join(f"{line}\n" for line in since(output.decode("utf-8", "replace"), self._mark)).encode()
            began, took = times.get(name, (0.0, done.seconds))
            recorder.add_command(self._commands[name], code, out, err, done.started + began, took)

    def _check_upload(self, output: bytes, status: int) -> None:
        text = output.decode("utf-8", "replace").strip()
        if status != 0 or not re.fullmatch(r"[0-9a-f]{64}", text):
            raise CommandFailed(f"The guest's image could not be stored on the host: {text or f'status {status}'}.")
        if text != hashlib.sha256(self._rom).hexdigest():
            raise CommandFailed(f"The guest's image did not arrive whole: sha256 {text} found on the host.")

    def _view(self, pieces: dict[str, tuple[bytes, int]]) -> HostView:
        text = {name: output.decode("utf-8", "replace").strip() for name, (output, _) in pieces.items()}
        files = parse_kldstat(pieces["module"][0].decode("utf-8", "replace"))
        return HostView(
            boot=parse_boot(text["boot"]),
            module=next((file for file in files if file.name == "vmm.ko"), None),
            module_sha256=text["hash"].strip() if pieces["hash"][1] == 0 else "",
            machines=tuple(text["machines"].split()) if pieces["machines"][1] == 0 else (),
            messages=tuple(since(text["messages"], self._mark)),
            tail=tuple(pieces["messages"][0].decode("utf-8", "replace").splitlines()),
        )
