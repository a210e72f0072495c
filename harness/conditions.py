"""On which machines a declaration holds: releases, processors and microcode, held against what was measured there.

A range speaks of facts of the host as the harness found them (``results.json``, ``hosts``), never of what an inventory
declares. A fact that is not known decides nothing: whatever depends on it neither applies nor is forgotten.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from packaging.specifiers import InvalidSpecifier, SpecifierSet

#: Name of a range -> the fact that it is about, a number.
_NUMBERS = {
    "family": "cpu_family", "model": "cpu_model", "stepping": "cpu_stepping", "microcode": "microcode",
}  # fmt: skip
#: Facts that conditions are about.
DECISIVE = ("release", "vmm", *_NUMBERS.values())
_NUMBER = r"0[xX][0-9a-fA-F]+|0|[1-9]\d*"
_TERM = re.compile(rf"(?P<low>{_NUMBER})?(?P<to>\.\.)?(?P<high>{_NUMBER})?")


class Answer(NamedTuple):
    """Whether the conditions hold (``None``: a fact is missing), and the facts that say so."""

    holds: bool | None
    why: str


@dataclass(frozen=True, slots=True)
class Conditions:
    """Ranges that must all hold; empty ones hold everywhere.

    ``releases`` is a set of FreeBSD releases (``>=13.0,<15``; PEP 440). ``family``, ``model``, ``stepping`` (as CPUID
    gives them, extended parts added) and ``microcode`` (the revision that MSR 8Bh reports) are numbers or ranges, ends
    included: ``0x17, 0x19..0x1a``, ``..0x0a201210``. ``sysctl`` names values of the host: ``hw.vmm... = "0"``.
    """

    releases: str = ""
    family: str = ""
    model: str = ""
    stepping: str = ""
    microcode: str = ""
    sysctl: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Conditions:
        """From a table of ``gaps.toml`` that :func:`wrong_conditions` has nothing against."""
        return cls(**table)

    def __bool__(self) -> bool:
        return self != Conditions()

    def judge(self, facts: Mapping[str, Any], *, freebsd: bool = True) -> Answer:
        """Hold them against the facts of a host; without ``freebsd`` releases are not asked about."""
        answers = list(self._answers(facts, freebsd))
        for holds in (False, None, True):
            found = [answer for answer in answers if answer.holds is holds]
            if found:
                return Answer(holds, "; ".join(answer.why for answer in found))
        return Answer(True, "")

    def _answers(self, facts: Mapping[str, Any], freebsd: bool) -> Iterator[Answer]:
        if self.releases and freebsd:
            yield _release(self.releases, str(facts.get("release", "")))
        for name, fact in _NUMBERS.items():
            wanted: str = getattr(self, name)
            if wanted:
                yield _number(name, wanted, str(facts.get(fact, "")))
        for name, wanted in self.sysctl.items():
            yield _number(name, wanted, sysctl_of(facts, name))


def sysctl_of(facts: Mapping[str, Any], name: str) -> str:
    """A value below ``hw.vmm`` among the facts of a host, or an empty string."""
    match = re.search(rf"^{re.escape(name)}: (.*)$", str(facts.get("vmm", "")), re.MULTILINE)
    return match[1].strip() if match else ""


def wrong_conditions(table: Any) -> Iterator[str]:
    """What is wrong with a table of conditions, as predicates: "has ..."."""
    if not isinstance(table, dict):
        yield "has a 'when' that is no table"
        return
    known = ("releases", *_NUMBERS, "sysctl")
    for key, value in table.items():
        if key not in known:
            yield f"has the unknown condition '{key}'; known are {', '.join(known)}"
        elif key == "releases":
            yield from wrong_releases(value)
        elif key == "sysctl":
            pairs = value.items() if isinstance(value, dict) and value else [("", "")]
            yield from (what for name, wanted in pairs for what in _wrong_range(name or "sysctl", wanted))
        else:
            yield from _wrong_range(key, value)


def wrong_releases(value: Any) -> Iterator[str]:
    """What is wrong with a set of releases, as a predicate."""
    try:
        if not isinstance(value, str) or not value.strip():
            raise InvalidSpecifier
        SpecifierSet(value)
    except InvalidSpecifier:
        yield f"has the releases {value!r}; a set such as '>=13.0,<15' was expected"


def _wrong_range(name: str, value: Any) -> Iterator[str]:
    if not isinstance(value, str) or _parse(value) is None:
        yield f"has the range {value!r} for '{name}'; numbers or ranges such as '0x17, 0x19..0x1a' were expected"


def _parse(text: str) -> list[tuple[int, float]] | None:
    """Ranges with both ends included, or ``None`` for a text that is none."""
    ranges = []
    for part in text.split(","):
        match = _TERM.fullmatch(part.strip())
        if match is None or not (match["low"] or match["high"]) or (match["high"] and not match["to"]):
            return None
        low = int(match["low"], 0) if match["low"] else 0
        high = int(match["high"], 0) if match["high"] else float("inf") if match["to"] else low
        if low > high:
            return None
        ranges.append((low, high))
    return ranges


def _release(wanted: str, found: str) -> Answer:
    number = re.match(r"\d+\.\d+", found)
    if number is None:
        return Answer(None, f"the release of the host is not known ({wanted} was asked for)")
    holds = SpecifierSet(wanted).contains(number[0])
    return Answer(holds, f"release {number[0]} is {'' if holds else 'not '}in '{wanted}'")


def _number(name: str, wanted: str, found: str) -> Answer:
    if not re.fullmatch(_NUMBER, found):
        return Answer(None, f"{name} of the host is not known ({wanted} was asked for)")
    value = int(found, 0)
    holds = any(low <= value <= high for low, high in _parse(wanted) or ())
    return Answer(holds, f"{name} {found} is {'' if holds else 'not '}in '{wanted}'")
