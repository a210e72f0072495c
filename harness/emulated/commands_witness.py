"""The vmmwitness program on the emulated host: ptrace on vCPU threads, and sentinels; and how registers are written."""

from __future__ import annotations

import re
import struct
import time
from itertools import pairwise

from harness.emulated.ctl import Code
from harness.emulated.host import EmulatedHost
from harness.emulated.shell import Context, Program
from harness.emulated.streams import Reader

_REGISTERS = ("dr0", "dr1", "dr2", "dr3", "dr6", "dr7")
_DEFAULTS = {"dr6": 0xFFFF0FF0, "dr7": 0x400}
#: VM_MAXUSER_ADDRESS, and the type of a breakpoint that no thread may have.
_USER_END, _IO = 0x8000_0000_0000, 2


def parse_registers(text: str) -> dict[str, int]:
    """``dr0=0x1 dr7=0x400`` (spaces or commas) as numbers."""
    return {name: int(value, 0) for name, value in re.findall(r"(\w+)=(0[xX][0-9a-fA-F]+|\d+)", text)}


def pack_registers(values: dict[str, int]) -> bytes:
    """DR0-3, DR6, DR7 in the channel's order, defaults for what is not named."""
    return struct.pack("<6Q", *(values.get(name, _DEFAULTS.get(name, 0)) & (1 << 64) - 1 for name in _REGISTERS))


def show_registers(data: bytes) -> str:
    """One line ``dr0=0x... dr7=0x...``, with ``debugctl`` where there is a seventh value."""
    names = (*_REGISTERS, "debugctl")[: len(data) // 8]
    values = struct.unpack(f"<{len(names)}Q", data)
    return " ".join(f"{name}={value:#x}" for name, value in zip(names, values, strict=True))


def show_tables(data: bytes) -> str:
    """One line with the descriptor tables of a CPU."""
    names = ("gdtr_base", "gdtr_limit", "idtr_base", "idtr_limit", "ldtr", "tr", "tr_base", "tr_limit")
    return " ".join(f"{name}={value:#x}" for name, value in zip(names, struct.unpack("<8Q", data), strict=True))


def show_bases(data: bytes) -> str:
    """One line with FS and GS base of user mode."""
    fsbase, gsbase = struct.unpack("<2Q", data)
    return f"fsbase={fsbase:#x} gsbase={gsbase:#x}"


def _may_be_set(registers: dict[str, int]) -> bool:
    """Whether ptrace(2) takes them for a thread: set_dbregs() of sys/amd64/amd64/exec_machdep.c."""
    dr6, dr7 = (registers.get(name, _DEFAULTS[name]) for name in ("dr6", "dr7"))
    if dr6 >> 32 or dr7 >> 32 or any(dr7 >> 16 + 4 * n & 3 == _IO for n in range(4)):
        return False
    return all(registers.get(f"dr{n}", 0) < _USER_END for n in range(4) if dr7 >> 2 * n & 3)


class WitnessPrograms:
    """Methods are programs; :meth:`table` names them."""

    def __init__(self, host: EmulatedHost) -> None:
        self.host = host

    def table(self) -> dict[str, Program]:
        return {"vmmwitness": self.vmmwitness}

    def vmmwitness(self, context: Context, argv: list[str]) -> int:
        match argv[1:]:
            case ["dbregs", action, pid, thread, *values]:
                process = self.host.processes.get(int(pid))
                if process is None:
                    context.err(f"vmmwitness: {pid}: No such process\n")
                    return 1
                vcpus = [n for n in range(len(process.cpus)) if thread in (str(process.lwp(n)), f"vcpu{n}")]
                if not vcpus:
                    context.err(f"vmmwitness: {thread}: No such thread\n")
                    return 1
                head = struct.pack("<I", vcpus[0])
                if action == "set":
                    registers = parse_registers(" ".join(values))
                    if not _may_be_set(registers):
                        context.err("vmmwitness: the thread's debug registers: Invalid argument\n")
                        return 1
                    self.host.machine.vm_request(Code.SETDBREGS, process.vm, head + pack_registers(registers))
                context.out(show_registers(self.host.machine.vm_request(Code.GETDBREGS, process.vm, head)) + "\n")
                return 0
            case ["bases", pid, thread]:
                process = self.host.processes.get(int(pid))
                vcpus = [n for n in range(len(process.cpus)) if thread == str(process.lwp(n))] if process else []
                if process is None or not vcpus:
                    context.err("vmmwitness: the thread's bases: No such process\n")
                    return 1
                head = struct.pack("<I", vcpus[0])
                context.out(show_bases(self.host.machine.vm_request(Code.GETBASES, process.vm, head)) + "\n")
                return 0
            case ["sentinel", *options]:
                return self._sentinel(context, options)
        context.err(
            "usage: vmmwitness dbregs get|set PID LWP [drN=...] | bases PID LWP\n"
            "       vmmwitness sentinel --cpu N --dr LIST [--fsbase N] [--gsbase N] [--watch]\n"
        )
        return 64

    def _sentinel(self, context: Context, options: list[str]) -> int:
        cpu = int(options[options.index("--cpu") + 1])
        values = parse_registers(options[options.index("--dr") + 1]) if "--dr" in options else {}
        given = dict(pairwise(options))
        bases = [int(given.get(name, "0"), 0) for name in ("--fsbase", "--gsbase")]
        if "--watch" in options:
            # The channel's way to say "the address of the sentinel's own variable"; a quadword write watch on it.
            values |= {"dr0": (1 << 64) - 1, "dr7": 0x90401 | values.get("dr7", 0)}
        number = int(time.monotonic_ns() & 0x7FFFFFFF)
        request = self.host.machine.request
        self.host.machine.hold()
        try:
            started = request(
                Code.SENTINEL_START,
                struct.pack("<II", number, cpu) + pack_registers(values) + struct.pack("<I2Q", 64, *bases),
            )
            context.out(f"address={struct.unpack('<Q', started[:8])[0]:#x}\n")
            _until_end(context.stdin)
            data = request(Code.SENTINEL_STOP, struct.pack("<I", number))
        finally:
            self.host.machine.release()
        touches, hits, foreign = struct.unpack_from("<3Q", data)
        counts = f"touches={touches} hits={hits} foreign={foreign}"
        context.out(f"{counts} {show_registers(data[24:-16])} {show_bases(data[-16:])}\n")
        return 0


def _until_end(stdin: Reader) -> None:
    while stdin.read():
        pass
