"""Getting a host ready and leaving it as it was found. Stock files are never replaced: a reset undoes everything."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.build.witness import build_witness_program
from harness.errors import ConfigError, HostUnready
from harness.hosts import (
    CpuIdentity,
    Facts,
    Host,
    Modules,
    collect_facts,
    require_declared,
    require_known_release,
    require_ready,
)
from harness.hosts.facts import PROCESSOR, VMM_COMMAND, require_processors
from harness.hosts.host import FileProof
from harness.hosts.modules import LoadedFile, identity_command
from harness.inventory import EmulatedHost, FreebsdHost, FreebsdMachine
from harness.inventory.model import STOCK_MODULE
from harness.lab.journal import Found, Journal
from harness.lab.ladder import Ladder
from harness.lab.undertest import UnderTest, module_data, module_of
from harness.lab.userland import Userland, require_fit
from harness.subjects import Platform

WITNESS_MODULE = "vmmcheck_witness.ko"
WITNESS_PROGRAM = "vmmwitness"
#: Seconds until a dtrace of ours that was cut off has taken its probes out of the module.
_PROBES_GONE = 10.0
#: Modules of FreeBSD's own that parts of the harness load when they need them.
_OURS_TO_UNLOAD = ("cpuctl", "dtraceall")
_VENDORS = {"intel": ("GenuineIntel",), "amd": ("AuthenticAMD", "HygonGenuine")}


def reference_module(defects: Sequence[str]) -> bytes:
    """The file that stands for a vmm.ko with seeded defects on an emulated host."""
    return "".join(f"{line}\n" for line in ("vmmcheck reference vmm.ko", *(f"defect {id}" for id in defects))).encode()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A host that is ready: what was found out, the module under test with its hash."""

    facts: Facts
    module: LoadedFile
    module_sha256: str
    origin: UnderTest
    #: What of kernel, module and tools was compared.
    fit: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        """For the report."""
        vmm = {name: self.facts.sysctl(f"hw.vmm.{name}") for name in ("svm.vmcb_clean", "trace_guest_exceptions")}
        cpu = self.facts.cpu
        return {
            "vmm_path": self.module.path,
            "vmm_sha256": self.module_sha256,
            **self.origin.as_dict(),
            **self.fit,
            **self.facts.as_dict(),
            "cpu_family": str(cpu.family),
            "cpu_model": str(cpu.model),
            "cpu_stepping": str(cpu.stepping),
            "microcode": self.facts.microcode,
            "vmcb_clean": vmm["svm.vmcb_clean"],
            "trace_guest_exceptions": vmm["trace_guest_exceptions"],
        }


class Provisioning:
    """Knows what one host of the inventory needs. Everything it does is undone by :meth:`restore`.

    ``work`` is a folder of the run in which a module can be built.
    """

    def __init__(
        self, platform: Platform, entry: EmulatedHost | FreebsdMachine, defects: Sequence[str], work: Path | None = None
    ) -> None:
        if defects and isinstance(entry, FreebsdMachine):
            raise ConfigError(
                f"Seeded defects by name are for emulated hosts; '{platform.alias}' runs FreeBSD's own vmm.ko.",
                help="Build a vmm.ko with the defect ('vmmcheck kernel defect') and name it with 'module_file'.",
            )
        self._platform = platform
        self._entry = entry
        self._defects = tuple(defects)
        self._work = work
        self._found: Found | None = None
        self._under_test: UnderTest | None = None
        self._tools: Userland | None = None
        #: Whether the module under test has been given to the kernel: what takes the host down then may be its doing.
        self.loading = False
        #: Whether a run before this one died and left the host to us.
        self.took_over = False

    @property
    def touched(self) -> bool:
        """Whether something was changed that :meth:`restore` has to undo."""
        return self._found is not None

    @property
    def told(self) -> dict[str, str]:
        """What the report says of how the host was found."""
        if not self.took_over:
            return {}
        return {"took_over": "A run that had not put back what it changed: what it had found is what is put back."}

    def seeded(self, defects: Sequence[str]) -> Provisioning:
        """The same host with other defects in its module under test."""
        other = Provisioning(self._platform, self._entry, defects, self._work)
        other._found, other.took_over = self._found, self.took_over
        return other

    def prepare(self, host: Host, ladder: Ladder) -> Prepared:
        """Look first, then change: whoever is on the wrong machine has touched nothing.

        Raises :class:`FactsMismatch`, :class:`HostUnready`, :class:`CommandFailed`, and :class:`ConfigError` for a
        module under test that cannot be had.
        """
        facts = collect_facts(host)
        self._require_right_machine(facts)
        under_test, tools = self._module(host), self._userland()
        fit = require_fit(host, facts, under_test, tools)
        if tools is not None:
            facts = Facts({**facts.answers, "userland": str(tools.version)})
        ladder.clear_guests(host)
        foreign = host.names_in("/dev/vmm")
        if foreign:
            raise HostUnready(
                f"Virtual machines that are not ours exist on '{self._platform.alias}': {', '.join(foreign)}.",
                help="End them or choose another host; vmmcheck does not touch machines of others.",
            )
        modules = Modules(host)
        if self._found is None:
            # After a reset in the middle of a run what is found then is ours to explain, not what was there before.
            self._found = self._look(host, modules, facts)
        Journal(host).write(host.boot(), self._found)
        self._make_room(modules)
        host.change(f"rm -rf {host.folder}; mkdir -m 700 {host.folder}")
        if under_test.data is not None:
            host.put(under_test.path, under_test.data)
        if tools is not None:
            tools.stage(host)
        self._set_tunables(host)
        host.module = under_test.path
        self.loading = True
        loaded = modules.load(under_test.path, "vmm")
        self._load_witness(host, modules)
        self.loading = False
        host.try_change("kldload -n cpuctl")
        # Looked at before it is read: what changes it meanwhile makes another file of it.
        proof = {"file": identity_command(loaded.path), "sha256": f"sha256 -q {shlex.quote(loaded.path)}"}
        after = host.ask({"vmm": VMM_COMMAND, **proof, **PROCESSOR})
        host.proof = FileProof(after["file"].text, after["sha256"].text)
        facts = Facts({**facts.answers, "vmm": after["vmm"].text, **{name: after[name].text for name in PROCESSOR}})
        if isinstance(self._entry, FreebsdMachine):
            require_ready(facts, self._platform.vendor)
        return Prepared(facts, loaded, after["sha256"].text, under_test, fit)

    def restore(self, host: Host) -> None:
        """Unload what we loaded, load what was there, remove our folder; nothing when nothing was changed."""
        found = self._found
        if found is None:
            return
        modules = Modules(host)
        if WITNESS_MODULE not in found.modules and "witness" in self._platform.capabilities:
            modules.unload(WITNESS_MODULE)
        modules.unload("vmm.ko", seconds=_PROBES_GONE)
        self._put_kenv_back(host, found)
        self._load_again(modules, found)
        for name in _OURS_TO_UNLOAD:
            if f"{name}.ko" not in found.modules:
                host.try_change(f"kldunload {name} 2>/dev/null")
        host.transport.prelude = ""
        host.change(f"rm -rf {host.folder}")
        Journal(host).forget()
        self._found = None

    def restore_after_boot(self, host: Host) -> None:
        """The same where the host has booted since, which has undone everything but our files."""
        if self._found is not None:
            self._load_again(Modules(host), self._found)
        host.change(f"rm -rf {host.folder}")
        Journal(host).forget()
        self._found = None

    # --- parts -----------------------------------------------------------------------------------------------------

    def _require_right_machine(self, facts: Facts) -> None:
        require_known_release(facts)
        if isinstance(self._entry, FreebsdHost):
            cpu = self._entry.cpu
            declared = CpuIdentity(cpu.vendor, cpu.family, cpu.model, cpu.stepping)
            require_declared(facts, declared, self._entry.ncpu)
            return
        found = facts.cpu
        expected = _VENDORS[self._platform.vendor]
        if found.vendor not in expected:
            require_declared(facts, replace(found, vendor=expected[0]), self._platform.ncpu)
        require_processors(facts, self._platform.ncpu)

    @staticmethod
    def _load_again(modules: Modules, found: Found) -> None:
        """The vmm.ko that was there, unless somebody loaded one meanwhile."""
        if found.vmm and modules.loaded("vmm.ko") is None:
            modules.load(found.vmm, "vmm")

    def _look(self, host: Host, modules: Modules, facts: Facts) -> Found:
        left = Journal(host).read(host.boot())
        if left is not None:
            # A worker of ours, or another run, died here: what it found is what was there.
            self.took_over = True
            return left
        present = modules.loaded("vmm.ko")
        ours = present is not None and present.path.startswith(f"{host.folder}/")
        kenv: dict[str, str | None] = {}
        for name in self._tunables():
            answer = host.run(f"kenv -q {name}")
            kenv[name] = answer.text if answer.status == 0 else None
        names = frozenset(facts.answers["modules"].split())
        return Found("" if present is None or ours else present.path, names, kenv)

    def _make_room(self, modules: Modules) -> None:
        """Unload a vmm.ko that is loaded, and the witness that may hold it."""
        if modules.loaded("vmm.ko") is None:
            return
        if modules.loaded(WITNESS_MODULE) is not None:
            modules.unload(WITNESS_MODULE)
        modules.unload("vmm.ko")

    def _tunables(self) -> Mapping[str, str]:
        return self._entry.tunables if isinstance(self._entry, FreebsdMachine) else {}

    def _set_tunables(self, host: Host) -> None:
        for name, value in self._tunables().items():
            host.change(f"kenv {name}={shlex.quote(value)}")

    def _put_kenv_back(self, host: Host, found: Found) -> None:
        for name, value in found.kenv.items():
            host.change(f"kenv -u {name}" if value is None else f"kenv {name}={shlex.quote(value)}")

    def _module(self, host: Host) -> UnderTest:
        if isinstance(self._entry, FreebsdMachine):
            if self._under_test is None:
                self._under_test = module_of(self._entry, host.folder, self._work)
            return self._under_test
        if not self._defects:
            return UnderTest(STOCK_MODULE)
        return UnderTest(f"{host.folder}/vmm.ko", reference_module(self._defects), "seeded")

    def _userland(self) -> Userland | None:
        """The tools that go along, read once for a run."""
        if self._tools is None and isinstance(self._entry, FreebsdMachine) and self._entry.userland:
            self._tools = Userland.read(Path(self._entry.userland).expanduser())
        return self._tools

    def _load_witness(self, host: Host, modules: Modules) -> None:
        module, program = f"{host.folder}/{WITNESS_MODULE}", f"{host.folder}/{WITNESS_PROGRAM}"
        entry = self._entry
        if not isinstance(entry, FreebsdMachine):
            host.put(module, b"vmmcheck witness.ko\n")
            host.put(program, b"vmmcheck vmmwitness\n", mode="755")
        else:
            host.put(program, build_witness_program().read_bytes(), mode="755")
            if entry.witness_file:
                host.put(module, module_data(Path(entry.witness_file).expanduser()))
            elif entry.witness:
                module = f"{entry.witness}/{WITNESS_MODULE}"
        if "witness" in self._platform.capabilities:
            modules.load(module, "vmmcheck_witness")


def facts_for_report(platform: Platform, prepared: Prepared, more: Mapping[str, Any]) -> dict[str, Any]:
    """What a report shows of a host."""
    return {
        "heading": platform.heading,
        "label": "EMULATED" if platform.emulated else "",
        **prepared.as_dict(),
        **more,
    }
