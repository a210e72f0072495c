"""Every way a cell can end other than PASS, as one exception tree.

Each class carries a stable public ``code``, a ``culprit`` and ``help``: one sentence on what to do next.
Product failures derive from :class:`AssertionError`, so that every reader of pytest's reports colours them
as such; nothing else in the tree does, because a lost byte or a dead link must never look like a product
failure. Decide the class where the trouble is seen, never afterwards from its text.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Culprit(StrEnum):
    """Whose problem an error is."""

    PRODUCT = "product"
    TEST = "test"
    HARNESS = "harness"
    LAB = "lab"
    CONFIG = "config"


class VmmcheckError(Exception):
    """Base of all errors raised on purpose.

    ``message`` is one sentence: what, where, expected, found. ``help`` (class attribute, or given per
    instance) is one sentence on what to do next.
    """

    code: ClassVar[str] = "HARNESS-INTERNAL"
    culprit: ClassVar[Culprit] = Culprit.HARNESS
    help: str = "This is a defect of vmmcheck itself: report it together with the run folder."

    def __init__(self, message: str, *, help: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if help is not None:
            self.help = help

    def __str__(self) -> str:
        return f"{self.code}: {self.message} {self.help}"


# --- product: the hypervisor under test is wrong ------------------------------------------------------


class ProductFailure(VmmcheckError, AssertionError):
    """An assertion about the hypervisor was false."""

    code = "PRODUCT-MISMATCH"
    culprit = Culprit.PRODUCT
    help = "Open the evidence folder of the cell: expected and observed values stand beside the guest's records."


class RegisterMismatch(ProductFailure):
    """A debug register (or another register a case is about) holds another value than the rule says."""

    code = "PRODUCT-REGISTER-MISMATCH"


class HitMismatch(ProductFailure):
    """A breakpoint or watchpoint fired too often, too rarely, or at the wrong place."""

    code = "PRODUCT-HIT-MISMATCH"


class HostStateMismatch(ProductFailure):
    """State of the host was changed by running a guest."""

    code = "PRODUCT-HOST-STATE"


class ProbeMismatch(ProductFailure):
    """A DTrace probe is missing, unbalanced, or carries wrong data."""

    code = "PRODUCT-PROBE-MISMATCH"


class ToolMismatch(ProductFailure):
    """bhyvectl, sysctl or another tool of the product answered wrongly."""

    code = "PRODUCT-TOOL-MISMATCH"


class GuestHang(ProductFailure):
    """The guest printed its banner, then did not finish in time, while its host stayed healthy."""

    code = "PRODUCT-GUEST-HANG"
    help = "Read the guest's last records in the evidence folder: the operation behind the last one hung."


class GuestDied(ProductFailure):
    """bhyve ended with an abnormal status before the guest reported its end."""

    code = "PRODUCT-GUEST-DIED"


class KernelMessage(ProductFailure):
    """The host's kernel complained while an item ran whose guest was content."""

    code = "PRODUCT-KERNEL-MESSAGE"
    help = "dmesg-delta.txt in the evidence folder has the kernel's messages of the item."


class HostPanic(ProductFailure):
    """The host panicked while an item ran."""

    code = "PRODUCT-HOST-PANIC"
    help = "The crash folder of the host in the run folder holds the panic message and what could be collected."


class HostResetUnexplained(HostPanic):
    """The host came back with another boot identifier and left no trace of why."""

    code = "PRODUCT-RESET-UNEXPLAINED"


class HostHang(HostPanic):
    """The host stopped answering during an item and needed a power cycle."""

    code = "PRODUCT-HOST-HANG"


class ProcessorStuck(HostPanic):
    """A CPU of the host runs nothing any more behind an item that failed, while the host still answers."""

    code = "PRODUCT-CPU-STUCK"
    help = "What the item did last is in its evidence; the host was booted anew, and what is behind it ran there."


# --- test: a case or guest of this repository is wrong -----------------------------------------------


class TestDefect(VmmcheckError):
    """The item itself is broken (a bug in a case, a guest program or an agent)."""

    __test__ = False  # not a test class, whatever pytest makes of its name
    code = "TEST-DEFECT"
    culprit = Culprit.TEST
    help = "Fix the case or the guest program; the verdict says nothing about the hypervisor."


class ProgramInvalid(TestDefect):
    """A guest program was put together in a way the guest runtime does not accept."""

    code = "TEST-PROGRAM-INVALID"


class CollectionFailed(TestDefect):
    """A module of the suites could not be collected: what it would have shown is unknown."""

    code = "TEST-COLLECTION"
    help = "Correct the module; 'pytest --collect-only' on it shows the whole error."


class NoCase(TestDefect):
    """A test that no case is declared for failed: no requirement stands behind it."""

    code = "TEST-NO-CASE"
    help = "Declare it with @case, or move it out of the suites."


class GuestSilent(TestDefect):
    """The guest never printed its banner although its host is healthy."""

    code = "TEST-GUEST-SILENT"


# --- infrastructure: the lab did not let us find out -------------------------------------------------


class InfraError(VmmcheckError):
    """The lab did not let us find out."""

    code = "INFRA-LAB"
    culprit = Culprit.LAB
    help = "Run 'vmmcheck doctor' for that host; the cell says nothing about the hypervisor."


class SshUnreachable(InfraError):
    """No SSH connection could be made."""

    code = "INFRA-SSH-UNREACHABLE"


class SshLost(InfraError):
    """An established SSH connection broke; the command's outcome is unknown and is not repeated."""

    code = "INFRA-SSH-LOST"


class SshAuthFailed(InfraError):
    """The host refused our key."""

    code = "INFRA-SSH-AUTH"
    help = "Check 'user' and 'identity' of the host in the inventory, and authorized_keys on the host."


class CommandTimeout(InfraError):
    """A command did not end before its deadline."""

    code = "INFRA-COMMAND-TIMEOUT"


class CommandFailed(InfraError):
    """A command the harness needs for its own purposes failed."""

    code = "INFRA-COMMAND-FAILED"


class UnexpectedAnswer(InfraError):
    """A host answered in a form that the harness does not understand."""

    code = "INFRA-UNEXPECTED-ANSWER"
    help = "Compare the answer with the recorded transcripts of that FreeBSD release and extend the parser."


class RecordsDamaged(InfraError):
    """Bytes of the guest's records were lost or changed on the way (checksum, sequence, canary)."""

    code = "INFRA-GUEST-RECORDS"
    help = "The console transport lost data: run the cell again and check the host's load and console."


class TraceIncomplete(InfraError):
    """dtrace lost records, met errors in its actions, or ended before its time: nothing can be concluded."""

    code = "INFRA-TRACE"
    help = "Run the case alone; a larger buffer (-x bufsize) or fewer exits keep dtrace from losing records."


class EvidenceLost(InfraError):
    """What a cell left behind could not be written into the run folder."""

    code = "INFRA-EVIDENCE"
    help = "Make room on this machine's disk, or choose another one with --run-dir, and run these cells again."


class HostLost(InfraError):
    """The host could not be brought back."""

    code = "INFRA-HOST-LOST"
    help = "See ladder.jsonl of the host in the run folder, then power-cycle it and run 'vmmcheck doctor'."


class HostUnready(InfraError):
    """A precondition on the host does not hold (disk full, foreign VM, module in use, ...)."""

    code = "INFRA-HOST-UNREADY"


class ModuleRefused(HostUnready):
    """The host's kernel does not load the module under test."""

    code = "INFRA-MODULE-REFUSED"


class LeaseLost(InfraError):
    """Someone else holds the host now."""

    code = "INFRA-LEASE-LOST"


class HardwareTrouble(InfraError):
    """The machine itself reported an error (machine check, temperature, memory) while an item ran."""

    code = "INFRA-HARDWARE"
    help = "Take the machine out of the lab until its hardware was checked; its results are worth nothing meanwhile."


class EmulatorFailed(InfraError):
    """An emulator (Bochs, QEMU) did not start, ended by itself, or did not do what it was started for."""

    code = "INFRA-EMULATOR"
    help = "The emulator's own log, beside the evidence or the image, says more; check that its package is complete."


class WorkerDied(InfraError):
    """The pytest worker process that drove the host died."""

    code = "INFRA-WORKER-DIED"


class NotStarted(InfraError):
    """Planned, never started: host lost, limit reached, or run cancelled."""

    code = "INFRA-NOT-STARTED"
    help = "Run these cells again, once what kept them from running is out of the way."


# --- configuration --------------------------------------------------------------------------------


class ConfigError(VmmcheckError):
    """Something the user wrote cannot be used."""

    code = "CONFIG-INVALID"
    culprit = Culprit.CONFIG
    help = "Correct the file named above and run again."


class BuildFailed(ConfigError):
    """The module under test could not be built of its sources: a patch does not apply, or the build failed."""

    code = "CONFIG-MODULE-BUILD"
    help = "The end of the build's output is above; correct the sources, the patch or 'builder' in the inventory."


class InventoryInvalid(ConfigError):
    """The inventory has mistakes; all of them are listed."""

    code = "CONFIG-INVENTORY"


class HostKeyMismatch(ConfigError):
    """The host showed a key that is not pinned in the inventory."""

    code = "CONFIG-HOSTKEY"
    help = "If the host was reinstalled, compare the new fingerprint on its console and pin it in the inventory."


class FactsMismatch(ConfigError):
    """The machine is not the one that the inventory declares."""

    code = "CONFIG-FACTS"
    help = "Correct the declaration, or connect the right machine: a report under the wrong heading is worse than none."


class NoHosts(ConfigError):
    """The selection matches no host."""

    code = "CONFIG-NO-HOSTS"


class NoSuchCase(ConfigError):
    """The selection names a case that is not there, or that no suite asks."""

    code = "CONFIG-NO-CASE"
    help = "'vmmcheck cases' lists them all; --case takes an id or a glob such as 'DAT-*', once for each."


class RomInvalid(ConfigError):
    """A guest ROM image is missing, has a wrong size, or does not have the expected hash."""

    code = "CONFIG-ROM"
    help = "Run 'vmmcheck guests': it builds the images again."


class ToolMissing(ConfigError):
    """A program the controller needs is not installed."""

    code = "CONFIG-TOOL-MISSING"


def all_errors() -> list[type[VmmcheckError]]:
    """Return every concrete error class below :class:`VmmcheckError`, in order of definition."""
    found: list[type[VmmcheckError]] = []
    queue: list[type[VmmcheckError]] = [VmmcheckError]
    while queue:
        cls = queue.pop(0)
        found.append(cls)
        queue.extend(cls.__subclasses__())
    return list(dict.fromkeys(found))
