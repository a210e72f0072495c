"""What a machine is and what runs on it: asked in one round trip, compared with what the inventory declares."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from harness.errors import FactsMismatch, HostUnready, UnexpectedAnswer
from harness.hosts.host import SLOW, Host

_VMM_NAMES = (
    "svm.vmcb_clean", "svm.num_asids", "svm.features", "vmx.initialized", "vmx.cap.unrestricted_guest",
    "halt_detection", "trace_guest_exceptions",
)  # fmt: skip
#: Everything below hw.vmm, or what matters of it.
VMM_COMMAND = f"sysctl hw.vmm 2>/dev/null || sysctl {' '.join(f'hw.vmm.{name}' for name in _VMM_NAMES)} 2>/dev/null"
#: What only cpuctl(4) tells, once it is loaded: the revision of the microcode, the leaf of SVM, and the capabilities of
#: VT-x (basic, pin-based, processor-based, secondary, EPT and VPID). A register that is not there has no line.
PROCESSOR = {
    "microcode_msr": "cpucontrol -m 0x8b /dev/cpuctl0",
    "svm_cpuid": "cpucontrol -i 0x8000000a /dev/cpuctl0",
    "vmx_msrs": "for n in 0x480 0x481 0x482 0x48b 0x48c; do cpucontrol -m $n /dev/cpuctl0; done",
}
#: The revision is in the upper half on Intel (SDM3 9.11.7), in the lower one on AMD (APM2 appendix A, MSR 8Bh).
_MICROCODE = re.compile(r"MSR 0x8b: 0x([0-9a-f]{8}) 0x([0-9a-f]{8})")
#: Name -> command. Everything here only asks; what a release does not have stays empty.
_QUESTIONS = {
    "uname": "uname -aKU",
    "kernel": "uname -K",
    "userland": "uname -U",
    "release": "uname -r",
    "versions": "freebsd-version -kru",
    "model": "sysctl -n hw.model",
    "ncpu": "sysctl -n hw.ncpu",
    "vm_guest": "sysctl -n kern.vm_guest",
    "securelevel": "sysctl -n kern.securelevel",
    "origin": "cat /var/run/dmesg.boot 2>/dev/null | grep Origin= || dmesg | grep Origin=",
    "hashes": "sha256 /boot/kernel/vmm.ko /usr/sbin/bhyve /usr/sbin/bhyvectl /usr/lib/libvmmapi.so*",
    "vmm": VMM_COMMAND,
    "dumpdev": "sysctl -n kern.shutdown.dumpdevname",
    "space": "df -k /root",
    "modules": "kldstat",
}
#: Oldest and newest FreeBSD whose behaviour is known here (``uname -U``, __FreeBSD_version).
OLDEST, NEWEST = 1201000, 1600000
#: From this __FreeBSD_version on bhyve has pc-testdev.
TESTDEV_SINCE = 1300000
#: KiB that must be free for a run.
SPACE = 4096


@dataclass(frozen=True, slots=True)
class CpuIdentity:
    """A processor as CPUID tells it."""

    vendor: str
    family: int
    model: int
    stepping: int

    def __str__(self) -> str:
        return f"{self.vendor} family {self.family} model {self.model} stepping {self.stepping}"


@dataclass(frozen=True, slots=True)
class Facts:
    """Answers by name (see ``_QUESTIONS``), as printed; empty where the host has no answer."""

    answers: Mapping[str, str]

    @property
    def userland(self) -> int:
        """__FreeBSD_version of bhyve and bhyvectl."""
        return self._number("userland")

    @property
    def kernel(self) -> int:
        """__FreeBSD_version of the kernel that runs."""
        return self._number("kernel")

    @property
    def ncpu(self) -> int:
        return self._number("ncpu")

    @property
    def has_testdev(self) -> bool:
        """Whether bhyve knows pc-testdev, a guest's way to say that it is done (13.0 and later)."""
        return self.userland >= TESTDEV_SINCE

    @property
    def cpu(self) -> CpuIdentity:
        """From the boot messages (``Origin="..." Id=... Family=... Model=... Stepping=...``)."""
        text = self.answers["origin"]
        origin = re.search(r'Origin\s*=\s*"(\w+)"', text)
        found = re.findall(r"(Family|Model|Stepping)=(0x[0-9a-fA-F]+|\d+)", text)
        values = {name: int(value, 0) for name, value in found}
        if origin is None or len(values) != 3:
            raise UnexpectedAnswer(f"The boot messages name no processor: {text[:120]!r}.")
        return CpuIdentity(origin[1], values["Family"], values["Model"], values["Stepping"])

    @property
    def microcode(self) -> str:
        """Revision of the microcode in hexadecimal; empty where the processor tells none."""
        match = _MICROCODE.search(self.answers.get("microcode_msr", ""))
        revision = match[1 if self.cpu.vendor == "GenuineIntel" else 2] if match is not None else ""
        return f"0x{revision}" if revision.strip("0") else ""

    def sysctl(self, name: str) -> str:
        """A value below ``hw.vmm``, or an empty string (vmm not loaded, or another release)."""
        match = re.search(rf"^{re.escape(name)}: (.*)$", self.answers["vmm"], re.MULTILINE)
        return match[1] if match else ""

    def as_dict(self) -> dict[str, str]:
        """For the report."""
        return dict(self.answers)

    def _number(self, name: str) -> int:
        text = self.answers[name]
        if not text.isdigit():
            raise UnexpectedAnswer(f"'{_QUESTIONS[name]}' printed {text[:80]!r}; expected a number.")
        return int(text)


def collect_facts(host: Host) -> Facts:
    """One round trip."""
    answers = host.ask(_QUESTIONS, seconds=SLOW)
    # A command that failed (no such sysctl, no such file) has told no fact, except where part of it worked.
    kept = {
        name: one.text.strip() if one.status == 0 or name in ("hashes", "vmm") else "" for name, one in answers.items()
    }
    return Facts(kept)


def require_known_release(facts: Facts) -> None:
    """Raises :class:`HostUnready` for a FreeBSD whose tools are not known to behave as expected."""
    if not OLDEST <= facts.userland < NEWEST:
        raise HostUnready(
            f"FreeBSD {facts.answers['release']} ({facts.userland}) is not known here; 12.1 to 15.x are.",
            help="Compare its tools with the recorded transcripts and extend harness/hosts/facts.py.",
        )


def require_declared(facts: Facts, declared: CpuIdentity, ncpu: int) -> None:
    """Raises :class:`FactsMismatch` when the machine is another one than declared."""
    found = facts.cpu
    if found != declared:
        raise FactsMismatch(f"The inventory declares {declared}, the machine says {found}.")
    require_processors(facts, ncpu)


def require_processors(facts: Facts, ncpu: int) -> None:
    """Raises :class:`FactsMismatch` when the machine has another number of processors than declared."""
    if facts.ncpu != ncpu:
        raise FactsMismatch(f"The inventory declares {ncpu} processors, the machine has {facts.ncpu}.")


def require_ready(facts: Facts, vendor: str) -> None:
    """Raises :class:`HostUnready` when vmm, which is loaded, cannot run our guests; says what to switch on."""
    problems = []
    if vendor == "intel":
        if facts.sysctl("hw.vmm.vmx.initialized") == "0":
            problems.append("VT-x is not usable (hw.vmm.vmx.initialized is 0)")
        elif facts.sysctl("hw.vmm.vmx.cap.unrestricted_guest") == "0":
            problems.append("the processor has no unrestricted guest, which a boot ROM needs")
    else:
        if facts.sysctl("hw.vmm.svm.num_asids") == "0" or facts.sysctl("hw.vmm.svm.features") == str(0xFFFFFFFF):
            problems.append("SVM is not usable (hw.vmm.svm.num_asids is 0)")
    if facts.sysctl("hw.vmm.halt_detection") == "0":
        problems.append("hw.vmm.halt_detection is 0, so that a halted guest would never end")
    space = facts.answers["space"].splitlines()[-1:] or [""]
    free = space[0].split()
    if len(free) > 3 and free[3].lstrip("-").isdigit() and int(free[3]) < SPACE:
        problems.append(f"only {free[3]} KiB are free in /root")
    if problems:
        raise HostUnready(f"The host cannot run guests: {'; '.join(problems)}.")
