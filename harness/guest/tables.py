"""The numbers that guest programs and records are made of, read from the guests' own headers.

``guests/include/*.h`` is the only place where they stand, so the two sides cannot drift apart.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from harness.errors import ProgramInvalid

INCLUDE = Path(__file__).resolve().parents[2] / "guests" / "include"

_DEFINE = re.compile(r"^#define\s+(\w+)\s+(0x[0-9A-Fa-f]+|\d+)\b", re.MULTILINE)
_SNIPPET = re.compile(r"^(?:SNIPPET|PLACE)\((\w+)\)", re.MULTILINE)

#: Width of code in bits -> the headers that number its snippets, one after the other.
_SNIPPET_HEADERS = {
    64: ("snippets.h",),
    32: ("snippets_legacy.h", "snippets32.h"),
    16: ("snippets_legacy.h",),
}

#: Width of the code that runs in each processor mode.
_WIDTHS = {
    "long": 64, "user64": 64, "compat": 32, "prot32": 32, "real": 16, "prot16": 16, "vm86": 16, "compat16": 16,
    "vm86_iopl0": 16,
}  # fmt: skip


@cache
def constants() -> dict[str, int]:
    """Every numeric ``#define`` of ``ops.h`` and ``layout.h``."""
    text = "".join((INCLUDE / name).read_text(encoding="utf-8") for name in ("ops.h", "layout.h"))
    return {name: int(value, 0) for name, value in _DEFINE.findall(text)}


@cache
def _family(prefix: str) -> dict[str, int]:
    return {
        name.removeprefix(prefix).lower(): value for name, value in constants().items() if name.startswith(prefix)
    }


@cache
def snippets(width: int = 64) -> dict[str, int]:
    """Name -> number of the instruction sequences of ``width``-bit code."""
    text = "".join((INCLUDE / name).read_text(encoding="utf-8") for name in _SNIPPET_HEADERS[width])
    return {name: number for number, name in enumerate(_SNIPPET.findall(text))}


def opcode(name: str) -> int:
    """Number of operation ``name`` (without ``OP_``, lower case)."""
    return _family("OP_")[name]


def exit_kind(name: str) -> int:
    """Number of the exit kind ``name``; raises :class:`ProgramInvalid` with the known ones."""
    kinds = _family("EXIT_")
    if name not in kinds or name == "kinds":
        known = ", ".join(sorted(set(kinds) - {"kinds"}))
        raise ProgramInvalid(f"There is no exit kind '{name}'; known are {known}.")
    return kinds[name]


def exit_kinds() -> tuple[str, ...]:
    """All exit kinds that a guest can force by itself, in the order of their numbers."""
    kinds = _family("EXIT_")
    return tuple(sorted(set(kinds) - {"kinds"}, key=lambda name: kinds[name]))


def handler_flag(name: str) -> int:
    """Bit of the exception handler's flag ``name``; raises :class:`ProgramInvalid` when there is none."""
    flags = _family("HANDLER_")
    if name not in flags:
        raise ProgramInvalid(f"There is no handler flag '{name}'; known are {', '.join(sorted(flags))}.")
    return flags[name]


def modes() -> tuple[str, ...]:
    """Processor modes that code under test can run in."""
    return tuple(_WIDTHS)


def mode(name: str) -> int:
    """Number of the processor mode ``name``; raises :class:`ProgramInvalid` with the known ones."""
    if name not in _WIDTHS:
        raise ProgramInvalid(f"There is no processor mode '{name}'; known are {', '.join(_WIDTHS)}.")
    return _family("MODE_")[name]


def mode_width(name: str) -> int:
    """16, 32 or 64."""
    mode(name)
    return _WIDTHS[name]


def snippet(name: str, mode_name: str = "long") -> int:
    """Number of the snippet ``name`` for a mode; raises :class:`ProgramInvalid` when there is none."""
    width = mode_width(mode_name)
    try:
        return snippets(width)[name]
    except KeyError:
        headers = " and ".join(f"guests/include/{header}" for header in _SNIPPET_HEADERS[width])
        raise ProgramInvalid(f"There is no snippet '{name}' of {width}-bit code in {headers}.") from None
