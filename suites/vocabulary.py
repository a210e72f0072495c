"""Axes that several themes share (section 4 of the case list): declared once, generated everywhere."""

from __future__ import annotations

from harness.cases import variant

REGISTERS = (0, 1, 2, 3)
ENABLES = ("L", "G")
LENGTHS = (1, 2, 4, 8)

#: The least that the data-watch core is crossed with. ``busy`` is a loop long enough for host timer interrupts.
CORE_EXITS = (
    variant("none"),
    variant("cpuid"),
    variant("out80"),
    variant("hlt_timer"),
    variant("busy"),
    variant("migrate", "migration"),
)

#: Every exit that a guest can force by itself.
GUEST_EXITS = (
    "cpuid",
    "out80",
    "in21",
    "hlt_timer",
    "first_touch",
    "lapic_mmio",
    "rdmsr",
    "wrmsr",
    "busy",
    "pause",
    "xsetbv",
    "cr_write",
)

#: 64-bit patterns for registers that take any value: zero, ones, alternating, non-canonical, kernel half.
PATTERNS = (
    0x0,
    0xFFFF_FFFF_FFFF_FFFF,
    0x5555_5555_5555_5555,
    0xAAAA_AAAA_AAAA_AAAA,
    0x0000_8000_0000_0000,
    0xFFFF_8000_0000_1000,
    0x8000_0000_0000_0001,
)

#: Different in every register and in both halves, so that a swap or a truncation shows.
DISTINCT = (0x1111_0000_AAAA_0001, 0x2222_0000_BBBB_0002, 0x3333_0000_CCCC_0003, 0x4444_0000_DDDD_0004)
