"""What a host can do to a guest that runs under bhyve on it, by FreeBSD's own commands."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from harness.bhyve import (
    Debugger,
    carry_command,
    check_set,
    find_command,
    get_all_command,
    get_capability_command,
    get_command,
    parse_capability,
    parse_descriptor,
    parse_registers,
    parse_stats,
    set_capability_command,
    set_command,
    set_descriptor_command,
    stats_command,
)
from harness.errors import TestDefect, UnexpectedAnswer, VmmcheckError
from harness.hosts import Host
from harness.hosts.host import ROOT, run_as
from harness.hosts.state import HostDebugState, ThreadBases
from harness.hosts.witness import parse_bases, parse_state, show_state
from harness.timing import Deadline


class HostsHand:
    """The part of :class:`harness.subjects.protocol.RunningGuest` that needs nothing of a guest but its name."""

    def __init__(self, host: Host, name: str) -> None:
        self._host = host
        self._name = name
        self._pid = ""
        self._threads: dict[int, str] = {}

    def registers(self, *names: str, vcpu: int = 0, by: str = ROOT) -> Mapping[str, int]:
        return parse_registers(self._host.run(run_as(by, get_command(self._name, names, vcpu))), names, vcpu)

    def all_registers(self, *names: str, vcpu: int = 0) -> Mapping[str, int]:
        return parse_registers(self._host.run(get_all_command(self._name, vcpu)), names, vcpu)

    def set_registers(self, vcpu: int = 0, **values: int) -> None:
        check_set(self._host.try_change(set_command(self._name, values, vcpu)))

    def try_set_registers(self, vcpu: int = 0, **values: int) -> bool:
        return self._host.try_change(set_command(self._name, values, vcpu)).status == 0

    def try_set_registers_as(self, by: str, **values: int) -> bool:
        return self._host.try_change(run_as(by, set_command(self._name, values, 0))).status == 0

    def try_destroy(self, by: str) -> bool:
        command = run_as(by, shlex.join(["bhyvectl", f"--vm={self._name}", "--destroy"]))
        return self._host.try_change(command).status == 0

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
