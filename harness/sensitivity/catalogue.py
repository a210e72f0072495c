"""The catalogue of seeded defects (``kernel/reference/defects.toml``), held to its rules when it is read."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.cases import REQUIREMENTS
from harness.errors import ConfigError

CATALOGUE = Path(__file__).resolve().parents[2] / "kernel" / "reference" / "defects.toml"

_BOTH, _INTEL, _AMD = ("intel", "amd"), ("intel",), ("amd",)
#: Vendors that each requirement speaks of: a defect is needed for each of them.
APPLIES: Mapping[str, tuple[str, ...]] = {
    "S1.1": _BOTH, "S1.2": _INTEL, "S1.3": _BOTH, "S1.4": _BOTH, "S1.5": _INTEL, "S1.6": _AMD, "S1.7": _BOTH,
    "S2.1": _AMD, "S3.1": _AMD, "S3.2": _AMD, "S3.3": _AMD, "S4.1": _AMD, "S4.2": _AMD, "S4.3": _AMD, "S5.1": _AMD,
}  # fmt: skip
#: What the VT-x half has the counterpart of, though no requirement is about it there: defects may be for it, none must.
COUNTERPARTS: Mapping[str, tuple[str, ...]] = {"S2.1": _INTEL, "S3.1": _INTEL, "S3.2": _INTEL, "S3.3": _INTEL}
_TEXTS = ("id", "requirement", "summary", "real", "fixed_by")
_LISTS = ("vendors", "symptoms")


@dataclass(frozen=True, slots=True)
class Defect:
    """A deliberate violation of one requirement.

    ``real`` completes "a real kernel with it would", ``fixed_by`` says what the change that belongs to the
    requirement does about it. ``symptoms`` are regular expressions: a failure that shows this defect, and not some
    accident, matches one of them (see :meth:`shows`); without any, every product failure of a case of the requirement
    does.
    """

    id: str
    requirement: str
    vendors: tuple[str, ...]
    summary: str
    real: str
    fixed_by: str
    symptoms: tuple[str, ...] = ()

    def shows(self, reason: str) -> bool:
        """Whether a failure (its code, and what was judged) is what this defect looks like."""
        return not self.symptoms or any(re.search(symptom, reason) for symptom in self.symptoms)


@dataclass(frozen=True, slots=True)
class Unobservable:
    """A change near a requirement that no case can show, and why: nothing to seed, and told in every report."""

    requirement: str
    vendors: tuple[str, ...]
    change: str
    why: str


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"The catalogue of defects '{path}' cannot be read: {error}.") from None


def load_unobservable(path: Path = CATALOGUE) -> tuple[Unobservable, ...]:
    """What the catalogue records as not to be observed. Raises :class:`ConfigError` that names the first mistake."""
    found = []
    for entry in _read(path).get("unobservable", []):
        requirement, vendors = entry.get("requirement"), tuple(entry.get("vendors", ()))
        texts = [entry.get(name) for name in ("change", "why")]
        whole = set(entry) == {"requirement", "vendors", "change", "why"}
        whole = whole and all(isinstance(text, str) and text for text in texts)
        if not whole or not vendors or not set(vendors) <= set(APPLIES.get(requirement, ())):
            raise ConfigError(
                f"An entry [[unobservable]] of '{path}' needs requirement, vendors that it is for, change and why, and"
                f" nothing else: {entry}."
            )
        found.append(Unobservable(requirement, vendors, *texts))
    return tuple(found)


def load_catalogue(path: Path = CATALOGUE) -> tuple[Defect, ...]:
    """Read the catalogue, in its order. Raises :class:`ConfigError` that names every mistake."""
    entries = _read(path).get("defect")
    if not entries:
        raise ConfigError(f"The catalogue of defects '{path}' has no [[defect]].")
    defects: list[Defect] = []
    mistakes: list[str] = []
    for entry in entries:
        wrong = list(_mistakes(entry, {defect.id for defect in defects}))
        mistakes += wrong
        if not wrong:
            vendors, symptoms = (tuple(entry.get(name, ())) for name in _LISTS)
            defects.append(Defect(**{name: entry[name] for name in _TEXTS}, vendors=vendors, symptoms=symptoms))
    if mistakes:
        raise ConfigError(f"The catalogue of defects '{path}' has mistakes: {'; '.join(mistakes)}.")
    return tuple(defects)


def _mistakes(entry: Mapping[str, Any], known: set[str]) -> Iterable[str]:
    name = str(entry.get("id", "an entry without id"))
    missing = [key for key in _TEXTS if not isinstance(entry.get(key), str) or not entry[key]]
    unknown = sorted(set(entry) - {*_TEXTS, *_LISTS})
    if missing:
        yield f"{name} lacks {', '.join(missing)}"
    if unknown:
        yield f"{name} has the unknown keys {', '.join(unknown)}"
    if name in known:
        yield f"{name} is there twice"
    requirement, vendors = entry.get("requirement"), tuple(entry.get("vendors", ()))
    if requirement not in REQUIREMENTS:
        yield f"{name} names requirement '{requirement}', which does not exist"
    elif not vendors or not set(vendors) <= {*APPLIES[requirement], *COUNTERPARTS.get(requirement, ())}:
        yield f"{name} is for {' and '.join(vendors) or 'no vendor'}; {requirement} is for {_and(APPLIES[requirement])}"
    for symptom in entry.get("symptoms", ()):
        try:
            re.compile(symptom)
        except re.error as error:
            yield f"{name} has the symptom '{symptom}', which is no regular expression ({error})"


def missing_defects(defects: Iterable[Defect], vendors: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of requirement and vendor that no defect violates: nothing shows that their cases can fail."""
    there = {(defect.requirement, vendor) for defect in defects for vendor in defect.vendors}
    wanted = set(vendors)
    return [
        (requirement, vendor)
        for requirement in REQUIREMENTS
        for vendor in APPLIES[requirement]
        if vendor in wanted and (requirement, vendor) not in there
    ]


def _and(words: Iterable[str]) -> str:
    return " and ".join(words)
