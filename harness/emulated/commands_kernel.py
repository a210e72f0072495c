"""Programs that ask or change the kernel: modules, sysctl, kenv, messages, processors, witnesses."""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Callable

from harness.emulated.commands_witness import pack_registers, parse_registers, show_registers, show_tables
from harness.emulated.ctl import Code, KernelError
from harness.emulated.host import (
    IDENT,
    MODULE_HEADER,
    OSRELDATE,
    RELEASE,
    WITNESS_HEADER,
    EmulatedHost,
    Module,
)
from harness.emulated.shell import Context, Program
from harness.emulated.vfs import FileError, FileSystem

EEXIST, EBUSY, ENXIO = 17, 16, 6
VMM_MODULES = ("acpi/ivhd", "pci/amdiommu", "pci/ppt", "vmm")
_TUNABLES = (
    "hw.vmm.svm.vmcb_clean", "hw.vmm.svm.num_asids", "hw.vmm.halt_detection", "hw.vmm.trace_guest_exceptions",
)  # fmt: skip


class KernelPrograms:
    """Methods are programs; :meth:`table` names them."""

    def __init__(self, host: EmulatedHost) -> None:
        self.host = host

    def table(self) -> dict[str, Program]:
        return {
            "kldload": self.kldload, "kldunload": self.kldunload, "kldstat": self.kldstat, "sysctl": self.sysctl,
            "kenv": self.kenv, "dmesg": self.dmesg, "logger": self.logger, "cpuset": self.cpuset,
            "cpucontrol": self.cpucontrol, "reboot": self.reboot, "shutdown": self.reboot,
            "procstat": self.procstat,
        }  # fmt: skip

    # --- modules ------------------------------------------------------------------------------------------

    def _module_path(self, name: str) -> str:
        if "/" in name or "." in name:
            return FileSystem.resolve(name)
        return f"/boot/kernel/{name}.ko"

    def kldload(self, context: Context, argv: list[str]) -> int:
        flags = "".join(word[1:] for word in argv[1:] if word.startswith("-"))
        status = 0
        for name in (word for word in argv[1:] if not word.startswith("-")):
            error = self.load(name)
            if error == "EEXIST":
                if "n" not in flags:
                    context.err(f"kldload: can't load {name}: module already loaded or in kernel\n")
                    status = 1
            elif error == "ENOENT":
                context.err(f"kldload: can't load {name}: No such file or directory\n")
                status = 1
            elif error:
                context.err(
                    f"kldload: an error occurred while loading module {name}. Please check dmesg(8) for more details.\n"
                )
                status = 1
            elif "v" in flags:
                context.out(f"Loaded {name}, id={self.host.modules[-1].id}\n")
        return status

    def load(self, name: str) -> str:
        """Load a module; an empty string, or what went wrong by its errno's name."""
        host = self.host
        path = self._module_path(name)
        base = path.rsplit("/", 1)[-1]
        # The name of the file decides whether it is there already, whatever its path.
        if host.module(base) is not None:
            return "EEXIST"
        try:
            text = host.files.read(path).decode("utf-8", "replace")
        except FileError:
            return "ENOENT"
        header, _, body = text.partition("\n")
        if header == WITNESS_HEADER:
            host.add_module(path, ("vmmcheck_witness",))
            return ""
        if header != MODULE_HEADER:
            if base in ("nmdm.ko", "cpuctl.ko", "dtraceall.ko") and text.startswith("vmmcheck "):
                host.add_module(path, (base.removesuffix(".ko"),))
                return ""
            host.log(f"linker_load_file: {path} - unsupported file type")
            return "ENOEXEC"
        tunables = "".join(f"tunable {key}={host.kenv[key]}\n" for key in _TUNABLES if key in host.kenv)
        modules: tuple[str, ...] = VMM_MODULES
        try:
            host.machine.request(Code.MODLOAD, (tunables + body).encode())
        except KernelError as error:
            if error.errno != ENXIO:
                host.log(f"linker_load_file: {path} - refused with error {error.errno}")
                return "ENOEXEC"
            host.log("module_register_init: MOD_LOAD (vmm, 0xffffffff82600000, 0) error 6")
            modules = VMM_MODULES[:-1]
        host.add_module(path, modules)
        return ""

    def kldunload(self, context: Context, argv: list[str]) -> int:
        status = 0
        for name in (word for word in argv[1:] if not word.startswith("-")):
            base = name.rsplit("/", 1)[-1]
            module = self.host.module(base if base.endswith(".ko") else f"{base}.ko")
            if module is None:
                context.err(f"kldunload: can't find file {name}\n")
                status = 1
                continue
            try:
                if "vmm" in module.modules:
                    if self.host.traced or self.host.module_busy:
                        raise KernelError(EBUSY)
                    self.host.machine.request(Code.MODUNLOAD)
            except KernelError:
                context.err("kldunload: can't unload file: Device busy\n")
                status = 1
                continue
            self.host.modules.remove(module)
        return status

    def kldstat(self, context: Context, argv: list[str]) -> int:
        words = argv[1:]
        quiet, verbose = "-q" in words, "-v" in words
        if "-m" in words:
            wanted = words[words.index("-m") + 1]
            found = any(wanted in module.modules for module in self.host.modules)
            if found and not quiet:
                context.out(f"Id  Refs Name\n514    1 {wanted}\n")
            if not found and not quiet:
                context.err(f"kldstat: can't find module {wanted}: No such file or directory\n")
            return int(not found)
        kernel = Module(1, "kernel", "/boot/kernel/kernel", ())
        chosen = [kernel, *self.host.modules]
        if "-n" in words:
            name = words[words.index("-n") + 1]
            chosen = [module for module in chosen if module.name in (name, f"{name}.ko")]
            if not chosen:
                if not quiet:
                    context.err(f"kldstat: can't find file {name}: No such file or directory\n")
                return 1
        if quiet:
            return 0
        context.out("Id Refs Address                Size Name\n")
        for module in chosen:
            path = f" ({module.path})" if verbose else ""
            context.out(f"{module.id:2d}    1 0xffffffff8{module.id:x}600000   53c438 {module.name}{path}\n")
            if verbose and module.modules:
                context.out("\tContains modules:\n\t\t Id Name\n")
                context.out("".join(f"\t\t{510 + n} {name}\n" for n, name in enumerate(module.modules)))
        return 0

    # --- sysctl and kenv --------------------------------------------------------------------------------------

    def sysctl(self, context: Context, argv: list[str]) -> int:
        flags = "".join(word[1:] for word in argv[1:] if word.startswith("-"))
        status = 0
        for word in (word for word in argv[1:] if not word.startswith("-")):
            name, equals, value = word.partition("=")
            try:
                if equals:
                    self._set(name, value)
                text = self._get(name)
            except (KeyError, KernelError):
                context.err(f"sysctl: unknown oid '{name}'\n")
                status = 1
                continue
            except ValueError as error:
                context.err(f"sysctl: {name}={value}: {error}\n")
                status = 1
                continue
            except PermissionError:
                context.err(
                    f"sysctl: oid '{name}' is a read only tunable\n"
                    "sysctl: Tunable values are set in /boot/loader.conf\n"
                )
                status = 1
                continue
            if name == "kern.boot_id":
                # An opaque value, which sysctl(8) shows only when asked to.
                if "x" not in flags:
                    continue
                text = f"Format: Length:16 Dump:0x{text}"
            context.out(f"{text}\n" if "n" in flags else f"{name}: {text}\n")
        return status

    def _get(self, name: str) -> str:
        host = self.host
        fixed: dict[str, Callable[[], str]] = {
            "kern.boot_id": lambda: host.boot_id,
            "kern.osrelease": lambda: RELEASE,
            "kern.osreldate": lambda: OSRELDATE,
            "kern.version": lambda: f"FreeBSD {RELEASE} {IDENT}",
            "kern.vm_guest": lambda: IDENT,
            "kern.securelevel": lambda: "-1",
            "kern.boottime": lambda: f"{{ sec = {int(host.boot_time)}, usec = 0 }} {time.ctime(host.boot_time)}",
            "kern.hz": lambda: "1000",
            "hw.model": lambda: host.hello.brand if host.hello else "",
            "hw.ncpu": lambda: str(host.ncpu),
            "hw.machine_arch": lambda: "amd64",
        }
        if name in fixed:
            return fixed[name]()
        if name.startswith("debug.vmmcheck."):
            return self._witness(name.removeprefix("debug.vmmcheck."))
        if name.startswith("hw.vmm.") and host.module("vmm.ko") is not None:
            return host.machine.request(Code.SYSCTL, name.encode() + b"\0").decode()
        raise KeyError(name)

    def _set(self, name: str, value: str) -> None:
        if not name.startswith("debug.vmmcheck."):
            self._get(name)
            raise PermissionError(name)
        self._need_witness()
        what = name.removeprefix("debug.vmmcheck.")
        values = parse_registers(value)
        cpu = struct.pack("<I", values.get("cpu", 0))
        request = self.host.machine.request
        if what == "plant":
            debugctl = struct.pack("<Q", values.get("debugctl", 0))
            planted = request(Code.WITNESS_PLANT, cpu + pack_registers(values) + debugctl)
            self.host.witness["plant"] = show_registers(planted)
        elif what == "touch":
            hits = request(Code.WITNESS_TOUCH, cpu + struct.pack("<I", values.get("count", 1)), seconds=60)
            self.host.witness["hits"] = str(struct.unpack("<Q", hits)[0])
        elif what == "step":
            data = request(Code.WITNESS_STEP, cpu + struct.pack("<I", values.get("on", 0)))
            steps, lost, entries = struct.unpack_from("<3Q", data)
            self.host.witness["stepped"] = f"steps={steps} tf_lost={lost} entries={entries}"
        else:
            raise KeyError(name)

    def _need_witness(self) -> None:
        if self.host.module("vmmcheck_witness.ko") is None:
            raise KeyError("debug.vmmcheck")

    def _witness(self, what: str) -> str:
        self._need_witness()
        if what.startswith("state."):
            return show_registers(self.host.machine.request(Code.WITNESS_READ, struct.pack("<I", int(what[6:]))))
        if what.startswith("tables."):
            return show_tables(self.host.machine.request(Code.WITNESS_TABLES, struct.pack("<I", int(what[7:]))))
        if what == "variable":
            return f"{struct.unpack('<Q', self.host.machine.request(Code.WITNESS_ADDRESS))[0]:#x}"
        return self.host.witness.get(what, "0")

    def kenv(self, context: Context, argv: list[str]) -> int:
        words = [word for word in argv[1:] if word != "-q"]
        if words[:1] == ["-u"]:
            if self.host.kenv.pop(words[1], None) is None:
                context.err(f"kenv: unable to unset {words[1]}\n")
                return 1
            return 0
        if not words:
            context.out("".join(f'{name}="{value}"\n' for name, value in sorted(self.host.kenv.items())))
            return 0
        name, equals, value = words[0].partition("=")
        if equals:
            self.host.kenv[name] = value.strip('"')
        elif name not in self.host.kenv:
            context.err(f"kenv: unable to get {name}\n")
            return 1
        context.out(f'{name}="{self.host.kenv[name]}"\n' if equals else f"{self.host.kenv[name]}\n")
        return 0

    # --- messages, processors, power ---------------------------------------------------------------------------

    def dmesg(self, context: Context, argv: list[str]) -> int:
        context.out("".join(f"{line}\n" for line in self.host.messages))
        return 0

    def logger(self, context: Context, argv: list[str]) -> int:
        words, skip = [], False
        for word in argv[1:]:
            if skip or word in ("-t", "-p"):
                skip = not skip
            else:
                words.append(word)
        self.host.log(" ".join(words))
        return 0

    def cpuset(self, context: Context, argv: list[str]) -> int:
        words = argv[1:]
        every = ", ".join(str(cpu) for cpu in range(self.host.ncpu))
        if "-g" in words:
            context.out(f"pid -1 mask: {every}\npid -1 domain policy: first-touch mask: 0\n")
            return 0
        if "-l" not in words:
            context.err("usage: cpuset [-l cpu-list] [-n policy:domain-list] [-s setid] cmd ...\n")
            return 1
        text = words[words.index("-l") + 1]
        if not re.fullmatch(r"\d+([-,]\d+)*", text):
            context.err(f"cpuset: Malformed list {text}\n")
            return 1
        cpus = [int(cpu) for cpu in re.findall(r"\d+", text)]
        if any(cpu >= self.host.ncpu for cpu in cpus):
            context.err("cpuset: setaffinity: Invalid argument\n")
            return 1
        if not {"-t", "-p"} & set(words):
            # The command runs where the kernel runs something when it is asked to.
            for cpu in cpus[:1]:
                self.host.machine.request(Code.CPUID, struct.pack("<III", cpu, 0, 0))
            return self.host.shell.run_program(context, words[words.index("-l") + 2 :])
        thread = next((words[words.index(flag) + 1] for flag in ("-t", "-p") if flag in words), "")
        mask = sum(1 << cpu for cpu in cpus)
        for process in self.host.processes.values():
            meant = [
                vcpu for vcpu in range(len(process.cpus)) if thread in (str(process.lwp(vcpu)), str(process.pid))
            ]
            for vcpu in meant:
                self.host.machine.vm_request(Code.PIN, process.vm, struct.pack("<II", vcpu, mask))
                process.cpus[vcpu] = cpus[0]
            if meant:
                return 0
        context.err("cpuset: setaffinity: No such process\n")
        return 1

    def cpucontrol(self, context: Context, argv: list[str]) -> int:
        if self.host.module("cpuctl.ko") is None:
            context.err(f"cpucontrol: error opening {argv[-1]}: No such file or directory\n")
            return 1
        cpu = int(re.sub(r"\D", "", argv[-1]) or 0)
        if "-i" in argv:
            level = argv[argv.index("-i") + 1]
            request = struct.pack("<III", cpu, int(level, 0), 0)
            registers = struct.unpack("<4I", self.host.machine.request(Code.CPUID, request))
            context.out(f"cpuid level {level}: {' '.join(f'0x{value:08x}' for value in registers)}\n")
            return 0
        msr, equals, value = argv[argv.index("-m") + 1].partition("=")
        head = struct.pack("<II", cpu, int(msr, 16))
        try:
            if equals:
                self.host.machine.request(Code.MSR_WRITE, head + struct.pack("<Q", int(value, 16)))
                return 0
            (found,) = struct.unpack("<Q", self.host.machine.request(Code.MSR_READ, head))
        except KernelError:
            context.err("cpucontrol: ioctl(fd, CPUCTL_RDMSR, &args) failed: Bad address\n")
            return 1
        context.out(f"MSR {msr}: 0x{found >> 32:08x} 0x{found & 0xFFFFFFFF:08x}\n")
        return 0

    def reboot(self, context: Context, argv: list[str]) -> int:
        self.host.reboot()
        return 0

    def procstat(self, context: Context, argv: list[str]) -> int:
        context.out("  PID    TID COMM                TDNAME              CPU  PRI STATE   WCHAN\n")
        for process in self.host.processes.values():
            for vcpu, bound in enumerate(process.cpus):
                cpu, name = -1 if bound is None else bound, f"vcpu {vcpu}"
                who = f"{process.pid:5d} {process.lwp(vcpu):6d} {'bhyve':<19} {name:<18}"
                context.out(f"{who} {cpu:4d}  180 run     -\n")
        return 0
