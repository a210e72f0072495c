"""Guest programs under bhyve on a host, through FreeBSD's own command line: one round trip for a whole run."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from harness.bhyve import (
    HALT_DONE,
    STUB_PORT,
    TESTDEV_DONE,
    BhyveOptions,
    Debugger,
    Ending,
    HostView,
    RunScript,
    carry_command,
    check_set,
    find_command,
    get_all_command,
    get_capability_command,
    get_command,
    interpret,
    parse_capability,
    parse_descriptor,
    parse_registers,
    parse_stats,
    remove_machine,
    set_capability_command,
    set_command,
    set_descriptor_command,
    stats_command,
    stop_guest,
)
from harness.bhyve.runscript import Finished
from harness.errors import GuestHang, GuestSilent, RecordsDamaged, SshLost, TestDefect, UnexpectedAnswer, VmmcheckError
from harness.guest import EndMethod, Program, Result, Rom, decode, has_banner, is_finished, noted, phases, with_memory
from harness.guest.records import RECORD_SIZE
from harness.hosts import Host, MessageLog, Witness
from harness.hosts.state import HostDebugState, ThreadBases
from harness.hosts.witness import parse_bases, parse_state, show_state
from harness.jsontext import listed
from harness.recording import Recorder
from harness.subjects.bare import record_program, record_result
from harness.subjects.protocol import HostActions, Platform, Subject
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
    return result, None if exit.ending is Ending.DONE else exit.error(rom.program.name, banner=True)


class BhyveGuest:
    """Implements :class:`harness.subjects.protocol.RunningGuest`."""

    def __init__(
        self, host: Host, recorder: Recorder, rom: Rom, name: str, script: RunScript, seconds: float, done: int
    ) -> None:
        self._host = host
        self._recorder = recorder
        self._rom = rom
        self._name = name
        self._script = script
        self._done = done
        self._deadline = Deadline.after(seconds * host.patience)
        self._result: Result | None = None
        self._finished: Finished | None = None
        self._pid = ""
        self._threads: dict[int, str] = {}
        # The recorder is told by the script's own reader, step by step.
        self._process: RemoteProcess = host.transport.start(script.text(), deadline=self._deadline, record=False)
        self._process.write(rom.image)

    @property
    def view(self) -> HostView | None:
        """The host right after the guest; ``None`` as long as it runs."""
        return self._finished.view if self._finished is not None else None

    # --- phases ------------------------------------------------------------------------------------------

    def wait_phase(self, phase: int) -> None:
        """Wait for ``sync(phase)``; a guest that ends or hangs before it is what is reported."""
        while phase not in phases(self._process.stdout, self._rom.nonce):
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
        while not is_finished(self._process.stdout) and self._process.read(self._deadline):
            self._check_deadline("end")
        finished = self._wait()
        console = with_memory(self._process.stdout, finished.records)
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
            raise exit.error(self._rom.program.name, banner=has_banner(self._process.stdout, self._rom.nonce))

    def force_reset(self) -> None:
        self._host.change(shlex.join(["bhyvectl", f"--vm={self._name}", "--force-reset"]))
        self.wait_reset()

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
                console = with_memory(done.stdout, records) if records else done.stdout
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
        self._recorder.add_file(self._evidence("console.raw"), self._process.stdout)
        started = has_banner(self._process.stdout, self._rom.nonce)
        message = f"Program '{self._rom.program.name}' did not {what} within {self._deadline.seconds:g} s."
        raise GuestHang(message) if started else GuestSilent(message)

    # --- the host's hand on the guest -----------------------------------------------------------------------

    def registers(self, *names: str, vcpu: int = 0) -> Mapping[str, int]:
        return parse_registers(self._host.run(get_command(self._name, names, vcpu)), names, vcpu)

    def all_registers(self, *names: str, vcpu: int = 0) -> Mapping[str, int]:
        return parse_registers(self._host.run(get_all_command(self._name, vcpu)), names, vcpu)

    def set_registers(self, vcpu: int = 0, **values: int) -> None:
        check_set(self._host.try_change(set_command(self._name, values, vcpu)))

    def try_set_registers(self, vcpu: int = 0, **values: int) -> bool:
        return self._host.try_change(set_command(self._name, values, vcpu)).status == 0

    def descriptor(self, name: str, vcpu: int = 0) -> tuple[int, int, int]:
        return parse_descriptor(self._host.run(get_command(self._name, [f"desc-{name}"], vcpu)), name, vcpu)

    def set_descriptor(self, name: str, base: int, limit: int, access: int = 0, vcpu: int = 0) -> None:
        check_set(self._host.try_change(set_descriptor_command(self._name, name, (base, limit, access), vcpu)))

    def set_capability(self, name: str, on: bool, vcpu: int = 0) -> None:
        check_set(self._host.try_change(set_capability_command(self._name, name, on, vcpu)))

    def write_memory(self, address: int, data: bytes) -> None:
        if address % len(data):
            raise TestDefect(f"{len(data)} bytes cannot be written at {address:#x}: it is no multiple of the length.")
        blocks = f"bs={len(data)} oseek={address // len(data)}"
        self._host.change(f"dd of=/dev/vmm/{self._name} {blocks} conv=notrunc 2>/dev/null", stdin=data)

    def stats(self, vcpu: int = 0) -> Mapping[str, int]:
        return parse_stats(self._host.run(stats_command(self._name, vcpu)))

    def pin(self, cpu: int, vcpu: int = 0) -> None:
        self._host.change(f"cpuset -l {cpu} -t {self._thread(vcpu)}")

    def read_memory(self, address: int, length: int) -> bytes:
        if address % length:
            raise TestDefect(f"{length} bytes cannot be read at {address:#x}: it is no multiple of the length.")
        blocks = f"bs={length} iseek={address // length} count=1"
        # As text: evidence keeps no other bytes.
        text = self._host.check(f"dd if=/dev/vmm/{self._name} {blocks} 2>/dev/null | od -An -v -tx1").text
        found = bytes.fromhex(text) if re.fullmatch(r"[\s0-9a-f]*", text) else b""
        if len(found) != length:
            raise UnexpectedAnswer(f"/dev/vmm/{self._name} gave {len(found)} bytes at {address:#x}, not {length}.")
        return found

    def capability(self, name: str, vcpu: int = 0) -> bool:
        return parse_capability(self._host.run(get_capability_command(self._name, name, vcpu)), name)

    @contextmanager
    def debugger(self) -> Iterator[Debugger]:
        seconds = 10 * self._host.patience
        command = self._host.guarded(carry_command())
        process = self._host.transport.start(command, deadline=Deadline.after(seconds))
        try:
            debugger = Debugger(process, seconds)
        except VmmcheckError:
            # Its end is what puts it into the evidence.
            with contextlib.suppress(VmmcheckError, OSError):
                process.close_stdin()
                process.wait(Deadline.after(seconds))
            raise
        try:
            yield debugger
        except BaseException:
            # What happened inside is what is told.
            with contextlib.suppress(VmmcheckError):
                if debugger.attached:
                    debugger.close()
            raise
        else:
            debugger.detach()

    def stop(self) -> None:
        self._host.change(f"kill -STOP {self._process_id()}")

    def cont(self) -> None:
        self._host.change(f"kill -CONT {self._process_id()}")

    def inject_nmi(self) -> None:
        self._host.change(shlex.join(["bhyvectl", f"--vm={self._name}", "--inject-nmi"]))

    def thread_number(self, vcpu: int = 0) -> int:
        return int(self._thread(vcpu))

    def thread_debug_registers(self) -> HostDebugState:
        command = f"{self._host.folder}/vmmwitness dbregs get {self._process_id()} {self._thread(0)}"
        return parse_state(self._host.check(command).text)

    def set_thread_debug_registers(self, state: HostDebugState) -> None:
        registers = show_state(state, debugctl=False)
        command = f"{self._host.folder}/vmmwitness dbregs set {self._process_id()} {self._thread(0)} {registers}"
        self._host.change(command)

    def thread_bases(self) -> ThreadBases:
        command = f"{self._host.folder}/vmmwitness bases {self._process_id()} {self._thread(0)}"
        return parse_bases(self._host.check(command).text)

    def _process_id(self) -> str:
        if not self._pid:
            self._look_up()
        return self._pid

    def _thread(self, vcpu: int) -> str:
        if vcpu not in self._threads:
            self._look_up()
        if vcpu not in self._threads:
            raise UnexpectedAnswer(f"'procstat -t {self._pid}' shows no thread 'vcpu {vcpu}'.")
        return self._threads[vcpu]

    def _look_up(self) -> None:
        """Process and threads in one round trip; they stay what they are as long as the guest runs."""
        answers = self._host.ask(
            {"pid": find_command(self._name), "threads": f"procstat -t $({find_command(self._name)})"}
        )
        pids = answers["pid"].text.split()
        if len(pids) != 1 or not pids[0].isdigit():
            raise UnexpectedAnswer(f"'{answers['pid'].command}' found {pids or 'no process'}; one was expected.")
        self._pid = pids[0]
        lines = re.findall(rf"^\s*{self._pid}\s+(\d+)\s.*\bvcpu (\d+)\b", answers["threads"].text, re.MULTILINE)
        self._threads = {int(vcpu): thread for thread, vcpu in lines}


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
        vm = f"{NAME_PREFIX}-{name}" if name else NAME_PREFIX
        rom = Rom.build(program, EndMethod.TESTDEV_KEPT if self._testdev else EndMethod.HLT_KEPT)
        record_program(self.recorder, rom)
        options = BhyveOptions(
            vm, f"{self._host.folder}/{vm}.rom", vcpus=program.vcpus, pins=self._pins(pin, program.vcpus),
            testdev=self._testdev, lenient_msrs=lenient_msrs, gdb=STUB_PORT if debug_stub else 0,
        )  # fmt: skip
        mark = f"{rom.nonce:08x} {re.sub(r'[^A-Za-z0-9 ._-]', '', program.name)}"
        script = RunScript(options, rom.image, self._host, mark, keep=keep)
        done = TESTDEV_DONE if self._testdev else HALT_DONE
        guest = BhyveGuest(self._host, self.recorder, rom, vm, script, seconds, done)
        try:
            yield guest
        except BaseException:
            # What happened inside is what is told; that the VM could not be removed as well shows at the next look.
            with contextlib.suppress(VmmcheckError):
                guest.clear()
            if keep:
                remove_machine(self._host, vm)
            raise
        else:
            guest.clear()
        finally:
            self._view, self._seen_at = guest.view, self._host.transport.channels
            if guest.view is not None:
                self.messages.take(guest.view.tail, mark)

    def _pins(self, first: int | None, vcpus: int) -> tuple[int, ...]:
        if first is None:
            return ()
        return tuple((first + vcpu) % max(1, self._platform.ncpu) for vcpu in range(vcpus))
