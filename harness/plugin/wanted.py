"""What a run was asked for, and a sentence for what of it there is nothing of."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path

import pytest

from harness.catalogue import CATALOGUE, GAPS, Entry, load_catalogue, load_gaps, overdue
from harness.errors import NoSuchCase

#: Near names that a sentence offers.
_NEAR = 3


def folders_of(config: pytest.Config) -> list[Path]:
    """The folders that a run's words name, files by the folder they are in."""
    named = [(config.invocation_params.dir / word.partition("::")[0]).resolve() for word in config.args]
    return list(dict.fromkeys(path if path.is_dir() else path.parent for path in named))


def require_known(patterns: Sequence[str], folders: Iterable[Path]) -> None:
    """Raise :class:`NoSuchCase` for a ``--case`` that nothing in the case lists of ``folders`` answers to.

    A folder without a list is not judged: only collecting it could tell. Raises :class:`ConfigError` for a bad list.
    """
    entries: dict[str, Entry] = {}
    for folder in folders:
        if not (folder / CATALOGUE).is_file():
            return
        entries |= load_catalogue(folder)
    for pattern in patterns:
        found = [entry for id, entry in entries.items() if fnmatch.fnmatchcase(id, pattern)]
        if not found:
            raise _no_such(pattern, entries)
        if all(entry.open for entry in found):
            first = found[0]
            raise NoSuchCase(
                f"--case {pattern}: no suite asks {', '.join(entry.id for entry in found)}. {first.open}",
                help="'vmmcheck cases --open' lists such cases with their reasons.",
            )


def _no_such(pattern: str, entries: Mapping[str, Entry]) -> NoSuchCase:
    words = [word for word in pattern.replace(",", " ").split() if word]
    if len(words) > 1:
        again = " ".join(f"--case {word}" for word in words)
        return NoSuchCase(f"No case is named '{pattern}'.", help=f"Repeat the option for each case: {again}.")
    near = difflib.get_close_matches(pattern.upper(), entries, n=_NEAR, cutoff=0.5)
    hint = f" Near it are {', '.join(near)}." if near else ""
    return NoSuchCase(f"No case matches --case '{pattern}'.{hint}")


def unmatched(patterns: Iterable[str], planned: Iterable[str]) -> list[str]:
    """The ``--case`` patterns that no planned case answers to."""
    cases = set(planned)
    return [pattern for pattern in patterns if not any(fnmatch.fnmatchcase(case, pattern) for case in cases)]


def nothing_left(config: pytest.Config, planned: Iterable[str]) -> str:
    """One sentence about what of a selection left no cell at all, empty when there is nothing to tell."""
    cases = set(planned)
    option = config.option
    without = unmatched(option.case, cases)
    others = [f"-k '{option.keyword}'"] if option.keyword else []
    others += [f"-m '{option.markexpr}'"] if option.markexpr else []
    others += [f"--priority {option.priority}"] if option.priority else []
    beside = f" together with {', '.join(others)}" if others else ""
    if without and (cases or option.case):
        names = ", ".join(f"--case {pattern}" for pattern in without)
        return f"{names} selected no cell{beside} in {' '.join(config.args)}: nothing was found out about it"
    if not cases:
        return f"Nothing was selected{beside} in {' '.join(config.args)}: no cell ran, and nothing was found out"
    return ""


def reviews_due(config: pytest.Config, today: date) -> list[str]:
    """A line for every prediction beside the suites of a run whose day of review has passed."""
    folders = [folder for folder in folders_of(config) if (folder / GAPS).is_file()]
    return [
        f"{gap.id} was to be looked at again by {gap.review}: {folder.name}/{GAPS} ({gap.reason})"
        for folder in folders
        for gap in overdue(load_gaps(folder), today)
    ]
