"""What kind of column a host is, known from the inventory alone: enough to decide at collection what can run."""

from __future__ import annotations

from harness.bochs import CPU_MODELS
from harness.inventory import BareHost, BochsHost, EmulatedHost, FreebsdHost, Host
from harness.subjects import Platform

#: What every host with bhyve offers.
BHYVE = frozenset({"bhyve", "bhyvectl", "migration", "smp", "two-vms"})
#: What the witness program adds, which goes along to every host.
PROGRAM = frozenset({"sentinel", "dbregs", "user-bases"})
#: What dtrace with the D programs of kernel/dtrace shows (``observe``), and a module that may be loaded again with
#: other tunables (``tunables``).
PROBES = frozenset({"observe", "tunables"})
#: ``profile``: dtrace's profile provider, whose interrupts come at a rate of their own. The emulated dtrace has none.
PROFILE = frozenset({"profile"})
#: What a guest may do anywhere but in one place or the other: string I/O (the reference hypervisor needs what only VT-x
#: tells about it, as Bochs' SVM has no decode assists), hardware task switches (it emulates none on Intel),
#: virtual-8086 code (Bochs panics on it under SVM).
#: ``trap-at-exit``: a debug trap that is pending when an instruction exits stays the guest's.
GUEST = frozenset({"string-io", "vm86", "task-switch", "trap-at-exit"})
#: ``endless-ac``: #AC in the delivery of #AC goes on for ever, as on a processor; Bochs delivers it by
#: recursion, so it is not asked there (nobody has run it).
#: ``traced-ac``: the same where all exceptions of guests are intercepted and reflected.
#: ``exact-traps``: which #DB an instruction raises does not depend on when the host interrupts. Under the reference
#: hypervisor in Bochs 2.7 it does: moving the vCPU left other records in 4 of 6 programs of chance, and in 2 of 8
#: without MOV SS. Which of the two is to blame is not known.
#: ``trace-exceptions``: hw.vmm.trace_guest_exceptions intercepts what guests raise. The reference hypervisor reads it
#: on Intel only.
TRACED = frozenset({"trace-exceptions"})
#: ``debug-stub``: bhyve's -G takes breakpoints, which needs an intercept of #BP that FreeBSD's svm.c has from 15 on
#: only. ``debug-step``: it steps too, on AMD by the trap flag (from 15 on), on Intel by the monitor trap flag, which
#: the processors of Bochs do not offer.
STUB = {"intel": frozenset({"debug-stub", "debug-step"}), "amd": frozenset[str]()}
#: What a FreeBSD machine offers without any help: its processors have DEBUGCTL, and cpuctl(4) reaches it.
FREEBSD = BHYVE | GUEST | PROGRAM | PROBES | PROFILE | TRACED | {
    "debugctl", "host-debugctl", "endless-ac", "exact-traps",
}  # fmt: skip
#: What the helper module built for its kernel adds.
WITNESS = PROGRAM | {"witness"}
#: What the emulated host's witnesses add. ``host-debugctl``: the host's DEBUGCTL is switched around entries. It is a
#: model there, as Bochs has no such register, and out of a guest's reach: what a guest does to it (``debugctl``) cannot
#: be seen.
#: ``tool-validates``: a bad DR6 is refused and cannot take the host down (a hazard elsewhere). ``vmcb-cache``: the
#: processor really keeps VMCB fields whose clean bit is set, so that a stale one shows; Bochs by itself does not.
EMULATED = BHYVE | WITNESS | PROBES | {
    "tool-validates", "trap-at-exit", "step-entry", "fbt", "host-tables", "vmcb-cache", "host-debugctl",
}  # fmt: skip


def platform_of(alias: str, host: Host) -> Platform:
    """The column of a host."""
    if isinstance(host, BareHost):
        model = CPU_MODELS[host.vendor]
        return Platform(alias, "bare", host.vendor, f"bare Bochs {model}", True, GUEST | {"bare", "smp"})
    if isinstance(host, EmulatedHost):
        heading = f"EMULATED {host.vendor} ({CPU_MODELS[host.vendor]})"
        intel = TRACED | {"vm86", "debug-stub", "string-io", "traced-ac"}
        own = {"intel": intel, "amd": {"task-switch"} | STUB["intel"]}
        guest = own[host.vendor]
        return Platform(alias, "emulated", host.vendor, heading, True, EMULATED | guest, host.ncpu)
    offered = FREEBSD if host.ncpu > 1 else FREEBSD - {"migration"}
    if host.witness or host.witness_file:
        offered |= WITNESS
    if isinstance(host, FreebsdHost):
        vendor = "intel" if host.cpu.vendor == "GenuineIntel" else "amd"
        offered |= STUB[vendor]
        return Platform(alias, "freebsd", vendor, f"{host.cpu.class_} ({alias})", False, offered, host.ncpu)
    if isinstance(host, BochsHost):
        heading = f"EMULATED {host.vendor} ({CPU_MODELS[host.vendor]}), FreeBSD in Bochs ({alias})"
        # Bochs has no IA32_DEBUGCTL: what depends on its value cannot be seen there. Its AMD model has no decode
        # assists, without which svm.c hands string I/O to nobody: the VM ends. A trap that is pending at #VMEXIT it
        # delivers to the host, right behind VMRUN, where FreeBSD's handler finds the guest's GS.base: the host is gone.
        own = {"intel": {"debug-step"}, "amd": {"vm86", "string-io", "trap-at-exit"}}
        missing = own[host.vendor] | {"debugctl", "host-debugctl", "endless-ac", "exact-traps"}
        return Platform(alias, "bochs", host.vendor, heading, True, (offered | STUB[host.vendor]) - missing, host.ncpu)
    heading = f"NESTED {host.vendor}, FreeBSD in QEMU ({alias})"
    return Platform(alias, "qemu", host.vendor, heading, True, offered, host.ncpu)
