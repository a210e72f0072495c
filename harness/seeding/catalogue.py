"""The catalogue of edits, ``kernel/freebsd/defects.toml``."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ConfigError

CATALOGUE = Path(__file__).resolve().parents[2] / "kernel" / "freebsd" / "defects.toml"


@dataclass(frozen=True, slots=True)
class Change:
    """One edit: in ``file`` (below ``sys/amd64/vmm``), inside ``within``, each match of ``pattern`` is replaced.

    ``within`` names the places that releases know this code by; the first that exists is taken, and an empty list means
    the whole file. ``pattern`` has to match exactly ``count`` times there.
    """

    file: str
    within: tuple[str, ...]
    pattern: re.Pattern[str]
    replacement: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class SourceDefect:
    """A violation of one requirement. ``hazard`` says what becomes of the host, empty when it lives on."""

    id: str
    requirement: str
    vendor: str
    summary: str
    caught_by: tuple[str, ...]
    hazard: str
    changes: tuple[Change, ...]


def load_defects(path: Path = CATALOGUE) -> dict[str, SourceDefect]:
    """Defects by id; raises :class:`ConfigError` for a catalogue that is not well-formed."""
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    found: dict[str, SourceDefect] = {}
    for entry in data["defect"]:
        try:
            defect = SourceDefect(
                id=entry["id"],
                requirement=entry["requirement"],
                vendor=entry["vendor"],
                summary=entry["summary"],
                caught_by=tuple(entry.get("caught_by", ())),
                hazard=entry.get("hazard", ""),
                changes=tuple(
                    Change(
                        change["file"], tuple(change.get("within", ())), re.compile(change["pattern"]),
                        change["replace"], change.get("count", 1),
                    )
                    for change in entry["change"]
                ),
            )  # fmt: skip
        except (KeyError, TypeError, re.error) as error:
            raise ConfigError(f"'{path.name}': defect {entry.get('id', '?')}: {error}.") from None
        if defect.id in found:
            raise ConfigError(f"'{path.name}' names the defect '{defect.id}' twice.")
        found[defect.id] = defect
    return found
