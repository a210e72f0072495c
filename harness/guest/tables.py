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
_SNIPPET = re.compile(r"^SNIPPET\((\w+)\)", re.MULTILINE)


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
def snippets() -> dict[str, int]:
    """Name -> number of the instruction sequences in ``snippets.h``."""
    names = _SNIPPET.findall((INCLUDE / "snippets.h").read_text(encoding="utf-8"))
    return {name: number for number, name in enumerate(names)}


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
    return _family("HANDLER_")[name]


def snippet(name: str) -> int:
    """Number of the snippet ``name``; raises :class:`ProgramInvalid` when there is none."""
    try:
        return snippets()[name]
    except KeyError:
        raise ProgramInvalid(f"There is no snippet '{name}' in guests/include/snippets.h.") from None
