"""The case list and the predicted failures as data: ``catalogue.toml`` and ``gaps.toml``, checked when read.

Both files lie beside the suites that they speak of, so that a folder of other suites has its own, or none.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cache
from pathlib import Path
from typing import Any

from harness.cases import REQUIREMENTS, Expected
from harness.conditions import Conditions, wrong_conditions, wrong_releases
from harness.errors import ConfigError, ProductFailure, all_errors

SUITES = Path(__file__).resolve().parents[1] / "suites"
CATALOGUE, GAPS = "catalogue.toml", "gaps.toml"
KINDS = ("bare", "emulated", "freebsd", "bochs", "qemu")
VENDORS = ("intel", "amd")
#: Letters of ``observe``, as the head of the catalogue explains them.
CHANNELS = "GRCLPMDSTXK"

_CASE_ID = re.compile(r"[A-Z]{3}-\d\d")
_GAP_ID = re.compile(r"G-\d\d|(EMULATOR|ERRATUM)-[A-Z0-9-]+")


@dataclass(frozen=True, slots=True)
class Entry:
    """One case of the list. ``open`` says why no suite asks it, ``not_on`` (kind of host -> reason) where it never can
    be observed; the other fields are explained at the head of the file."""

    id: str
    rule: str
    vendors: tuple[str, ...]
    requirements: tuple[str, ...]
    refs: tuple[str, ...]
    priority: int
    observe: str
    differs: bool = False
    guards: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()
    hazard: str = ""
    unverified: bool = False
    probe: bool = False
    open: str = ""
    not_on: Mapping[str, str] = field(default_factory=dict)

    @property
    def group(self) -> str:
        return self.id[:3]


@dataclass(frozen=True, slots=True)
class Shows:
    """Where a gap must show; ``evidence`` is ``measured`` or ``predicted``. Selectors as in :class:`Expected`."""

    case: str
    code: str
    evidence: str
    kinds: tuple[str, ...] = ()
    vendors: tuple[str, ...] = ()
    variant: tuple[str, ...] = ()
    test: str = ""
    not_kinds: tuple[str, ...] = ()
    when: Conditions = field(default=Conditions())


@dataclass(frozen=True, slots=True)
class Gap:
    """A predicted failure: what the source or an erratum says (``reason``, ``source``), on which processors (``cpus``
    in words, ``when`` as ranges) and FreeBSD ``releases``, which cases it concerns, and where it must show. ``review``
    is the day after which somebody should look again."""

    id: str
    reason: str
    source: str
    vendors: tuple[str, ...]
    cases: tuple[str, ...]
    cpus: str
    review: date
    shows: tuple[Shows, ...]
    releases: str = ""
    when: Conditions = field(default=Conditions())

    def expectations(self) -> Iterator[tuple[str, Expected]]:
        """(case, expectation) for each place where it must show."""
        for where in self.shows:
            when = (Conditions(releases=self.releases), self.when, where.when)
            yield where.case, Expected(
                self.id, where.code, self.reason, where.kinds, where.vendors, where.variant, where.test,
                where.not_kinds, tuple(conditions for conditions in when if conditions),
            )


def load_catalogue(folder: Path = SUITES) -> dict[str, Entry]:
    """Case id -> entry, in the order of the file. Raises :class:`ConfigError` that names every mistake."""
    path = folder / CATALOGUE
    tables = _read(path)
    entries: dict[str, Entry] = {}
    mistakes: list[str] = []
    for id, table in tables.items():
        wrong = [f"{id} {what}" for what in _wrong_entry(id, table)]
        mistakes += wrong
        if not wrong:
            entries[id] = Entry(id=id, **_tuples(table))
    _refuse(path, mistakes)
    return entries


def load_gaps(folder: Path = SUITES) -> tuple[Gap, ...]:
    """The predicted failures, in the order of the file. Raises :class:`ConfigError` that names every mistake."""
    path = folder / GAPS
    gaps: list[Gap] = []
    mistakes: list[str] = []
    data = _read(path)
    # A heading that is misspelled would take every prediction with it, without a word.
    mistakes += [f"the unknown heading '{name}', only [[gap]] is known" for name in data if name != "gap"]
    tables = data.get("gap", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        mistakes.append("'gap' is no list of tables: each begins with [[gap]]")
        tables = []
    for table in tables:
        id = str(table.get("id", "an entry without id"))
        wrong = [f"{id} {what}" for what in _wrong_gap(table, {gap.id for gap in gaps})]
        mistakes += wrong
        if not wrong:
            values = _tuples(table)
            values["shows"] = tuple(Shows(**_tuples(where)) for where in table["shows"])
            gaps.append(Gap(**values))
    _refuse(path, mistakes)
    return tuple(gaps)


@cache
def expectations(folder: Path) -> Mapping[str, tuple[Expected, ...]]:
    """Case id -> what :data:`GAPS` of ``folder`` declares for it; empty for a folder without that file."""
    found: dict[str, tuple[Expected, ...]] = {}
    if (folder / GAPS).is_file():
        for gap in load_gaps(folder):
            for case, expected in gap.expectations():
                found[case] = (*found.get(case, ()), expected)
    return found


def overdue(gaps: Iterable[Gap], today: date) -> list[Gap]:
    """Gaps whose day of review has passed."""
    return [gap for gap in gaps if gap.review < today]


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"'{path}' cannot be read: {error.strerror}.") from None
    except tomllib.TOMLDecodeError as error:
        # A case that stands there twice is an error of TOML already: no id is reused.
        raise ConfigError(f"'{path}' is no valid TOML: {error}.") from None


def _refuse(path: Path, mistakes: list[str]) -> None:
    if mistakes:
        raise ConfigError(f"'{path}' has {len(mistakes)} mistakes: {'; '.join(mistakes)}.")


def _tuples(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table as arguments of its class."""
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    return values | ({"when": Conditions.from_table(table["when"])} if "when" in table else {})


_ENTRY_TYPES: Mapping[str, type] = {
    "rule": str, "vendors": list, "requirements": list, "refs": list, "priority": int, "observe": str, "differs": bool,
    "guards": list, "gaps": list, "hazard": str, "unverified": bool, "probe": bool, "open": str, "not_on": dict,
}  # fmt: skip
_ENTRY_NEEDED = ("rule", "vendors", "requirements", "refs", "priority", "observe")
_GAP_TYPES: Mapping[str, type] = {
    "id": str, "reason": str, "source": str, "vendors": list, "cases": list, "cpus": str, "releases": str,
    "review": date, "shows": list, "when": dict,
}  # fmt: skip
_GAP_NEEDED = ("id", "reason", "source", "vendors", "cases", "cpus", "review", "shows")
_SHOWS_TYPES: Mapping[str, type] = {
    "case": str, "code": str, "evidence": str, "kinds": list, "vendors": list, "variant": list, "test": str,
    "not_kinds": list, "when": dict,
}  # fmt: skip
_SHOWS_NEEDED = ("case", "code", "evidence")


def _wrong_form(table: Mapping[str, Any], types: Mapping[str, type], needed: Iterable[str]) -> Iterator[str]:
    for key in needed:
        if key not in table or table[key] in ("", None):
            yield f"lacks '{key}'"
    for key, value in table.items():
        if key not in types:
            yield f"has the unknown key '{key}'"
        elif not isinstance(value, types[key]) or isinstance(value, datetime):
            yield f"has a '{key}' that is no {types[key].__name__}"


def _outside(name: str, values: Iterable[str], known: Iterable[str]) -> Iterator[str]:
    strange = sorted(set(values) - set(known))
    if strange:
        yield f"names {name} {', '.join(strange)}; known are {', '.join(known)}"


def _wrong_entry(id: str, table: Any) -> Iterator[str]:
    if not _CASE_ID.fullmatch(id):
        yield "is no case id (three capitals, a hyphen, two digits)"
    if not isinstance(table, dict):
        yield "is no table"
        return
    form = list(_wrong_form(table, _ENTRY_TYPES, _ENTRY_NEEDED))
    yield from form
    if form:
        return
    yield from _outside("vendors", table["vendors"], VENDORS)
    yield from _outside("requirements", table["requirements"], REQUIREMENTS)
    yield from _outside("channels", table["observe"], CHANNELS)
    yield from _outside("kinds of hosts", table.get("not_on", {}), KINDS)
    if not table["vendors"] or not table["requirements"] or table["priority"] not in (1, 2, 3):
        yield "needs a vendor, a requirement and a priority of 1 to 3"


def _wrong_gap(table: Mapping[str, Any], known: set[str]) -> Iterator[str]:
    form = list(_wrong_form(table, _GAP_TYPES, _GAP_NEEDED))
    yield from form
    if form:
        return
    if not _GAP_ID.fullmatch(table["id"]) or table["id"] in known:
        yield "is no new id of the form G-01, ERRATUM-NAME or EMULATOR-NAME"
    if "releases" in table:
        yield from wrong_releases(table["releases"])
    yield from wrong_conditions(table.get("when", {}))
    yield from _outside("vendors", table["vendors"], VENDORS)
    codes = {error.code for error in all_errors() if issubclass(error, ProductFailure)}
    for where in table["shows"]:
        if not isinstance(where, dict):
            yield "has a 'shows' that is no list of tables: each begins with [[gap.shows]]"
            continue
        form = list(_wrong_form(where, _SHOWS_TYPES, _SHOWS_NEEDED))
        yield from form
        if form:
            continue
        yield from _outside("cases", [where["case"]], table["cases"])
        yield from _outside("codes", [where["code"]], sorted(codes))
        yield from _outside("evidence", [where["evidence"]], ("measured", "predicted"))
        yield from _outside("kinds of hosts", (*where.get("kinds", ()), *where.get("not_kinds", ())), KINDS)
        yield from _outside("vendors", where.get("vendors", ()), table["vendors"])
        yield from wrong_conditions(where.get("when", {}))
