"""Guest programs under bhyve on a host, through FreeBSD's own command line."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from harness.bhyve import (
    DONE_STATUS,
    bhyve_command,
    explain_exit,
    get_command,
    parse_registers,
    parse_stats,
    set_command,
)
from harness.errors import GuestHang, GuestSilent, InfraError, RecordsDamaged, TestDefect, UnexpectedAnswer
from harness.guest import EndMethod, Program, Result, Rom, decode, has_banner, is_finished, phases
from harness.hosts import Host, Witness
from harness.hosts.state import HostDebugState
from harness.hosts.witness import parse_state, show_state
from harness.recording import Recorder
from harness.subjects.bare import record_program, record_result
from harness.subjects.protocol import HostActions, Platform
from harness.timing import Deadline
from harness.transport import RemoteProcess

#: Name of the VM when a case does not choose one.
DEFAULT_NAME = "vmmcheck"
_GO = b"G"


class BhyveGuest:
    """Implements :class:`harness.subjects.protocol.RunningGuest`."""

    def __init__(
        self, host: Host, recorder: Recorder, rom: Rom, name: str, process: RemoteProcess, seconds: float
    ) -> None:
        self._host = host
        self._recorder = recorder
        self._rom = rom
        self._name = name
        self._process = process
        self._deadline = Deadline.after(seconds)
        self._result: Result | None = None
        self._pid = ""

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
        while self._process.read(self._deadline):
            self._check_deadline("end")
        done = self._process.wait(self._deadline)
        self._recorder.add_file("console.raw", done.stdout)
        if not is_finished(done.stdout):
            raise self._unfinished(done.status, done.stderr.decode("utf-8", "replace"))
        self._result = decode(done.stdout, self._rom.nonce)
        record_result(self._recorder, self._result)
        if done.status != DONE_STATUS:
            raise explain_exit(done.status, done.stderr.decode("utf-8", "replace"))
        return self._result

    def _end_early(self) -> None:
        self.finish()
        raise TestDefect(f"Program '{self._rom.program.name}' ended before the phase that the case waits for.")

    def _unfinished(self, status: int, stderr: str) -> Exception:
        if status == DONE_STATUS:
            return RecordsDamaged("The guest ended in order, but its closing line did not arrive.")
        if status != 134 and "vm_run error" not in stderr and not has_banner(self._process.stdout, self._rom.nonce):
            error = explain_exit(status, stderr)
            if isinstance(error, InfraError):
                return error
            return GuestSilent(f"Program '{self._rom.program.name}' printed no banner; {error.message}")
        return explain_exit(status, stderr)

    def _check_deadline(self, what: str) -> None:
        if not self._deadline.expired():
            return
        self._recorder.add_file("console.raw", self._process.stdout)
        started = has_banner(self._process.stdout, self._rom.nonce)
        message = f"Program '{self._rom.program.name}' did not {what} within {self._deadline.seconds:g} s."
        raise GuestHang(message) if started else GuestSilent(message)

    # --- the host's hand on the guest -----------------------------------------------------------------------

    def registers(self, *names: str) -> Mapping[str, int]:
        return parse_registers(self._host.run(get_command(self._name, names)), names)

    def set_registers(self, **values: int) -> None:
        self._host.check(set_command(self._name, values))

    def try_set_registers(self, **values: int) -> bool:
        return self._host.run(set_command(self._name, values)).status == 0

    def stats(self) -> Mapping[str, int]:
        return parse_stats(self._host.check(shlex.join(["bhyvectl", f"--vm={self._name}", "--get-stats"])))

    def pin(self, cpu: int) -> None:
        self._host.check(f"cpuset -l {cpu} -t {self._thread()}")

    def thread_debug_registers(self) -> HostDebugState:
        command = f"{self._host.folder}/vmmwitness dbregs get {self._process_id()} {self._thread()}"
        return parse_state(self._host.check(command).text)

    def set_thread_debug_registers(self, state: HostDebugState) -> None:
        registers = show_state(state, debugctl=False)
        self._host.check(f"{self._host.folder}/vmmwitness dbregs set {self._process_id()} {self._thread()} {registers}")

    def _process_id(self) -> str:
        if not self._pid:
            # The name is the last word of the command line.
            self._pid = self._host.check(f"pgrep -f 'bhyve.* {self._name}$'").text.split("\n")[0]
        return self._pid

    def _thread(self) -> str:
        text = self._host.check(f"procstat -t {self._process_id()}").text
        match = re.search(rf"^\s*{self._process_id()}\s+(\d+)\s.*\bvcpu 0\b", text, re.MULTILINE)
        if match is None:
            raise UnexpectedAnswer(f"'procstat -t {self._process_id()}' shows no thread 'vcpu 0': {text[:200]!r}.")
        return match[1]


class BhyveSubject:
    """Implements :class:`harness.subjects.protocol.Subject` on one host."""

    def __init__(self, platform: Platform, host: Host) -> None:
        self._platform = platform
        self._host = host
        self._witness = Witness(host)
        self.recorder: Recorder = host.transport.recorder

    @property
    def platform(self) -> Platform:
        return self._platform

    @property
    def host(self) -> HostActions:
        return self._witness

    def run(self, program: Program, *, pin: int | None = 0, seconds: float = 30) -> Result:
        with self.start(program, pin=pin, seconds=seconds) as guest:
            return guest.finish()

    @contextmanager
    def start(
        self, program: Program, *, pin: int | None = 0, name: str = "", seconds: float = 30
    ) -> Iterator[BhyveGuest]:
        """Boot the program's ROM; the VM is gone when the context ends, whatever happened inside."""
        vm = name or DEFAULT_NAME
        rom = Rom.build(program, EndMethod.TESTDEV)
        record_program(self.recorder, rom)
        path = f"{self._host.folder}/{vm}.rom"
        self._host.put(path, rom.image)
        process = self._host.transport.start(bhyve_command(vm, path, pin=pin), deadline=Deadline.after(seconds))
        try:
            yield BhyveGuest(self._host, self.recorder, rom, vm, process, seconds)
        finally:
            self._remove(vm, process)

    def _remove(self, vm: str, process: RemoteProcess) -> None:
        """Destroying the VM ends a bhyve that still runs; that the node is gone is the proof."""
        quoted = shlex.quote(vm)
        done = self._host.run(
            f"bhyvectl --vm={quoted} --destroy; rm -f {self._host.folder}/{quoted}.rom; test ! -e /dev/vmm/{quoted}"
        )
        with contextlib.suppress(InfraError):
            process.wait(Deadline.after(5))
        process.close()
        if done.status != 0:
            raise InfraError(f"The virtual machine '{vm}' could not be removed: {done.stderr.decode()[:200]}.")
