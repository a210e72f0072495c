"""Do a vmm.ko and the tools that drive it belong together? Read out of the files themselves, nothing is run.

The numbers of vmm's ioctls hold the sizes of their structures (sys/sys/ioccom.h), and ``struct vm_run`` and the
register numbers have changed between releases: tools of another tree get EINVAL or ENOTTY, or bhyve aborts
(libvmmapi's ``vcpu_reset``), which would look like the hypervisor's fault.
"""

from __future__ import annotations

import io
import re
import struct
from dataclasses import dataclass

from harness.errors import ConfigError

#: Note by which FreeBSD's programs and libraries name the release they were made for (sys/sys/elf_common.h).
_NT_FREEBSD_ABI_TAG = 1
#: What DECLARE_MODULE() leaves in a module: the __FreeBSD_version of its sources (sys/sys/module.h, struct mod_depend).
_DEPENDS = re.compile(r"^_(\w+)_depend_on_kernel$")
#: libvmmapi hands an ioctl's number over in the second argument: mov $number, %esi.
_SECOND_ARGUMENT = re.compile(rb"\xbe(?=(....))", re.DOTALL)
#: The letter of vmm's ioctls (sys/amd64/include/vmm_dev.h), and the parts of a number (sys/sys/ioccom.h).
_GROUP = ord("v")
_DIRECTIONS = {1: "_IO", 2: "_IOR", 4: "_IOW", 6: "_IOWR"}
_LARGEST = 0x1FFF
_NUMBERS = re.compile(r"^\s*(IOCNUM_\w+)\s*=\s*(\d+)", re.MULTILINE)
_COMMANDS = re.compile(r"\b(_IO[WR]*)\('v',\s*(IOCNUM_\w+)")


@dataclass(frozen=True, slots=True, order=True)
class Ioctl:
    """One of vmm's ioctls: its number, direction (``_IOWR``) and the size of its structure in bytes (0: not known)."""

    number: int
    direction: str
    size: int = 0

    def __str__(self) -> str:
        return f"{self.direction}('v', {self.number}{f', {self.size} bytes' if self.size else ''})"


def module_version(module: bytes, name: str = "vmm.ko") -> int | None:
    """``__FreeBSD_version`` of the sources a kernel module was built from; nothing where its symbols were taken out.

    Raises :class:`ConfigError` for a damaged file.
    """
    from elftools.common.exceptions import ELFError  # only a file that is looked at needs it
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    try:
        elf = ELFFile(io.BytesIO(module))
        symbols = elf.get_section_by_name(".symtab")
        for symbol in symbols.iter_symbols() if isinstance(symbols, SymbolTableSection) else ():
            if _DEPENDS.match(symbol.name) and isinstance(symbol["st_shndx"], int):
                data = elf.get_section(symbol["st_shndx"]).data()
                return int(struct.unpack_from("<i", data, symbol["st_value"])[0])
    except (ELFError, struct.error, ValueError, KeyError, IndexError) as error:
        raise ConfigError(f"'{name}' is damaged: {error or type(error).__name__}.", help="Build it again.") from None
    return None


def tool_version(tool: bytes, name: str) -> int:
    """``__FreeBSD_version`` that a program or library of FreeBSD/amd64 was built for.

    Raises :class:`ConfigError` for a file that is none.
    """
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        for section in ELFFile(io.BytesIO(tool)).iter_sections("SHT_NOTE"):
            for owner, kind, value in _notes(section.data()):
                if owner == b"FreeBSD" and kind == _NT_FREEBSD_ABI_TAG and len(value) >= 4:
                    return int(struct.unpack_from("<i", value)[0])
    except (ELFError, struct.error, ValueError) as error:
        raise ConfigError(f"'{name}' cannot be read as a program: {error}.") from None
    raise ConfigError(
        f"'{name}' is no program of FreeBSD: it does not name the release it was built for.",
        help="Name the folder that the build of bhyve, bhyvectl and libvmmapi wrote to.",
    )


def _notes(data: bytes) -> list[tuple[bytes, int, bytes]]:
    found, at = [], 0
    while at + 12 <= len(data):
        names, values, kind = struct.unpack_from("<III", data, at)
        start = at + 12 + (names + 3 & ~3)
        found.append((data[at + 12 : at + 12 + names].rstrip(b"\0"), kind, data[start : start + values]))
        at = start + (values + 3 & ~3)
    return found


def library_ioctls(library: bytes) -> frozenset[Ioctl]:
    """The ioctls that a libvmmapi.so issues, as its code names them."""
    found = set()
    for match in _SECOND_ARGUMENT.finditer(library):
        value = struct.unpack("<I", match[1])[0]
        direction, size = _DIRECTIONS.get(value >> 29), value >> 16 & _LARGEST
        if value >> 8 & 0xFF == _GROUP and direction is not None and (size == 0) == (direction == "_IO"):
            found.add(Ioctl(value & 0xFF, direction, size))
    return frozenset(found)


def header_ioctls(header: str) -> frozenset[Ioctl]:
    """The ioctls that a tree's vmm_dev.h declares; their structures' sizes only a compiler knows."""
    numbers = {name: int(value) for name, value in _NUMBERS.findall(header)}
    return frozenset(
        Ioctl(numbers[name], direction) for direction, name in _COMMANDS.findall(header) if name in numbers
    )


def undeclared(library: frozenset[Ioctl], header: frozenset[Ioctl]) -> list[Ioctl]:
    """What the library issues and the header does not declare, in the order of the numbers."""
    known = {(ioctl.number, ioctl.direction) for ioctl in header}
    return sorted(ioctl for ioctl in library if (ioctl.number, ioctl.direction) not in known)
