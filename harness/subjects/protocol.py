"""What suites may ask of the place where a guest runs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from harness.guest import Program, Result, Rom
from harness.hosts.observation import Observation
from harness.hosts.state import HostDebugState, SentinelReport, ThreadBases
from harness.hosts.tracing import ProbeRow


@dataclass(frozen=True, slots=True)
class Platform:
    """One column of a report.

    ``alias`` is the host's name in the inventory, ``kind`` its kind there, ``vendor`` ``intel`` or ``amd``.
    ``capabilities`` are names that cases may need: ``bhyve``, ``bhyvectl``, ``migration``, ``two-vms``, ``witness``,
    ``sentinel``, ``dbregs``, ``step-entry``, ``debugctl``, ... ``emulated`` columns never mix with hardware.
    """

    alias: str
    kind: str
    vendor: str
    heading: str
    emulated: bool
    capabilities: frozenset[str]
    ncpu: int = 1


class Debugger(Protocol):
    """A debugger at bhyve's stub; addresses are linear. Each call raises ``ToolMismatch`` when the stub refuses."""

    def resume(self) -> None:
        """Let the guest run until a breakpoint."""

    def wait_stop(self) -> int:
        """Wait for that; RIP there. Raises ``GuestHang`` when the guest does not stop."""

    def running(self) -> bool:
        """Whether no stop was reported since :meth:`resume`."""

    def step(self) -> int:
        """One instruction of the guest; RIP behind it."""

    def detach(self) -> None:
        """Go; the guest runs on."""

    def registers(self) -> Mapping[str, int]:
        """General registers, ``rip`` and ``rflags`` of the vCPU that stopped."""

    def read_memory(self, address: int, length: int) -> bytes:
        """Guest memory as the stub shows it."""

    def set_breakpoint(self, address: int) -> None:
        """A software breakpoint."""

    def clear_breakpoint(self, address: int) -> None: ...


@dataclass(frozen=True, slots=True)
class SavedGuest:
    """A guest in a file on its host: its ROM, the file's path, what it had sent and which phases it had reached."""

    rom: Rom
    file: str
    console: bytes
    reached: tuple[int, ...]


class RunningGuest(Protocol):
    """A guest that runs in phases, and what its host can do to it meanwhile."""

    def wait_phase(self, phase: int) -> None:
        """Wait until the guest reached ``sync(phase)``; raises ``GuestHang`` or ``GuestDied``."""

    def go(self) -> None:
        """Let the guest go on behind its ``sync``."""

    def finish(self) -> Result:
        """Wait for the end and return the records."""

    def wait_reset(self) -> None:
        """Wait until the virtual machine was reset, by its guest or from outside: bhyve ends with status 0.

        Raises ``GuestDied`` for any other end, ``GuestHang`` when there is none.
        """

    def force_reset(self) -> None:
        """Reset it from outside (``bhyvectl --force-reset``) and wait for that."""

    def save(self) -> SavedGuest:
        """Save the guest to a file on the host (``bhyvectl --suspend``): its bhyve ends, its virtual machine is gone.

        Ask :meth:`HostActions.can_save` first.
        """

    def registers(self, *names: str, vcpu: int = 0, by: str = "root") -> Mapping[str, int]:
        """Guest registers as bhyvectl prints them (``dr0`` ... ``dr7``, ``rip``, ...).

        Raises ``ToolMismatch`` when one of them is not printed. Reading stops a running vCPU for a moment. ``by``:
        ``root``, ``nobody`` (a user without privileges) or ``jail`` (the superuser of one that was not given vmm).
        """

    def all_registers(self, *names: str, vcpu: int = 0) -> Mapping[str, int]:
        """The same registers out of bhyvectl's ``--get-all``."""

    def set_registers(self, vcpu: int = 0, **values: int) -> None:
        """Set guest registers through bhyvectl; raises ``ToolMismatch`` when it refuses."""

    def try_set_registers(self, vcpu: int = 0, **values: int) -> bool:
        """As :meth:`set_registers`; whether the tool accepted the values."""

    def try_set_registers_as(self, by: str, **values: int) -> bool:
        """The same for vCPU 0, by somebody."""

    def try_destroy(self, by: str) -> bool:
        """``bhyvectl --destroy`` run by somebody; whether it claims to have done so."""

    def descriptor(self, name: str, vcpu: int = 0) -> tuple[int, int, int]:
        """Base, limit and access rights of ``cs`` ... ``tr``, ``gdtr`` or ``idtr`` (0 for the rights of a table)."""

    def set_descriptor(self, name: str, base: int, limit: int, access: int = 0, vcpu: int = 0) -> None:
        """Set them; raises ``ToolMismatch`` when the tool refuses."""

    def set_capability(self, name: str, on: bool, vcpu: int = 0) -> None:
        """Switch a capability of bhyvectl's names (``pause_exit``, ``hlt_exit``, ...)."""

    def write_memory(self, address: int, data: bytes) -> None:
        """Write guest memory at a guest-physical address that is a multiple of the length, without stopping it."""

    def capability(self, name: str, vcpu: int = 0) -> bool:
        """Whether one is set; raises ``ToolMismatch`` when the tool does not say."""

    def read_memory(self, address: int, length: int) -> bytes:
        """Guest memory at a guest-physical address that is a multiple of the length, without stopping the guest."""

    def debugger(self) -> AbstractContextManager[Debugger]:
        """Attach a debugger to the stub of a guest that was started with ``debug_stub``: the guest stands, and runs on
        when the context ends and the debugger detaches. Raises ``ToolMismatch`` when the stub does not answer."""

    def stats(self, vcpu: int = 0) -> Mapping[str, int]:
        """VM statistics of a vCPU by FreeBSD's names."""

    def pin(self, cpu: int, vcpu: int = 0) -> None:
        """Move a vCPU's thread to host CPU ``cpu``."""

    def stop(self) -> None:
        """Stop the whole bhyve process (SIGSTOP)."""

    def cont(self) -> None:
        """Let it go on (SIGCONT)."""

    def inject_nmi(self) -> None:
        """Inject a non-maskable interrupt into vCPU 0."""

    def thread_number(self, vcpu: int = 0) -> int:
        """The host's number of a vCPU's thread, as ``procstat -t`` shows it."""

    def thread_debug_registers(self) -> HostDebugState:
        """Debug registers of the vCPU thread itself, as ptrace reads them (PT_GETDBREGS)."""

    def set_thread_debug_registers(self, state: HostDebugState) -> None:
        """Set them (PT_SETDBREGS): live whenever the thread runs in the host."""

    def thread_bases(self) -> ThreadBases:
        """FS and GS base of the vCPU thread in user mode, as ptrace reads them (PT_GETFSBASE, PT_GETGSBASE)."""


class Sentinel(Protocol):
    """An ordinary host process with debug registers of its own that touches its own variable."""

    address: int

    def stop(self) -> SentinelReport: ...


class HostActions(Protocol):
    """Things done on the host itself, beside a guest."""

    def plant(self, cpu: int, state: HostDebugState) -> HostDebugState:
        """Load debug registers of host CPU ``cpu`` through the witness module; what reads back right after."""

    def state(self, cpu: int) -> HostDebugState:
        """Hardware debug registers of host CPU ``cpu`` now."""

    def descriptor_tables(self, cpu: int) -> Mapping[str, int]:
        """GDTR, IDTR, LDTR and TR of host CPU ``cpu`` now: ``gdtr_base``, ``gdtr_limit``, ..., ``tr``, ``tr_base``."""

    def touch(self, cpu: int, count: int) -> int:
        """Touch the witness variable ``count`` times on ``cpu``; debug exceptions that the host counted."""

    def without_vmm(self) -> AbstractContextManager[None]:
        """Unload vmm.ko inside the context, load the same file again behind it; no VM may exist."""

    def rdmsr(self, cpu: int, msr: int) -> int:
        """A model-specific register of host CPU ``cpu`` through cpuctl(4); raises ``CommandFailed`` on #GP."""

    def wrmsr(self, cpu: int, msr: int, value: int) -> None:
        """Set it; whoever does puts the old value back."""

    def witness_variable(self) -> int:
        """Address of the witness variable."""

    def observe(self) -> AbstractContextManager[Observation]:
        """Watch the function that enters guests with dtrace; filled when the context ends.

        Raises ``ProbeMismatch`` when it has no such probes, ``TraceIncomplete`` when something was lost.
        """

    def profile(self) -> AbstractContextManager[Observation]:
        """Interrupt every CPU 997 times a second (profile provider of dtrace) and tell whom that met: the ``threads``
        of what is filled when the context ends."""

    def probes(self, description: str) -> list[ProbeRow]:
        """Probes that ``dtrace -l -n`` lists for ``provider:module:function:name``."""

    def toggle_probes(self, times: int) -> None:
        """Switch the probes of :meth:`observe` on and off so often."""

    def tunable(self, name: str, value: int) -> AbstractContextManager[None]:
        """vmm.ko loaded anew with a loader tunable; no virtual machine may exist."""

    def can_save(self) -> bool:
        """Whether bhyve there was built to save guests and restore them (BHYVE_SNAPSHOT)."""

    def check_as(self, by: str) -> None:
        """Raises ``CommandFailed`` when nothing can be run as ``by`` (:meth:`RunningGuest.registers`) there."""

    def wait(self, seconds: float) -> None:
        """Let so much of the host's time pass."""

    def sysctl(self, name: str) -> str:
        """Value of a sysctl."""

    def sentinel(
        self, cpu: int, *, watch: bool, pattern: HostDebugState | None = None, bases: ThreadBases | None = None
    ) -> AbstractContextManager[Sentinel]:
        """A sentinel process pinned to ``cpu``, with debug registers and bases of its own."""

    def step_through_entry(self, cpu: int) -> AbstractContextManager[Mapping[str, int]]:
        """Single-step the host through VM entry on ``cpu``; the mapping is filled when the context ends."""


class Subject(Protocol):
    """Runs guest programs."""

    @property
    def platform(self) -> Platform: ...

    @property
    def host(self) -> HostActions:
        """Actions on the host; raises ``TestDefect`` where there is none (a case asks by ``needs``)."""

    def run(
        self, program: Program, *, pin: int | None = 0, seconds: float = 30, lenient_msrs: bool = False
    ) -> Result:
        """Run to the end; ``pin`` is the host CPU of vCPU 0 (``None``: the scheduler's choice).

        ``lenient_msrs``: MSRs that bhyve does not know read 0 and swallow writes instead of faulting (``-w``).

        Raises ``RecordsDamaged``, ``GuestHang``, ``GuestDied``, or what happened to the host.
        """
        with self.start(program, pin=pin, seconds=seconds, lenient_msrs=lenient_msrs) as guest:
            return guest.finish()

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
    ) -> AbstractContextManager[RunningGuest]:
        """Start a guest that waits in phases; leaving the context removes it whatever happened.

        ``debug_stub``: bhyve listens for a debugger (:meth:`RunningGuest.debugger`). ``keep``: the virtual machine
        stays when its guest was reset, for the next bhyve of that ``name``.
        """

    def restore(
        self, saved: SavedGuest, *, pin: int | None = 0, name: str = "", seconds: float = 30
    ) -> AbstractContextManager[RunningGuest]:
        """Let a guest go on that was saved, in a new virtual machine."""
