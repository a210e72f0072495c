"""Processor state as single records carry it: field by field what ``RECORD_*`` in ops.h says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class _Fields(Protocol):
    """The fields of a record that hold state."""

    @property
    def rip(self) -> int: ...
    @property
    def dr6(self) -> int: ...
    @property
    def dr7(self) -> int: ...
    @property
    def value(self) -> int: ...
    @property
    def site(self) -> int: ...
    @property
    def next(self) -> int: ...
    @property
    def aux(self) -> int: ...


@dataclass(frozen=True, slots=True)
class DebugRegisters:
    """DR0-3, DR6, DR7 and CR4."""

    dr0: int
    dr1: int
    dr2: int
    dr3: int
    dr6: int
    dr7: int
    cr4: int

    @classmethod
    def of(cls, record: _Fields) -> DebugRegisters:
        return cls(record.rip, record.value, record.site, record.next, record.dr6, record.dr7, record.aux)

    def __getitem__(self, n: int) -> int:
        """DRn by number."""
        return int(getattr(self, f"dr{n}"))


@dataclass(frozen=True, slots=True)
class ControlRegisters:
    """CR0, CR2, CR3, CR4, CR8 and EFER."""

    cr0: int
    cr2: int
    cr3: int
    cr4: int
    cr8: int
    efer: int

    @classmethod
    def of(cls, record: _Fields) -> ControlRegisters:
        return cls(record.rip, record.value, record.site, record.next, record.aux, record.dr6)


@dataclass(frozen=True, slots=True)
class DescriptorTables:
    """GDTR and IDTR (base and limit in bytes), and the selectors of all segment registers."""

    gdtr_base: int
    gdtr_limit: int
    idtr_base: int
    idtr_limit: int
    cs: int
    ds: int
    es: int
    ss: int
    fs: int
    gs: int
    tr: int
    ldtr: int

    @classmethod
    def of(cls, record: _Fields) -> DescriptorTables:
        gdtr_limit, idtr_limit, tr, ldtr = _words(record.site)
        cs, ds, es, ss = _words(record.next)
        fs, gs, *_ = _words(record.aux)
        return cls(record.rip, gdtr_limit, record.value, idtr_limit, cs, ds, es, ss, fs, gs, tr, ldtr)


def _words(value: int) -> tuple[int, int, int, int]:
    return value & 0xFFFF, value >> 16 & 0xFFFF, value >> 32 & 0xFFFF, value >> 48 & 0xFFFF
