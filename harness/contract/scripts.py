"""The scripts that are recorded: what the harness relies on, each with its exit status printed. Their order matters.

They leave a host as they found it when vmm is not loaded there, and are run only then.
"""

from __future__ import annotations

_VM = "vmmcheck-t"
_DRS = "--get-dr0 --get-dr1 --get-dr2 --get-dr3 --get-dr6 --get-dr7"

#: Name -> script (one line for sh). ``{function}`` is the one that enters a guest.
SCRIPTS = {
    "boot-id": "sysctl -nx kern.boot_id; echo rc=$?; sysctl -n kern.boottime; echo rc=$?",
    "facts": "uname -s; uname -K | wc -l; sysctl -n hw.ncpu; sysctl -n kern.securelevel; "
    "grep -c Origin= /var/run/dmesg.boot",
    "unloaded": "kldstat -v -n vmm.ko; echo rc=$?; kldunload vmm; echo rc=$?; sysctl hw.vmm.halt_detection; "
    "echo rc=$?",
    "load": "kldload /boot/kernel/vmm.ko; echo rc=$?; kldstat -q -n vmm.ko; echo rc=$?; kldstat -q -m vmm; "
    "echo rc=$?",
    "load-again": "kldload /boot/kernel/vmm.ko; echo rc=$?",
    "load-missing": "kldload /root/nosuch.ko; echo rc=$?",
    "sysctl": "sysctl hw.vmm.halt_detection; echo rc=$?; sysctl -n hw.vmm.svm.vmcb_clean; echo rc=$?; "
    "sysctl hw.vmm.nosuch; echo rc=$?; sysctl hw.vmm.halt_detection=0; echo rc=$?",
    "create": f"bhyvectl --vm={_VM} --create; echo rc=$?; ls /dev/vmm; test -e /dev/vmm/{_VM}; echo rc=$?",
    "create-again": f"bhyvectl --vm={_VM} --create; echo rc=$?",
    "get-registers": f"bhyvectl --vm={_VM} {_DRS}; echo rc=$?; "
    f"bhyvectl --vm={_VM} --get-rip --get-rflags --get-cr0; echo rc=$?",
    "set-registers": f"for n in 0 1 2 3; do bhyvectl --vm={_VM} --set-dr$n=0xdeadbeef0000000$n; echo rc=$?; done; "
    f"bhyvectl --vm={_VM} --set-dr6=0xffff0ff1 --set-dr7=0x401; echo rc=$?; bhyvectl --vm={_VM} {_DRS}; echo rc=$?",
    "get-segments": f"bhyvectl --vm={_VM} --get-cs --get-desc-cs --get-desc-gdtr; echo rc=$?",
    "get-stats": f"b"
    f"hyvectl --vm={_VM} --get-stats | grep -E 'stats:|total number of vm exits|hlt was|in/out was'; echo rc=$?",
    "unload-busy": "kldunload vmm; echo rc=$?; kldstat -q -n vmm.ko; echo rc=$?",
    "missing": "bhyvectl --vm=nosuch --get-dr0; echo rc=$?; bhyvectl --vm=nosuch --set-dr0=1; echo rc=$?; "
    "bhyvectl --vm=nosuch --destroy; echo rc=$?",
    "destroy": f"bhyvectl --vm={_VM} --destroy; echo rc=$?; test -e /dev/vmm/{_VM}; echo rc=$?",
    "kenv": "kenv -q hw.vmm.vmmcheck; echo rc=$?; kenv hw.vmm.vmmcheck=1; echo rc=$?; kenv -q hw.vmm.vmmcheck; "
    "echo rc=$?; "
    "kenv -u hw.vmm.vmmcheck; echo rc=$?; kenv -q hw.vmm.vmmcheck; echo rc=$?",
    "cpucontrol": "kldstat -q -m cpuctl; had=$?; kldload -n cpuctl; echo rc=$?; cpucontrol -m 0x1b /dev/cpuctl0; "
    "echo rc=$?; "
    "cpucontrol -m 0x1b /dev/cpuctl9; echo rc=$?; test $had = 0 || kldunload cpuctl; echo rc=$?",
    "cpuset": "cpuset -l 0 -t 99999; echo rc=$?",
    "log": "logger -p user.err -t vmmcheck BEGIN transcript; echo rc=$?; sleep 1; "
    "dmesg -a | grep -c 'BEGIN transcript'; echo rc=$?",
    "sha256": "printf x >/tmp/vmmcheck-t; sha256 -q /tmp/vmmcheck-t; sha256 -q /tmp/nosuch; echo rc=$?; "
    "rm -f /tmp/vmmcheck-t",
    "space": "df -k /root | wc -l; df -k /root | head -1",
    "unload": "kldunload vmm; echo rc=$?; kldstat -q -n vmm.ko; echo rc=$?",
}
