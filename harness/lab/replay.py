"""A finished run as the place where cases run again: guests and host answer with what they answered then.

The case builds its program anew; it must be, byte for byte, the one that ran (the ROM's hash is in the evidence), or
nothing is judged. What it asks of its host goes through the very driver that asked then, over a transport that gives
the stored answer to each command: parsers and judgement are run again, not their outcome. Whatever has no stored
answer ends in :class:`NotStarted`, and so in a cell that was not judged again.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from harness.bhyve import HALT_DONE, TESTDEV_DONE, Ending, interpret
from harness.conditions import DECISIVE
from harness.errors import GuestHang, GuestSilent, NotStarted, RecordsDamaged, TestDefect
from harness.guest import EndMethod, Program, Result, Rom, check_operations, decode, has_banner, is_finished, phases
from harness.hosts import Host
from harness.hosts.host import FENCED
from harness.hosts.messages import TAIL_COMMAND, judge_messages, read_delta
from harness.hosts.witness import Witness
from harness.inventory import Host as Entry
from harness.lab.platforms import platform_of
from harness.lab.reach import patience_of
from harness.recording import NullRecorder, Recorder
from harness.redaction import clean
from harness.results import CellRecorder
from harness.results.evidence import console_of
from harness.subjects import Platform, Subject
from harness.subjects.bhyve import NAME_PREFIX, BhyveGuest, end_of
from harness.subjects.protocol import HostActions, SavedGuest
from harness.timing import Deadline
from harness.transport import CommandResult

#: What stands before a command that changes a host: as long as it is ours (:meth:`Host.guarded`).
_GUARD = f" || exit {FENCED}; "
#: The first command of the script around a guest; its last one looks at the kernel's messages.
_UPLOAD = re.compile(r"head -c \d+ >\S+\.rom && sha256 -q ")


def _not_stored(what: str) -> NoReturn:
    raise NotStarted(f"{what}, so that the case cannot be judged again.", help="")


class StoredAnswers:
    """The commands of one cell in the order in which they were run, each with what it answered."""

    def __init__(self, folder: Path) -> None:
        self._answers: dict[str, deque[CommandResult | None]] = defaultdict(deque)
        #: Runs of bhyve by the name of the VM: how each ended.
        self._machines: dict[str, deque[CommandResult | None]] = defaultdict(deque)
        path = folder / "commands.jsonl"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        inside = False
        for line in text.split("\n")[:-1]:
            entry = json.loads(line)
            command = _without_guard(entry["command"])
            # What a guest's own script does around bhyve stands in one piece, and is nothing that the case asked.
            inside = inside or _UPLOAD.match(command) is not None
            if inside and not command.startswith("bhyve "):
                inside = command != TAIL_COMMAND
                continue
            answer = None
            if entry["status"] is not None:
                output = bytes.fromhex(entry["stdout_hex"]) if "stdout_hex" in entry else entry["stdout"].encode()
                answer = CommandResult(
                    command, entry["status"], output, entry["stderr"].encode(),
                    entry["started"], entry["seconds"] or 0.0,
                )  # fmt: skip
            if command.startswith("bhyve "):
                self._machines[command.rpartition(" ")[2]].append(answer)
            else:
                self._answers[command].append(answer)

    def take(self, command: str) -> CommandResult:
        """The next answer to this very command; raises :class:`NotStarted` when there is none."""
        # In the evidence it stands as it may be written.
        waiting = self._answers.get(_without_guard(clean(command)))
        if not waiting:
            asked = "which another version of the harness may not have asked"
            _not_stored(f"The evidence has no answer to '{command[:120]}', {asked}")
        answer = waiting.popleft()
        if answer is None:
            _not_stored(f"'{command[:120]}' was never answered")
        return answer

    def machine(self, vm: str) -> CommandResult | None:
        """How the next run of bhyve for this VM ended; ``None`` where nothing says so."""
        return self._machines[vm].popleft() if self._machines[vm] else None

    def was_run(self, command: str) -> bool:
        return clean(command) in self._answers


def _without_guard(command: str) -> str:
    before, guard, after = command.partition(_GUARD)
    return after if guard else before


class _StoredProcess:
    """A command that has ended long ago: all of its output is there."""

    def __init__(self, answer: CommandResult) -> None:
        self._answer = answer

    @property
    def stdout(self) -> bytes:
        return self._answer.stdout

    @property
    def stderr(self) -> bytes:
        return self._answer.stderr

    def write(self, data: bytes) -> None: ...

    def read(self, deadline: Deadline) -> bool:
        return False

    def close_stdin(self) -> None: ...

    def wait(self, deadline: Deadline) -> CommandResult:
        return self._answer

    def close(self) -> None: ...


class _StoredTransport:
    """Implements :class:`harness.transport.Transport` over the evidence of a cell."""

    def __init__(self, name: str, answers: StoredAnswers) -> None:
        self.name = name
        self.recorder: Recorder = NullRecorder()
        self.prelude = ""
        self.channels = 0
        self._answers = answers

    def run(self, command: str, *, stdin: bytes = b"", deadline: Deadline, record: bool = True) -> CommandResult:
        return self._answers.take(command)

    def start(self, command: str, *, deadline: Deadline, record: bool = True) -> _StoredProcess:
        return _StoredProcess(self._answers.take(command))

    def alive(self) -> bool:
        return True

    def close(self) -> None: ...


class _StoredHost(Host):
    """The host of a cell, as its evidence knows it."""

    def __init__(self, name: str, answers: StoredAnswers, patience: float) -> None:
        super().__init__(_StoredTransport(name, answers), patience=patience)
        self.answers = answers

    def ask(self, commands: Mapping[str, str], *, seconds: float = 0) -> dict[str, CommandResult]:
        return {name: self.answers.take(command) for name, command in commands.items()}


class ReplayGuest(BhyveGuest):
    """A guest that ran already. What was done to it is done; what was asked about it is in the evidence."""

    def __init__(
        self, host: _StoredHost, recorder: Recorder, rom: Rom, name: str, console: bytes, folder: Path, *, bare: bool
    ) -> None:
        self._host = host
        self._folder = folder
        self._recorder = recorder
        self._rom = rom
        self._name = name
        self._stored = console
        self._bare = bare
        #: Taken now: a guest whose end the case does not wait for has one as well.
        self._ended = host.answers.machine(name)
        self._forced = host.answers.was_run(f"bhyvectl --vm={name} --force-poweroff")
        self._pid = ""
        self._threads = {}
        self._result: Result | None = None

    @property
    def _console(self) -> bytes:
        return self._stored

    def wait_phase(self, phase: int) -> None:
        if phase not in phases(self._console, self._rom.nonce):
            self.finish()
            raise TestDefect(f"Program '{self._rom.program.name}' ended before the phase that the case waits for.")

    def go(self) -> None: ...

    def wait_reset(self) -> None:
        if self._ended is None:
            _not_stored(f"The evidence does not say how bhyve ended for '{self._rom.program.name}'")
        exit = interpret(self._ended.status, self._ended.errors, done=TESTDEV_DONE)
        if exit.ending is not Ending.RESET:
            raise exit.error(self._rom.program.name, banner=has_banner(self._console, self._rom.nonce))

    def save(self) -> SavedGuest:
        self.wait_reset()
        # What it went on to say when it was restored is in the evidence as well, and was not known then.
        path = self._folder / self._evidence("console.raw")
        if not path.is_file():
            _not_stored(f"The evidence does not say what '{self._rom.program.name}' had sent when it was saved")
        return SavedGuest(self._rom, "", self._console, tuple(phases(path.read_bytes(), self._rom.nonce)))

    def finish(self) -> Result:
        if self._result is None:
            self._result = self._finish()
        return self._result

    def clear(self) -> None: ...

    def _finish(self) -> Result:
        console, nonce, name = self._console, self._rom.nonce, self._rom.program.name
        banner = has_banner(console, nonce)
        if self._bare:
            if is_finished(console):
                result = decode(console, nonce)
                check_operations(result, self._rom.program.ops)
                return result
            if not banner:
                raise GuestSilent(f"Program '{name}' printed no banner.")
            _not_stored(f"Program '{name}' did not come to its end")
        if self._forced and not is_finished(console):
            # The host ended it because the case waited in vain.
            message = f"Program '{name}' did not do what the case waited for within its limit."
            raise GuestHang(message) if banner else GuestSilent(message)
        if self._ended is None:
            _not_stored(f"The evidence does not say how bhyve ended for '{name}'")
        done = TESTDEV_DONE if "pc-testdev" in self._ended.command else HALT_DONE
        result, wrong = end_of(console, self._ended.status, self._ended.errors, self._rom, done)
        if wrong is not None:
            raise wrong
        return result


class ReplaySubject(Subject):
    """Gives each program of a case the records that it left, in the order in which they ran."""

    def __init__(self, platform: Platform, folder: Path, recorder: Recorder, patience: float) -> None:
        self._platform = platform
        self.recorder = recorder
        self.answers = StoredAnswers(folder)
        self._folder = folder
        self._host = _StoredHost(platform.alias, self.answers, patience)
        self._witness = Witness(self._host, platform.vendor)
        self._runs = 0

    @property
    def platform(self) -> Platform:
        return self._platform

    @property
    def host(self) -> HostActions:
        return self._witness

    @contextmanager
    def start(
        self,
        program: Program,
        *,
        pin: int | None = 0,
        name: str = "",
        seconds: float = 30,
        lenient_msrs: bool = False,
        debug_stub: bool = False,
        keep: bool = False,
    ) -> Iterator[ReplayGuest]:
        self._runs += 1
        number = "" if self._runs == 1 else f"-{self._runs}"
        facts = self._read(f"rom{number}.json")
        if facts is None:
            _not_stored(f"The evidence has no program {self._runs} of this case")
        nonce = int(facts["nonce"], 16)
        roms = (Rom.build(program, end, nonce=nonce) for end in EndMethod)
        rom = next((rom for rom in roms if rom.sha256 == facts["rom_sha256"]), None)
        if rom is None:
            raise NotStarted(f"Program '{program.name}' is not the one that ran: its ROM has another hash.", help="")
        vm = f"{NAME_PREFIX}-{name}" if name else NAME_PREFIX
        console = console_of(self._folder, facts["nonce"])
        self._compare_records(console, nonce)
        yield ReplayGuest(self._host, self.recorder, rom, vm, console, self._folder, bare=self.platform.kind == "bare")

    @contextmanager
    def restore(
        self, saved: SavedGuest, *, pin: int | None = 0, name: str = "", seconds: float = 30
    ) -> Iterator[ReplayGuest]:
        vm = f"{NAME_PREFIX}-{name}" if name else NAME_PREFIX
        yield ReplayGuest(self._host, self.recorder, saved.rom, vm, saved.console, self._folder, bare=False)

    def _compare_records(self, console: bytes, nonce: int) -> None:
        """The decoded records in the evidence must be those of the console beside them."""
        if not is_finished(console):
            return
        decoded = [record.as_dict() for record in decode(console, nonce).records]
        for path in self._folder.glob("records*.json"):
            stored = [{key: entry[key] for key in entry if key != "line"} for entry in self._read(path.name)]
            if stored == decoded:
                return
        raise RecordsDamaged(f"No decoded records in the evidence are those of the console with nonce {nonce:08x}.")

    def _read(self, name: str) -> Any:
        path = self._folder / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


class ReplaySession:
    """Implements :class:`harness.lab.session.HostSession` without a host."""

    def __init__(self, alias: str, host: Entry, stored: Path, run_folder: Path) -> None:
        self.platform = platform_of(alias, host)
        self.facts: dict[str, Any] = {"heading": self.platform.heading, "replay_of": stored.name}
        self._patience = patience_of(host)
        self._stored = stored
        self._run_folder = run_folder
        self._folder = stored

    def open(self) -> dict[str, Any]:
        return self.facts

    def begin(self, recorder: Recorder) -> Subject:
        if not isinstance(recorder, CellRecorder):
            raise TestDefect("Only a cell can be judged again.")
        self._folder = self._stored / recorder.folder.relative_to(self._run_folder)
        self.facts |= self._measured()
        return ReplaySubject(self.platform, self._folder, recorder, self._patience)

    def _measured(self) -> dict[str, Any]:
        """What predictions are held against, as the host had it when the cell ran; raises :class:`NotStarted`."""
        try:
            told = json.loads((self._folder / "verdict.json").read_text(encoding="utf-8"))["host_facts"]
            facts = json.loads((self._stored / told["file"]).read_text(encoding="utf-8")) if told else {}
        except (OSError, ValueError, KeyError) as error:
            _not_stored(f"The facts of the host cannot be read ({type(error).__name__}: {error})")
        return {name: facts[name] for name in DECISIVE if name in facts}

    def mark(self, hazard: str) -> None: ...

    def end(self) -> None:
        """What the kernel said is judged again as well."""
        judge_messages(self.platform.alias, read_delta(self._folder))

    def explain(self, error: Exception) -> Exception:
        return error

    def close(self) -> dict[str, Any]:
        return {}
