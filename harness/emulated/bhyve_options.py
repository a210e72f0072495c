"""bhyve's command line, as the emulated host takes it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

FLAG_H, FLAG_P, FLAG_W, FLAG_E, FLAG_TESTDEV, FLAG_COM1, FLAG_GDB = 1, 2, 4, 8, 32, 64, 128


@dataclass(slots=True)
class Options:
    """bhyve's command line."""

    flags: int = 0
    memory: int = 256 << 20
    vcpus: int = 1
    pins: dict[int, int] = field(default_factory=dict)
    rom: str = ""
    console: str = ""
    #: Port of the debug stub, 0 without one.
    gdb: int = 0
    #: File of a saved guest.
    restore: str = ""
    lpc: bool = False
    destroy: bool = False
    name: str = ""
    error: str = ""


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)([kKmMgG]?)[bB]?", text)
    if match is None:
        return 0
    scale = {"": 20, "k": 10, "m": 20, "g": 30}[match[2].lower()]
    return int(match[1]) << scale


def parse_bhyve(argv: list[str]) -> Options:
    """bhyve's getopt string for 13.2, as far as a guest without devices goes."""
    options, words = Options(), argv[1:]
    simple = {"H": FLAG_H, "P": FLAG_P, "w": FLAG_W, "e": FLAG_E}
    while words and words[0].startswith("-") and len(words[0]) > 1:
        letter, attached = words[0][1], words[0][2:]
        words = words[1:]
        if letter in simple or letter in "AWuUaxYSCDh":
            options.flags |= simple.get(letter, 0)
            options.destroy |= letter == "D"
            if attached:
                words.insert(0, f"-{attached}")
            continue
        value = attached or (words.pop(0) if words else "")
        if letter == "m":
            options.memory = _size(value)
            if not options.memory:
                options.error = f"invalid memsize '{value}'"
        elif letter == "p":
            vcpu, _, cpu = value.partition(":")
            if not vcpu.isdigit() or not cpu.isdigit():
                options.error = f"invalid vcpu pinning '{value}'"
            else:
                options.pins[int(vcpu)] = int(cpu)
        elif letter == "c":
            count = re.fullmatch(r"(?:cpus=)?(\d+)", value)
            options.vcpus = int(count[1]) if count is not None else 0
            if not options.vcpus:
                options.error = "invalid cpu topology"
        elif letter == "r":
            options.restore = value
        elif letter == "s":
            options.lpc |= value.endswith(",lpc")
        elif letter == "l":
            device, _, backend = value.partition(",")
            if device == "bootrom":
                options.rom = backend
            elif device == "com1":
                options.console = backend
            elif device == "pc-testdev":
                options.flags |= FLAG_TESTDEV
        elif letter == "G":
            port = value.removeprefix("w").rpartition(":")[2]
            options.gdb = int(port) if port.isdigit() else 0
            options.flags |= FLAG_GDB
            if not 0 < options.gdb < 1 << 16:
                options.error = f"invalid port '{value}'"
        elif letter not in "cgkoU":
            options.error = f"illegal option -- {letter}"
    options.name = words[0] if words else ""
    if options.console:
        options.flags |= FLAG_COM1
    return options
