"""The emulated host: its files, modules, processes and messages around one emulated machine."""

from __future__ import annotations

import os
import struct
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from harness.emulated.ctl import Code, KernelError
from harness.emulated.gdbstub import DebugStub
from harness.emulated.machine import Hello, Listener, Machine
from harness.emulated.shell import Program, Shell
from harness.emulated.streams import Pipe
from harness.emulated.vfs import FileSystem
from harness.errors import EmulatorFailed
from harness.timing import CLOCK

RELEASE = "13.2-RELEASE"
OSRELDATE = "1302001"
IDENT = "vmmcheck-emulated"

#: First line of the small files that stand for kernel modules here; what follows is for the kernel.
MODULE_HEADER = "vmmcheck reference vmm.ko"
WITNESS_HEADER = "vmmcheck witness.ko"

EXIT_KILLED = 137
EXIT_GONE = 1
ENXIO = 6


@dataclass(slots=True)
class Module:
    """A loaded kernel linker file."""

    id: int
    name: str
    path: str
    modules: tuple[str, ...]


@dataclass(slots=True)
class Process:
    """A running bhyve. ``pid`` is the process, ``cpus`` the host CPU that each vCPU thread is bound to, if any."""

    pid: int
    vm: str
    command: str
    out: Pipe = field(default_factory=Pipe)
    errors: str = ""
    status: int | None = None
    cpus: list[int | None] = field(default_factory=lambda: [None])
    ended: threading.Event = field(default_factory=threading.Event)

    def lwp(self, vcpu: int = 0) -> int:
        """Number of a vCPU's thread."""
        return 100000 + 8 * self.pid + vcpu


class Tracing(Protocol):
    """A running dtrace, as far as starting a process matters to it."""

    lock: threading.Lock

    def drain_locked(self) -> None:
        """Take the records so far."""

    def learn(self, thread: int, tid: int, pid: int) -> None:
        """A thread of the kernel by its identity, and what it is to users."""


class EmulatedHost:
    """Everything that FreeBSD's command line shows, over one machine. Commands register themselves."""

    def __init__(self, vendor: str, state: Path) -> None:
        self.vendor = vendor
        self.state = state
        self.lock = threading.RLock()
        self.hello: Hello | None = None
        self.booted = threading.Event()
        self.boot_id = ""
        self.boot_time = 0.0
        self.messages: list[str] = []
        self.console: list[str] = []
        self.kenv: dict[str, str] = {}
        self.modules: list[Module] = []
        self.processes: dict[int, Process] = {}
        self.witness: dict[str, str] = {}
        self.programs: dict[str, Program] = {}
        #: Debug stubs of running guests by their ports.
        self.debug_stubs: dict[int, DebugStub] = {}
        self.cut_links: Callable[[], None] = lambda: None
        self.declared_cpu: tuple[str, str] | None = None
        self.boot_delay = 0.0
        #: Seconds by which the host's clock is wrong.
        self.clock_offset = 0.0
        #: Somebody holds vmm.ko, so that it cannot be unloaded.
        self.module_busy = False
        self._tracing: Tracing | None = None
        self._vm_names: list[str] = []
        self._next_pid = 1000
        self._next_module = 2
        self._panic_text = ""
        self.files = FileSystem(lambda: list(self._vm_names))
        self.shell = Shell(self.files, self.find_program)
        self.machine = Machine(
            vendor,
            state / "machine",
            Listener(self._console, self._exited, self.log, self._panicked, self._reset, self._died, self._debug),
        )
        self._install_files()

    def _install_files(self) -> None:
        self.files.write("/boot/kernel/vmm.ko", f"{MODULE_HEADER}\n".encode(), mode=0o555)
        self.files.write("/boot/kernel/nmdm.ko", b"vmmcheck nmdm.ko\n", mode=0o555)
        self.files.write("/boot/kernel/cpuctl.ko", b"vmmcheck cpuctl.ko\n", mode=0o555)
        self.files.write("/boot/kernel/dtraceall.ko", b"vmmcheck dtraceall.ko\n", mode=0o555)
        self.files.write("/etc/hostid", f"{uuid.uuid5(uuid.NAMESPACE_DNS, self.vendor)}\n".encode())

    # --- power and boots ---------------------------------------------------------------------------------

    def boot(self) -> None:
        """Switch the machine on and come up with a new boot identifier."""
        if self.boot_delay:
            CLOCK.sleep(self.boot_delay)
        with self.lock:
            self.messages.clear()
            self.kenv = {"kernelname": "/boot/kernel/kernel", "smbios.system.product": IDENT}
            self.modules.clear()
            self.processes.clear()
            self.witness.clear()
            self._vm_names.clear()
            self._next_module = 2
            self.files.forget_volatile()
            self.boot_id = uuid.uuid4().hex
            self.boot_time = time.time()
            self._panic_text = ""
        self.hello = self.machine.power_on()
        self.log(f"FreeBSD {RELEASE} {IDENT} amd64")
        vendor, brand = self.declared_cpu or (self.hello.vendor, self.hello.brand)
        self.log(f"CPU: {brand}")
        self.log(
            f'  Origin="{vendor}"  Id={self.hello.signature:#x}  Family={self.hello.family:#x}'
            f"  Model={self.hello.model:#x}  Stepping={self.hello.stepping}"
        )
        self.log(f"FreeBSD/SMP: Multiprocessor System Detected: {self.hello.ncpu} CPUs")
        self.booted.set()

    def shutdown(self) -> None:
        """Power off at once: whatever ran is gone."""
        self.booted.clear()
        self.machine.power_off()
        with self.lock:
            gone = list(self.processes.values())
            self.processes.clear()
        for process in gone:
            self._finish(process, EXIT_KILLED, "")
        self.cut_links()

    def reboot(self) -> None:
        self.shutdown()
        self.boot()

    def crash(self, text: str) -> None:
        """Go down, leave a dump behind when there was a panic message, and come up again."""
        self.shutdown()
        if text:
            number = len([name for name in self.files.listing("/var/crash") if name.startswith("core.txt.")])
            dump = "".join(f"{line}\n" for line in (*self.messages, f"panic: {text}"))
            self.files.write(f"/var/crash/core.txt.{number}", dump.encode())
            self.files.write(f"/var/crash/info.{number}", f"Panic String: {text}\n".encode())
        self.boot()

    def _panicked(self, text: str) -> None:
        self.console.append(f"panic: {text}")
        self.log(f"panic: {text}")
        self._panic_text = text
        threading.Thread(target=self.crash, args=(text,), daemon=True).start()

    def _reset(self) -> None:
        """The processors reset by themselves: nothing is left that could say why."""
        threading.Thread(target=self.crash, args=("",), daemon=True).start()

    def _died(self) -> None:
        """The machine lost its power; somebody has to switch it on again."""
        threading.Thread(target=self.shutdown, daemon=True).start()

    # --- what the kernel tells ----------------------------------------------------------------------------

    def log(self, text: str) -> None:
        lines = text.rstrip("\n").split("\n")
        self.messages.extend(lines)
        self.console.extend(lines)

    def _process_of(self, vm: str) -> Process | None:
        return next((process for process in self.processes.values() if process.vm == vm), None)

    def _console(self, vm: str, data: bytes) -> None:
        process = self._process_of(vm)
        if process is not None:
            process.out.write(data)

    def _debug(self, vm: str, vcpu: int, why: int, rip: int) -> None:
        for stub in list(self.debug_stubs.values()):
            if stub.vm == vm:
                stub.stopped(vcpu, why, rip)

    def _exited(self, vm: str, status: int, errors: str) -> None:
        process = self._process_of(vm)
        if process is None:
            return
        with self.lock:
            self.processes.pop(process.pid, None)
        self.machine.release()
        self._finish(process, status, errors)

    @staticmethod
    def _finish(process: Process, status: int, errors: str) -> None:
        if process.status is None:
            process.status = status
        process.errors += errors
        process.out.close()
        process.ended.set()

    # --- tracing ------------------------------------------------------------------------------------------------

    @property
    def traced(self) -> bool:
        """Whether probes are enabled: then modules cannot go."""
        return self._tracing is not None

    def trace_with(self, tracing: Tracing | None) -> bool:
        """A dtrace begins (or, with ``None``, ends); false when another one runs."""
        with self.lock:
            if tracing is not None and self._tracing is not None:
                return False
            self._tracing = tracing
        if tracing is not None:
            for process in list(self.processes.values()):
                self._introduce(process, tracing)
        return True

    def _introduce(self, process: Process, tracing: Tracing) -> None:
        """Tell whose the kernel's threads of a process are, as long as it has them."""
        for vcpu in range(len(process.cpus)):
            try:
                answer = self.machine.vm_request(Code.THREAD, process.vm, struct.pack("<I", vcpu))
            except KernelError:
                return
            thread = int.from_bytes(answer, "little")
            if thread:
                tracing.learn(thread, process.lwp(vcpu), process.pid)

    # --- virtual machines --------------------------------------------------------------------------------------

    def vm_names(self) -> list[str]:
        return list(self._vm_names)

    def refresh_vms(self) -> None:
        """Ask the kernel which virtual machines exist: /dev/vmm shows those."""
        if self.module("vmm.ko") is None:
            self._vm_names = []
            return
        self._vm_names = self.machine.request(Code.VM_LIST).decode().split()

    def vm_created(self, vm: str) -> None:
        """The kernel said so; no need to ask for all of them."""
        self._vm_names.append(vm)

    def start_bhyve(self, vm: str, command: str, flags: int, pins: list[int | None]) -> Process:
        """Start the vCPU threads of an existing VM, one for each of ``pins``; raises :class:`KernelError`."""
        with self.lock:
            self._next_pid += 1
            process = Process(self._next_pid, vm, command, cpus=list(pins))
            self.processes[process.pid] = process
        # The machine runs from here until the process ends, not just while it is asked something.
        self.machine.hold()
        try:
            self._run(process, flags)
        except (KernelError, EmulatorFailed):
            self.machine.release()
            self.processes.pop(process.pid, None)
            raise
        return process

    def _run(self, process: Process, flags: int) -> None:
        numbers = [-1 if cpu is None else cpu for cpu in process.cpus]
        request = struct.pack(f"<II{len(numbers)}i", len(numbers), flags, *numbers)
        tracing = self._tracing
        if tracing is None:
            self.machine.vm_request(Code.RUN, process.vm, request)
            return
        # The identity of a thread that is gone may be given to a new one: nothing of both is mixed under the lock.
        with tracing.lock:
            tracing.drain_locked()
            self.machine.vm_request(Code.RUN, process.vm, request)
            self._introduce(process, tracing)

    def kill_process(self, process: Process, status: int) -> None:
        """End a bhyve as a signal does; its VM stays."""
        process.status = status
        self.machine.vm_request(Code.KILL, process.vm)

    def stop_process(self, process: Process, stopped: bool) -> None:
        """SIGSTOP and SIGCONT."""
        self.machine.vm_request(Code.STOP, process.vm, struct.pack("<I", stopped))

    def destroy_vm(self, vm: str) -> None:
        process = self._process_of(vm)
        if process is not None:
            process.status = EXIT_GONE
            process.errors += f"vm_run error -1, errno {ENXIO}\n"
        self.machine.vm_request(Code.VM_DESTROY, vm)
        self._vm_names = [name for name in self._vm_names if name != vm]

    # --- modules ----------------------------------------------------------------------------------------------------

    def module(self, name: str) -> Module | None:
        return next((module for module in self.modules if module.name == name), None)

    def add_module(self, path: str, modules: tuple[str, ...]) -> Module:
        module = Module(self._next_module, path.rsplit("/", 1)[-1], path, modules)
        self._next_module += 1
        self.modules.append(module)
        return module

    # --- programs ---------------------------------------------------------------------------------------------------

    def find_program(self, name: str) -> Program | None:
        """A built-in by its name, or an uploaded file that stands for one (``vmmwitness``)."""
        base = name.rsplit("/", 1)[-1]
        if "/" in name and base == "vmmwitness" and not self.files.exists(FileSystem.resolve(name)):
            return None
        return self.programs.get(base)

    @property
    def ncpu(self) -> int:
        return self.hello.ncpu if self.hello is not None else os.cpu_count() or 1

