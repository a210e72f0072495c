"""Getting a host ready and leaving it as it was found. Stock files are never replaced: a reset undoes everything."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
from harness.hosts.facts import VMM_COMMAND
from harness.inventory import EmulatedHost, FreebsdHost
from harness.lab.ladder import Ladder
from harness.subjects import Platform

STOCK_MODULE = "/boot/kernel/vmm.ko"
WITNESS_MODULE = "vmmcheck_witness.ko"
WITNESS_PROGRAM = "vmmwitness"
_VENDORS = {"intel": ("GenuineIntel",), "amd": ("AuthenticAMD", "HygonGenuine")}


def reference_module(defects: Sequence[str]) -> bytes:
    """The file that stands for a vmm.ko with seeded defects on an emulated host."""
    return "".join(f"{line}\n" for line in ("vmmcheck reference vmm.ko", *(f"defect {id}" for id in defects))).encode()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A host that is ready: what was found out, the module under test with its hash, what was there before us."""

    facts: Facts
    module: str
    module_sha256: str
    found_vmm: str
    found_modules: frozenset[str]

    def as_dict(self) -> dict[str, Any]:
        """For the report."""
        vmm = {name: self.facts.sysctl(f"hw.vmm.{name}") for name in ("svm.vmcb_clean", "trace_guest_exceptions")}
        return {
            "vmm_path": self.module,
            "vmm_sha256": self.module_sha256,
            **self.facts.as_dict(),
            "vmcb_clean": vmm["svm.vmcb_clean"],
            "trace_guest_exceptions": vmm["trace_guest_exceptions"],
        }


class Provisioning:
    """Knows what one host of the inventory needs. Everything it does is undone by :meth:`restore`."""

    def __init__(self, platform: Platform, entry: EmulatedHost | FreebsdHost, defects: Sequence[str]) -> None:
        if defects and isinstance(entry, FreebsdHost):
            raise ConfigError(
                f"Seeded defects are for emulated hosts; '{platform.alias}' is a real one.",
                help="Build a vmm.ko with the defect and name it with 'module' in the inventory.",
            )
        self._platform = platform
        self._entry = entry
        self._defects = tuple(defects)

    def seeded(self, defects: Sequence[str]) -> Provisioning:
        """The same host with other defects in its module under test."""
        return Provisioning(self._platform, self._entry, defects)

    def prepare(self, host: Host, ladder: Ladder) -> Prepared:
        """Look first, then change: whoever is on the wrong machine has touched nothing.

        Raises :class:`FactsMismatch`, :class:`HostUnready`, :class:`CommandFailed`.
        """
        facts = collect_facts(host)
        self._require_right_machine(facts)
        ladder.clear_guests(host)
        foreign = host.names_in("/dev/vmm")
        if foreign:
            raise HostUnready(
                f"Virtual machines that are not ours exist on '{self._platform.alias}': {', '.join(foreign)}.",
                help="End them or choose another host; vmmcheck does not touch machines of others.",
            )
        modules = Modules(host)
        found = frozenset(facts.answers["modules"].split())
        found_vmm = self._make_room(modules, host.folder)
        host.change(f"rm -rf {host.folder}; mkdir -m 700 {host.folder}")
        module = self._module(host)
        modules.load(module, "vmm")
        if "witness" in self._platform.capabilities:
            self._load_witness(host, modules)
        after = host.ask({"vmm": VMM_COMMAND, "sha256": f"sha256 -q {shlex.quote(module)}"})
        facts = Facts({**facts.answers, "vmm": after["vmm"].text})
        if not self._platform.emulated:
            require_ready(facts, self._platform.vendor)
        return Prepared(facts, module, after["sha256"].text, found_vmm, found)

    def restore(self, host: Host, prepared: Prepared) -> None:
        """Unload what we loaded, load what was there, remove our folder."""
        modules = Modules(host)
        if WITNESS_MODULE not in prepared.found_modules and "witness" in self._platform.capabilities:
            modules.unload(WITNESS_MODULE)
        modules.unload("vmm.ko")
        if prepared.found_vmm:
            modules.load(prepared.found_vmm, "vmm")
        if "cpuctl.ko" not in prepared.found_modules:
            host.try_change("kldunload cpuctl 2>/dev/null")
        host.change(f"rm -rf {host.folder}")

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
        require_declared(facts, replace(found, vendor=expected[0]), self._platform.ncpu)

    def _make_room(self, modules: Modules, folder: str) -> str:
        """Unload a vmm.ko that is loaded; its path when it was not left behind by a run of ours."""
        present = modules.loaded("vmm.ko")
        if present is None:
            return ""
        witness = modules.loaded(WITNESS_MODULE)
        if witness is not None:
            modules.unload(WITNESS_MODULE)
        modules.unload("vmm.ko")
        return "" if present.path.startswith(f"{folder}/") else present.path

    def _module(self, host: Host) -> str:
        if isinstance(self._entry, FreebsdHost):
            return self._entry.module
        if not self._defects:
            return STOCK_MODULE
        path = f"{host.folder}/vmm.ko"
        host.put(path, reference_module(self._defects))
        return path

    def _load_witness(self, host: Host, modules: Modules) -> None:
        if isinstance(self._entry, FreebsdHost):
            source, module = self._entry.witness, f"{self._entry.witness}/{WITNESS_MODULE}"
            program = shlex.quote(f"{source}/{WITNESS_PROGRAM}")
            host.change(f"cp {program} {host.folder}/{WITNESS_PROGRAM} && chmod 755 {host.folder}/{WITNESS_PROGRAM}")
        else:
            module = f"{host.folder}/{WITNESS_MODULE}"
            host.put(module, b"vmmcheck witness.ko\n")
            host.put(f"{host.folder}/{WITNESS_PROGRAM}", b"vmmcheck vmmwitness\n", mode="755")
        modules.load(module, "vmmcheck_witness")


def facts_for_report(platform: Platform, prepared: Prepared, more: Mapping[str, Any]) -> dict[str, Any]:
    """What a report shows of a host."""
    return {
        "heading": platform.heading,
        "label": "EMULATED" if platform.emulated else "",
        **prepared.as_dict(),
        **more,
    }
