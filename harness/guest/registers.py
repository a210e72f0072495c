"""Debug-register fields by their manual names (SDM volume 3, 17.2; APM volume 2, 13.1)."""

from __future__ import annotations

from harness.errors import ProgramInvalid

#: Inactive value of DR6 without RTM and bus-lock detection, and after reset (SDM 9.1.1, table 9-1).
DR6_INACTIVE = 0xFFFF0FF0
DR6_BD = 1 << 13
DR6_BS = 1 << 14
DR6_BT = 1 << 15
DR6_RTM = 1 << 16
DR6_BLD = 1 << 11

#: DR7 after reset: bit 10 always reads 1.
DR7_RESET = 0x400
DR7_LE = 1 << 8
DR7_GE = 1 << 9
DR7_RTM = 1 << 11
DR7_GD = 1 << 13
#: Bits of DR7 that keep what is written (bit 11 only with RTM).
DR7_WRITABLE = 0xFFFF23FF

CR0_AM = 1 << 18
CR4_DE = 1 << 3

RFLAGS_TF = 1 << 8
RFLAGS_NT = 1 << 14
RFLAGS_RF = 1 << 16

#: Bits of DR6 that say what happened; everything else is fixed or depends on features.
DR6_CAUSES = 0xF | DR6_BD | DR6_BS | DR6_BT

VECTORS = {"#DB": 1, "NMI": 2, "#BP": 3, "#UD": 6, "#DF": 8, "#NP": 11, "#SS": 12, "#GP": 13, "#PF": 14, "#AC": 17}

TYPES = {"execute": 0, "write": 1, "io": 2, "readwrite": 3}
_LENGTHS = {1: 0, 2: 1, 8: 2, 4: 3}


def dr7(dr: int, type: str, length: int, enable: str) -> int:
    """DR7 with one breakpoint on: ``dr`` 0-3, ``type`` of :data:`TYPES`, ``length`` 1, 2, 4 or 8 bytes,
    ``enable`` any of ``L``, ``G``, ``LG`` or an empty string (configured, not enabled).

    Raises :class:`ProgramInvalid` for anything else.
    """
    if dr not in range(4) or type not in TYPES or length not in _LENGTHS or enable not in ("", "L", "G", "LG"):
        raise ProgramInvalid(f"No breakpoint has dr={dr!r}, type={type!r}, length={length!r}, enable={enable!r}.")
    bits = (("L" in enable) << (2 * dr)) | (("G" in enable) << (2 * dr + 1))
    return DR7_RESET | bits | TYPES[type] << (16 + 4 * dr) | _LENGTHS[length] << (18 + 4 * dr)


def dr7_readback(written: int, *, rtm: bool = False) -> int:
    """What DR7 reads after ``written`` was loaded (SDM 17.2.4, APM 13.1.1.4)."""
    return (written & (DR7_WRITABLE | (DR7_RTM if rtm else 0))) | DR7_RESET


def dr6_causes(value: int) -> int:
    """The cause bits of DR6: B0-B3, BD, BS, BT."""
    return value & DR6_CAUSES


def describe_dr6(value: int) -> str:
    """The set cause bits by name, such as ``B0+BS``, or ``none``."""
    names = {1: "B0", 2: "B1", 4: "B2", 8: "B3", DR6_BD: "BD", DR6_BS: "BS", DR6_BT: "BT"}
    return "+".join(name for bit, name in names.items() if value & bit) or "none"
