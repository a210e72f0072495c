"""bhyve and bhyvectl on top of the emulated kernel, with 13.2's messages and exit statuses."""

from __future__ import annotations

import re
import struct
import threading
import time
import uuid

from harness.emulated.bhyve_options import Options, parse_bhyve
from harness.emulated.commands_kernel import KernelPrograms
from harness.emulated.commands_users import jailed, unprivileged
from harness.emulated.ctl import Code, KernelError, name_field
from harness.emulated.gdbstub import DebugStub
from harness.emulated.host import EmulatedHost, Process
from harness.emulated.shell import Context, Program
from harness.emulated.streams import read_all
from harness.emulated.vfs import FileError, FileSystem
from harness.errors import EmulatorFailed

EPERM, EINVAL = 1, 22
EX_USAGE = 64
NAME_MAX = 31
#: vCPUs of one VM (VM_MAXCPU).
MAX_VCPUS = 2
ROM_MAX = 16 * 1024 * 1024
#: Bytes of guest memory that the kernel gives in one answer.
READ_MAX = 4096
SUSPEND_RESET, SUSPEND_POWEROFF = 1, 2

#: bhyvectl's register names and FreeBSD's enum vm_reg_name.
REGISTERS = {
    "rax": 0, "rbx": 1, "rcx": 2, "rdx": 3, "rsi": 4, "rdi": 5, "rbp": 6, "r8": 7, "r9": 8, "r10": 9, "r11": 10,
    "r12": 11, "r13": 12, "r14": 13, "r15": 14, "cr0": 15, "cr3": 16, "cr4": 17, "dr7": 18, "rsp": 19, "rip": 20,
    "rflags": 21, "es": 22, "cs": 23, "ss": 24, "ds": 25, "fs": 26, "gs": 27, "ldtr": 28, "tr": 29, "efer": 32,
    "cr2": 33, "dr0": 39, "dr1": 40, "dr2": 41, "dr3": 42, "dr6": 43,
}  # fmt: skip
SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr")
TABLES = {"idtr": 30, "gdtr": 31}
CAPABILITIES = ("hlt_exit", "mtrap_exit", "pause_exit", "unrestricted_guest", "enable_invpcid", "bpt_exit")
SETTABLE = {
    *SEGMENTS,
    "efer", "cr0", "cr2", "cr3", "cr4", "dr0", "dr1", "dr2", "dr3", "dr6", "dr7", "rsp", "rip", "rax", "rflags",
}  # fmt: skip

_USAGE = (
    "Usage: bhyvectl --vm=<vmname>\n       [--cpu=<vcpu_number>]\n       [--create]\n       [--destroy]\n"
    "       [--suspend=<filename>]\n"
)


class BhyvePrograms:
    """Methods are programs; :meth:`table` names them."""

    def __init__(self, host: EmulatedHost, kernel: KernelPrograms) -> None:
        self.host = host
        self._kernel = kernel

    def table(self) -> dict[str, Program]:
        return {"bhyve": self.bhyve, "bhyvectl": self.bhyvectl, "dd": self.dd}

    # --- bhyve -------------------------------------------------------------------------------------------------

    def bhyve(self, context: Context, argv: list[str]) -> int:
        options = parse_bhyve(argv)
        if options.error or not options.name:
            context.err(f"bhyve: {options.error or 'virtual machine name required'}\n")
            return EX_USAGE if options.error.startswith("invalid") else 1
        if options.vcpus > MAX_VCPUS:
            context.err(f"Unable to start with {options.vcpus} vCPUs: at most {MAX_VCPUS} are supported\n")
            return 4
        if any(cpu >= self.host.ncpu for cpu in options.pins.values()):
            context.err("Assertion failed: (error == 0), function fbsdrun_start_thread, file bhyverun.c\n")
            return 134
        try:
            rom = self.host.files.read(FileSystem.resolve(options.rom, context.cwd))
        except FileError as error:
            context.err(f"Error opening bootrom \"{options.rom}\": {error}\n")
            return 4
        if not options.lpc or len(rom) % 4096 or not 4096 <= len(rom) <= ROM_MAX:
            context.err(f"Could not map bootrom: invalid size {len(rom)}\n")
            return 4
        try:
            if options.restore:
                self._restore(context, options, rom)
            else:
                self._prepare(options, rom)
            pins = [options.pins.get(vcpu) for vcpu in range(options.vcpus)]
            if options.gdb in self.host.debug_stubs:
                context.err("bhyve: gdb bind: Address already in use\n")
                return 1
            if options.gdb:
                stub = DebugStub(self.host.machine, options.name, options.vcpus)
                self.host.debug_stubs[options.gdb] = stub
            process = self.host.start_bhyve(options.name, " ".join(argv), options.flags, pins)
        except KernelError as error:
            context.err(f"vm_create: errno {error.errno}\n")
            self._end_stub(options.gdb)
            return 4
        status = self._attend(context, process)
        self._end_stub(options.gdb)
        if options.destroy and status == 1:
            self.host.destroy_vm(options.name)
        return status

    def _end_stub(self, port: int) -> None:
        stub = self.host.debug_stubs.pop(port, None)
        if stub is not None:
            stub.end()

    def _prepare(self, options: Options, rom: bytes) -> None:
        """Create the VM, or make an existing one as new, and give it memory and ROM."""
        if self.host.module("vmm.ko") is None:
            # libvmmapi of this release loads the module by itself: the stock one.
            self._kernel.load("vmm")
        create = options.name not in self.host.vm_names()
        try:
            self.host.machine.prepare_vm(options.name, create=create, memory=options.memory, image=rom)
        except KernelError:
            self.host.refresh_vms()
            raise
        if create:
            self.host.vm_created(options.name)

    def _restore(self, context: Context, options: Options, rom: bytes) -> None:
        """A VM with the memory of a saved one, which the kernel keeps under the key that the file has."""
        key = self.host.files.read(FileSystem.resolve(options.restore, context.cwd))
        before = [(Code.VM_RESTORE, name_field(options.name) + name_field(key.decode()))]
        self.host.machine.map_rom(options.name, rom, before=before)
        self.host.vm_created(options.name)

    def _attend(self, context: Context, process: Process) -> int:
        """Carry the console both ways until the process ends."""
        feeder = threading.Thread(target=self._feed, args=(context, process), daemon=True)
        feeder.start()
        watchdog = self._watchdog(context, process)
        try:
            while data := process.out.read():
                context.stdout.write(data)
        except (BrokenPipeError, OSError):
            self.host.kill_process(process, 141)
        process.ended.wait()
        if watchdog is not None:
            watchdog.cancel()
        context.err(process.errors)
        return process.status if process.status is not None else 4

    def _watchdog(self, context: Context, process: Process) -> threading.Timer | None:
        limit = context.variables.get("VMMCHECK_TIMEOUT")
        if not limit:
            return None
        at, status = limit.split()
        timer = threading.Timer(
            max(0.0, float(at) - time.monotonic()), self.host.kill_process, (process, int(status))
        )
        timer.daemon = True
        timer.start()
        return timer

    def _feed(self, context: Context, process: Process) -> None:
        while not process.ended.is_set():
            data = context.stdin.read(64)
            if not data or process.ended.is_set():
                return
            try:
                self.host.machine.vm_request(Code.CONSOLE_IN, process.vm, data)
            except (KernelError, EmulatorFailed):
                return

    # --- guest memory -----------------------------------------------------------------------------------------

    def dd(self, context: Context, argv: list[str]) -> int:
        """Between standard input or output and the memory of a guest, ``/dev/vmm/NAME``."""
        words = dict(word.partition("=")[::2] for word in argv[1:])
        size = int(words.get("bs", "512"))
        vm = self.host.files.device(words.get("of", words.get("if", "")))
        if vm is None or vm == "null" or ("of" in words) == ("if" in words):
            context.err(f"dd: {words.get('of') or words.get('if') or 'stdin'}: No such file or directory\n")
            return 1
        try:
            if "of" in words:
                at, data = int(words.get("oseek", words.get("seek", "0"))) * size, read_all(context.stdin)
                self.host.machine.vm_request(Code.VM_WRITE, vm, struct.pack("<Q", at) + data)
            else:
                at, count = int(words.get("iseek", words.get("skip", "0"))) * size, int(words.get("count", "1")) * size
                data = b""
                while len(data) < count:
                    piece = struct.pack("<QI", at + len(data), min(READ_MAX, count - len(data)))
                    data += self.host.machine.vm_request(Code.VM_READ, vm, piece)
                context.stdout.write(data)
        except KernelError:
            context.err(f"dd: /dev/vmm/{vm}: Bad address\n")
            return 1
        blocks = f"{len(data) // size}+{int(len(data) % size > 0)} records"
        context.err(f"{blocks} in\n{blocks} out\n{len(data)} bytes transferred\n")
        return 0

    # --- bhyvectl ----------------------------------------------------------------------------------------------

    def bhyvectl(self, context: Context, argv: list[str]) -> int:
        values: dict[str, str] = {}
        flags: list[str] = []
        for word in argv[1:]:
            name, equals, value = word.removeprefix("--").partition("=")
            if not word.startswith("--") or not self._known(name) or (self._needs_value(name) and not equals):
                context.err(f"bhyvectl: unrecognized option `{word}'\n{_USAGE}")
                return 1
            flags.append(name)
            if equals:
                values[name] = value
        if "vm" not in values:
            context.err(_USAGE)
            return 1
        return self._control(context, values["vm"], flags, values)

    @staticmethod
    def _known(name: str) -> bool:
        plain = {
            "vm", "cpu", "create", "destroy", "get-stats", "get-all", "force-reset", "force-poweroff", "inject-nmi",
            "get-exit-reason", "desc-base", "desc-limit", "desc-access", "capname", "setcap", "getcap",
            "suspend",
        }  # fmt: skip
        kind, _, register = name.partition("-")
        return (
            name in plain
            or (kind == "get" and (register in REGISTERS or register.removeprefix("desc-") in (*SEGMENTS, *TABLES)))
            or (kind == "set" and (register in SETTABLE or register.removeprefix("desc-") in (*SEGMENTS, *TABLES)))
        )

    @staticmethod
    def _needs_value(name: str) -> bool:
        return (name.startswith("set-") and not name.startswith("set-desc-")) or name == "suspend"

    def _control(self, context: Context, vm: str, flags: list[str], values: dict[str, str]) -> int:
        if "create" in flags:
            if self.host.module("vmm.ko") is None:
                self._kernel.load("vmm")
            if not vm or len(vm) > NAME_MAX or " " in vm:
                return self._errno(context, EINVAL)
            try:
                self.host.machine.request(Code.VM_CREATE, name_field(vm))
            except KernelError as error:
                return self._errno(context, error.errno)
            self.host.refresh_vms()
        if vm not in self.host.vm_names():
            context.err(f"vm_open: {vm} could not be opened: No such file or directory\n")
            return 1
        if unprivileged(context):
            context.err(f"vm_open: {vm} could not be opened: Permission denied\n")
            return 1
        if jailed(context):
            # The device opens, but none of its ioctls is for jails (vmm_priv_check() of vmm_dev.c).
            return self._errno(context, EPERM)
        cpu = values.get("cpu", "0")
        number = int(cpu) if re.fullmatch(r"-?\d+", cpu) else 0
        try:
            # Setters first, as bhyvectl does; then actions; then what it prints.
            for flag in flags:
                if flag.startswith("set-"):
                    self._set(vm, number, flag[4:], values)
            self._act(vm, flags)
            if "setcap" in flags or "getcap" in flags:
                self._capability(context, vm, number, values)
            for flag in flags:
                if flag.startswith("get-"):
                    context.out(self._get(vm, number, flag[4:]))
            if "suspend" in flags:
                self._save(context, vm, values["suspend"])
            if "destroy" in flags:
                self.host.destroy_vm(vm)
        except KernelError as error:
            return self._errno(context, error.errno)
        return 0

    def _save(self, context: Context, vm: str, file: str) -> None:
        key = uuid.uuid4().hex[:16]
        self.host.machine.vm_request(Code.VM_SAVE, vm, name_field(key))
        self.host.refresh_vms()
        self.host.files.write(FileSystem.resolve(file, context.cwd), key.encode())

    def _set(self, vm: str, cpu: int, what: str, values: dict[str, str]) -> None:
        if not what.startswith("desc-"):
            register = struct.pack("<iiQ", cpu, REGISTERS[what], strtoul(values[f"set-{what}"]))
            self.host.machine.vm_request(Code.SET_REG, vm, register)
            return
        name = what.removeprefix("desc-")
        base, limit, access = (strtoul(values.get(f"desc-{part}", "0")) for part in ("base", "limit", "access"))
        head = struct.pack("<ii", cpu, TABLES.get(name, REGISTERS.get(name, 0)))
        descriptor = struct.pack("<QII", base, limit & 0xFFFFFFFF, access & 0xFFFFFFFF)
        self.host.machine.vm_request(Code.SET_DESC, vm, head + descriptor)

    def _capability(self, context: Context, vm: str, cpu: int, values: dict[str, str]) -> None:
        name = values.get("capname", "")
        if name not in CAPABILITIES:
            raise KernelError(EINVAL)
        head = struct.pack("<ii", cpu, CAPABILITIES.index(name))
        if "setcap" in values:
            self.host.machine.vm_request(Code.SET_CAP, vm, head + struct.pack("<i", strtoul(values["setcap"]) & 1))
            return
        (value,) = struct.unpack_from("<i", self.host.machine.vm_request(Code.GET_CAP, vm, head))
        context.out(f'Capability "{name}" is {"set" if value else "not set"} on vcpu {cpu}\n')

    @staticmethod
    def _errno(context: Context, errno: int) -> int:
        context.out(f"errno = {errno}\n")
        return 255

    def _act(self, vm: str, flags: list[str]) -> None:
        for flag, how in (("force-reset", SUSPEND_RESET), ("force-poweroff", SUSPEND_POWEROFF)):
            if flag in flags:
                self.host.machine.vm_request(Code.SUSPEND, vm, struct.pack("<I", how))
        if "inject-nmi" in flags:
            self.host.machine.vm_request(Code.INJECT_NMI, vm, struct.pack("<I", 0))

    def _get(self, vm: str, cpu: int, what: str) -> str:
        request = self.host.machine.vm_request
        if what == "all":
            names = (*(name for name in REGISTERS), *(f"desc-{name}" for name in (*SEGMENTS, *TABLES)), "stats")
            return "".join(self._get(vm, cpu, name) for name in names)
        if what == "stats":
            text = request(Code.GET_STATS, vm, struct.pack("<i", cpu)).decode()
            lines = [line.partition("\t") for line in text.splitlines()]
            return f"vcpu{cpu} stats:\n" + "".join(f"{name:<40}\t{value}\n" for name, _, value in lines)
        if what == "exit-reason":
            code, _, _, _ = struct.unpack("<IiIQ", request(Code.GET_STATE, vm, struct.pack("<i", cpu)))
            return f"exit_reason[{cpu}]\t{code:#x}\n"
        if what.startswith("desc-"):
            name = what[5:]
            number = TABLES.get(name, REGISTERS.get(name, 0))
            base, limit, access = struct.unpack("<QII", request(Code.GET_DESC, vm, struct.pack("<ii", cpu, number)))
            if name in TABLES:
                return f"{name}[{cpu}]\t\t0x{base:016x}/0x{limit:08x}\n"
            return f"{name} desc[{cpu}]\t0x{base:016x}/0x{limit:08x}/0x{access:08x}\n"
        (value,) = struct.unpack("<Q", request(Code.GET_REG, vm, struct.pack("<ii", cpu, REGISTERS[what])))
        tabs = "\t" if what == "rflags" else "\t\t"
        return f"{what}[{cpu}]{tabs}0x{value:0{4 if what in SEGMENTS else 16}x}\n"


def strtoul(text: str) -> int:
    """strtoul(text, NULL, 0) with 64 bits: garbage is 0, what is too large is all ones, a sign negates."""
    match = re.match(r"\s*([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9]\d*)", text)
    if match is None:
        return 0
    digits = match[2]
    base = 16 if digits[:2].lower() == "0x" else 8 if digits.startswith("0") and len(digits) > 1 else 10
    value = int(digits, base)
    if value >= 1 << 64:
        return (1 << 64) - 1
    return (-value if match[1] == "-" else value) & (1 << 64) - 1
