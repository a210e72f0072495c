"""Functions and types of the reference kernel, from the symbols and the DWARF of its ELF file.

This is what a kernel's symbol table and CTF are to dtrace(1): the file that is read is the one that was booted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

from elftools.dwarf.compileunit import CompileUnit
from elftools.dwarf.die import DIE
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from harness.build.reference import build_reference_hypervisor


@dataclass(frozen=True, slots=True)
class Function:
    """A function: ``module`` is ``vmm`` or ``kernel``, addresses are those of the running kernel."""

    name: str
    module: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Member:
    """Where a member of a structure is, what it is (``int``, ``struct`` or ``pointer``), the structure meant."""

    offset: int
    bytes: int
    kind: str
    struct: str


class KernelTypes:
    """One kernel's symbols and types, read when they are asked for."""

    def __init__(self, elf: Path) -> None:
        self._elf = elf
        self._structs: dict[str, dict[str, Member] | None] = {}

    @cached_property
    def _file(self) -> ELFFile:
        """Read once: what was parsed of its types is kept with it, and each structure takes a walk through them."""
        return ELFFile(BytesIO(self._elf.read_bytes()))

    @cached_property
    def _units(self) -> list[CompileUnit]:
        return list(self._file.get_dwarf_info().iter_CUs())

    @cached_property
    def functions(self) -> dict[str, Function]:
        """Functions by name, in the order of their addresses."""
        ranges = list(_vmm_ranges(self._units))
        table = self._file.get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        found = [
            (symbol["st_value"], symbol.name, symbol["st_size"])
            for symbol in table.iter_symbols()
            if symbol["st_info"]["type"] == "STT_FUNC" and symbol["st_size"]
        ]
        return {
            name: Function(name, "vmm" if any(low <= start < high for low, high in ranges) else "kernel", start, size)
            for start, name, size in sorted(found)
        }

    def function_at(self, address: int) -> Function | None:
        """The function that holds an address."""
        return next((one for one in self.functions.values() if one.start <= address < one.start + one.size), None)

    def struct(self, name: str) -> dict[str, Member] | None:
        """Members of ``struct name`` by their names; ``None`` when the kernel has no such type."""
        if name not in self._structs:
            self._structs[name] = _find_struct(self._units, name)
        return self._structs[name]


@cache
def running_kernel() -> KernelTypes:
    """The kernel that emulated hosts boot."""
    return KernelTypes(build_reference_hypervisor()[1].elf)


def _text(die: DIE, name: str) -> str:
    attribute = die.attributes.get(name)
    return attribute.value.decode() if attribute is not None and isinstance(attribute.value, bytes) else ""


def _number(die: DIE, name: str) -> int:
    attribute = die.attributes.get(name)
    return int(attribute.value) if attribute is not None else 0


def _vmm_ranges(units: Iterable[CompileUnit]) -> Iterator[tuple[int, int]]:
    """Code of the units below a folder vmm/."""
    for unit in units:
        top = unit.get_top_DIE()
        if "/vmm/" not in f"/{_text(top, 'DW_AT_name')}":
            continue
        low, high = top.attributes.get("DW_AT_low_pc"), top.attributes.get("DW_AT_high_pc")
        if low is None or high is None:
            continue
        # High is an address or, as a constant, a distance (DWARF 4, 2.17.2).
        end = high.value if high.form == "DW_FORM_addr" else low.value + high.value
        yield int(low.value), int(end)


def _find_struct(units: Iterable[CompileUnit], name: str) -> dict[str, Member] | None:
    for unit in units:
        for die in unit.get_top_DIE().iter_children():
            declared = "DW_AT_declaration" in die.attributes
            if die.tag == "DW_TAG_structure_type" and not declared and _text(die, "DW_AT_name") == name:
                return dict(_members(die, 0))
    return None


def _members(die: DIE, base: int) -> Iterator[tuple[str, Member]]:
    for child in die.iter_children():
        if child.tag != "DW_TAG_member":
            continue
        kind, size, struct = _describe(child.get_DIE_from_attribute("DW_AT_type"))
        name = _text(child, "DW_AT_name")
        offset = base + _number(child, "DW_AT_data_member_location")
        if name:
            yield name, Member(offset, size, kind, struct)
        else:
            # Members of an unnamed structure or union count as members of what contains it.
            yield from _members(child.get_DIE_from_attribute("DW_AT_type"), offset)


def _describe(die: DIE) -> tuple[str, int, str]:
    """(kind, bytes, name of the structure) of a type; names for types and qualifiers are looked through."""
    while die.tag in ("DW_TAG_typedef", "DW_TAG_const_type", "DW_TAG_volatile_type"):
        die = die.get_DIE_from_attribute("DW_AT_type")
    if die.tag == "DW_TAG_pointer_type":
        target: Any = die.attributes.get("DW_AT_type")
        struct = _describe(die.get_DIE_from_attribute("DW_AT_type"))[2] if target is not None else ""
        return "pointer", 8, struct
    if die.tag in ("DW_TAG_structure_type", "DW_TAG_union_type"):
        return "struct", _number(die, "DW_AT_byte_size"), _text(die, "DW_AT_name")
    if die.tag in ("DW_TAG_base_type", "DW_TAG_enumeration_type"):
        return "int", _number(die, "DW_AT_byte_size"), ""
    return "other", 0, ""
