"""Guest programs under bhyve on a host, through FreeBSD's own command line: one round trip for a whole run."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager

from harness.bhyve import (
    HALT_DONE,
    STUB_PORT,
    TESTDEV_DONE,
    BhyveOptions,
    Ending,
    HostView,
    RunScript,
    interpret,
    remove_machine,
    stop_guest,
)
from harness.bhyve.runscript import Finished
from harness.errors import GuestHang, GuestSilent, RecordsDamaged, SshLost, TestDefect, VmmcheckError
from harness.guest import (
    EndMethod,
    Program,
    Result,
    Rom,
    check_operations,
    decode,
    has_banner,
    is_finished,
    noted,
    phases,
    with_memory,
)
from harness.guest.records import RECORD_SIZE
from harness.hosts import Host, MessageLog, Witness
from harness.jsontext import listed
from harness.recording import Recorder
from harness.subjects.bare import record_program, record_result
from harness.subjects.hand import HostsHand
from harness.subjects.protocol import HostActions, Platform, SavedGuest, Subject
from harness.timing import Deadline
from harness.transport import RemoteProcess

#: Every VM of ours begins with this: what is left of a broken run is told from machines of others.
NAME_PREFIX = "vmmcheck"
_GO = b"G"
#: Seconds for removing a VM and looking at the host, on top of the time that a guest has.
_CLEARING = 20.0


def end_of(console: bytes, status: int, stderr: str, rom: Rom, done: int) -> tuple[Result, VmmcheckError | None]:
    """The records of a guest that has ended, and what was wrong with how bhyve ended (``done`` is its good status).

    ``console`` is what ``with_memory`` makes where the records were read in the guest's memory.

    Raises :class:`RecordsDamaged`, or what it means that the guest did not come to its end.
    """
    exit = interpret(status, stderr, done=done)
    if not is_finished(console):
        if exit.ending is Ending.DONE:
            raise RecordsDamaged("The guest ended in order, but its closing line did not arrive.")
        raise exit.error(rom.program.name, banner=has_banner(console, rom.nonce))
    result = decode(console, rom.nonce)
    check_operations(result, rom.program.ops)
    return result, None if exit.ending is Ending.DONE else exit.error(rom.program.name, banner=True)


class BhyveGuest(HostsHand):
    """Implements :class:`harness.subjects.protocol.RunningGuest`; ``before`` is the console of a former life."""

    def __init__(
        self, host: Host, recorder: Recorder, rom: Rom, name: str, script: RunScript, seconds: float, done: int,
        before: bytes = b"",
    ) -> None:  # fmt: skip
        super().__init__(host, name)
        self._recorder = recorder
        self._rom = rom
        self._script = script
        self._done = done
        self._deadline = Deadline.after(seconds * host.patience)
        self._result: Result | None = None
        self._finished: Finished | None = None
        self._before = before
        # The recorder is told by the script's own reader, step by step.
        self._process: RemoteProcess = host.transport.start(script.text(), deadline=self._deadline, record=False)
        self._process.write(rom.image)

    @property
    def view(self) -> HostView | None:
        """The host right after the guest; ``None`` as long as it runs."""
        return self._finished.view if self._finished is not None else None

    @property
    def _console(self) -> bytes:
        return self._before + self._process.stdout

    # --- phases ------------------------------------------------------------------------------------------

    def wait_phase(self, phase: int) -> None:
        """Wait for ``sync(phase)``; a guest that ends or hangs before it is what is reported."""
        while phase not in phases(self._console, self._rom.nonce):
            if not self._process.read(self._deadline):
                self._end_early()
            self._check_deadline(f"reach phase {phase}")

    def go(self) -> None:
        # A guest that died meanwhile is what has to be told, not that nobody takes the byte.
        if not self._process.read(Deadline.after(0)):
            self._end_early()
        self._process.write(_GO)

    def finish(self) -> Result:
        """The records; raises what happened when there are none."""
        if self._result is not None:
            return self._result
        while not is_finished(self._console) and self._process.read(self._deadline):
            self._check_deadline("end")
        finished = self._wait()
        console = with_memory(self._console, finished.records)
        self._result, wrong = end_of(console, finished.status, finished.stderr, self._rom, self._done)
        record_result(self._recorder, self._result)
        if wrong is not None:
            raise wrong
        return self._result

    def wait_reset(self) -> None:
        while not self._script.ended(self._process.stderr) and self._process.read(self._deadline):
            self._check_deadline("be reset")
        finished = self._wait()
        exit = interpret(finished.status, finished.stderr, done=self._done)
        if exit.ending is not Ending.RESET:
            raise exit.error(self._rom.program.name, banner=has_banner(self._console, self._rom.nonce))

    def force_reset(self) -> None:
        self._host.change(shlex.join(["bhyvectl", f"--vm={self._name}", "--force-reset"]))
        self.wait_reset()

    def save(self) -> SavedGuest:
        file = f"{self._host.folder}/{self._name}.snapshot"
        self._host.change(shlex.join(["bhyvectl", f"--vm={self._name}", f"--suspend={file}"]))
        self.wait_reset()
        return SavedGuest(self._rom, file, self._console, tuple(phases(self._console, self._rom.nonce)))

    def clear(self) -> None:
        """End the guest if it still runs; its VM is gone afterwards. Raises what stands against that."""
        if self._finished is not None:
            return
        if not self._host.transport.alive():
            raise SshLost(f"The connection to '{self._host.transport.name}' went while guest '{self._name}' ran.")
        if self._process.read(Deadline.after(0)) and not self._script.ended(self._process.stderr):
            way = stop_guest(self._host, self._name, self._process)
            self._recorder.add_note(f"The guest '{self._name}' was still running and was ended by {way}.")
        self._wait()

    def _wait(self) -> Finished:
        """The end of the script: bhyve ended, its VM was removed, the host was looked at."""
        if self._finished is None:
            left = Deadline.after(self._deadline.remaining() + _CLEARING * self._host.patience)
            done = self._process.wait(left)
            finished: Finished | None = None
            try:
                finished = self._script.read(done, self._recorder)
            finally:
                records = finished.records if finished is not None else b""
                if records and not is_finished(done.stdout):
                    records = self._keep_unfinished(records)
                sent = self._before + done.stdout
                console = with_memory(sent, records) if records else sent
                self._recorder.add_file(self._evidence("console.raw"), console)
            self._finished = finished
        return self._finished

    def _keep_unfinished(self, memory: bytes) -> bytes:
        """Show what a guest had noted that did not come to its end; the bytes of that."""
        found = noted(memory)
        if found:
            entries = listed([record.as_dict() for record in found])
            self._recorder.add_file(self._evidence("noted.json"), entries.encode())
            last = f"it had noted {len(found)} records, the last one in operation {found[-1].op} of its program"
            self._recorder.add_note(f"The guest '{self._name}' did not come to its end: {last}.")
        return memory[: len(found) * RECORD_SIZE]

    def _evidence(self, name: str) -> str:
        return name if self._name == NAME_PREFIX else f"{self._name.removeprefix(f'{NAME_PREFIX}-')}-{name}"

    def _end_early(self) -> None:
        self.finish()
        raise TestDefect(f"Program '{self._rom.program.name}' ended before the phase that the case waits for.")

    def _check_deadline(self, what: str) -> None:
        if not self._deadline.expired() or self._script.ended(self._process.stderr):
            return
        self._recorder.add_file(self._evidence("console.raw"), self._console)
        started = has_banner(self._console, self._rom.nonce)
        message = f"Program '{self._rom.program.name}' did not {what} within {self._deadline.seconds:g} s."
        raise GuestHang(message) if started else GuestSilent(message)


class BhyveSubject(Subject):
    """Implements :class:`harness.subjects.protocol.Subject` on one host.

    ``testdev`` says whether bhyve there has pc-testdev; without it a guest says that it is done by halting.
    """

    def __init__(self, platform: Platform, host: Host, *, testdev: bool = True) -> None:
        self._platform = platform
        self._host = host
        self._witness = Witness(host, platform.vendor)
        self._testdev = testdev
        self._view: HostView | None = None
        self._seen_at = -1
        self.recorder: Recorder = host.transport.recorder
        #: What the kernel said, from item to item.
        self.messages = MessageLog()

    @property
    def platform(self) -> Platform:
        return self._platform

    @property
    def host(self) -> HostActions:
        return self._witness

    @property
    def channels(self) -> int:
        """Round trips to the host so far."""
        return self._host.transport.channels

    def fresh_view(self) -> HostView | None:
        """The host as the last guest's script saw it, if nothing was done there since."""
        return self._view if self._host.transport.channels == self._seen_at else None

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
    ) -> Iterator[BhyveGuest]:
        """Boot the program's ROM; the VM is gone when the context ends, whatever happened inside, unless the guest was
        reset and ``keep`` asks for it.

        ``pin`` is the host CPU of vCPU 0; further vCPUs go to the ones behind it.
        """
        rom = Rom.build(program, EndMethod.TESTDEV_KEPT if self._testdev else EndMethod.HLT_KEPT)
        record_program(self.recorder, rom)
        vm, pins = self._machine(name), self._pins(pin, program.vcpus)
        options = BhyveOptions(
            vm, f"{self._host.folder}/{vm}.rom", vcpus=program.vcpus, pins=pins, testdev=self._testdev,
            lenient_msrs=lenient_msrs, gdb=STUB_PORT if debug_stub else 0,
        )  # fmt: skip
        with self._run(rom, options, seconds, keep=keep) as guest:
            yield guest

    @contextmanager
    def restore(
        self, saved: SavedGuest, *, pin: int | None = 0, name: str = "", seconds: float = 30
    ) -> Iterator[BhyveGuest]:
        """Let a saved guest go on under bhyve's ``-r``; its files are gone when the context ends."""
        vm, vcpus = self._machine(name), saved.rom.program.vcpus
        options = BhyveOptions(
            vm, f"{self._host.folder}/{vm}.rom", vcpus=vcpus, pins=self._pins(pin, vcpus), testdev=self._testdev,
            restore=saved.file,
        )  # fmt: skip
        try:
            with self._run(saved.rom, options, seconds, before=saved.console) as guest:
                yield guest
        finally:
            with contextlib.suppress(VmmcheckError):
                self._host.change(shlex.join(["rm", "-f", saved.file, f"{saved.file}.kern", f"{saved.file}.meta"]))

    @contextmanager
    def _run(
        self, rom: Rom, options: BhyveOptions, seconds: float, *, keep: bool = False, before: bytes = b""
    ) -> Iterator[BhyveGuest]:
        mark = f"{rom.nonce:08x} {re.sub(r'[^A-Za-z0-9 ._-]', '', rom.program.name)}"
        script = RunScript(options, rom.image, self._host, mark, keep=keep)
        done = TESTDEV_DONE if self._testdev else HALT_DONE
        guest = BhyveGuest(self._host, self.recorder, rom, options.name, script, seconds, done, before)
        try:
            yield guest
        except BaseException:
            # What happened inside is what is told; that the VM could not be removed as well shows at the next look.
            with contextlib.suppress(VmmcheckError):
                guest.clear()
            if keep:
                remove_machine(self._host, options.name)
            raise
        else:
            guest.clear()
        finally:
            self._view, self._seen_at = guest.view, self._host.transport.channels
            if guest.view is not None:
                self.messages.take(guest.view.tail, mark)

    @staticmethod
    def _machine(name: str) -> str:
        return f"{NAME_PREFIX}-{name}" if name else NAME_PREFIX

    def _pins(self, first: int | None, vcpus: int) -> tuple[int, ...]:
        if first is None:
            return ()
        return tuple((first + vcpu) % max(1, self._platform.ncpu) for vcpu in range(vcpus))
