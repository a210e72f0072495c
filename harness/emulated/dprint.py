"""What D programs print: printf(3)'s conversions, and aggregations as dtrace(1) shows them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_MASK = (1 << 64) - 1

#: A value of D here: an integer with 64 bits and a sign, a string, or a stack as its lines.
Value = int | str | tuple[str, ...]

DIRECTIVE = re.compile(r"%(?P<agg>@?)(?P<flags>[-+ #0]*\d*)(?:hh|h|ll|l|j|z)?(?P<kind>[diuxXscpk%])")


def render(form: str, values: Sequence[Value], aggregated: int) -> str:
    """printf(3)'s conversions, ``%@d`` for the value of an aggregation, ``%k`` for a stack."""
    left = list(values)

    def one(match: re.Match[str]) -> str:
        if match["kind"] == "%":
            return "%"
        value: Value = aggregated if match["agg"] else left.pop(0) if left else ""
        if match["kind"] == "k":
            # Only a left-aligned %k has a width: how far the frames are indented. Otherwise they begin the line.
            indent = " " * int(match["flags"][1:] or 0) if match["flags"].startswith("-") else ""
            return "\n" + "".join(f"{indent}{line}\n" for line in value) if isinstance(value, tuple) else str(value)
        if isinstance(value, int) and match["kind"] in "uxXp":
            value &= _MASK
        kind = "s" if isinstance(value, str) else {"i": "d", "u": "d", "p": "x"}.get(match["kind"], match["kind"])
        return f"%{match['flags']}{kind}" % value

    return DIRECTIVE.sub(one, form)


def ordered(values: Mapping[tuple[Value, ...], int]) -> list[tuple[tuple[Value, ...], int]]:
    """As dtrace prints them: the smallest value first."""
    return sorted(values.items(), key=lambda item: (item[1], [str(key) for key in item[0]]))


def default_print(aggregations: Mapping[str, Mapping[tuple[Value, ...], int]]) -> str:
    """Aggregations of a program at its end, those without a value among them; empty ones were printed before."""
    parts = ["\n"] if aggregations else []
    shown_before = False
    for values in aggregations.values():
        if not values:
            continue
        parts.append("\n" if shown_before else "")
        shown_before = True
        for key, value in ordered(values):
            shown = "".join(f"  {one:<50}" if isinstance(one, str) else f" {one!s:>16}" for one in key)
            parts.append(f"{shown} {value:16d}\n")
    return "".join(parts)
