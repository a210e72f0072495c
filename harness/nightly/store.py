"""The history: a folder of plain files, one a run, that are only ever added.

``nights/RUN.json`` is written under another name, forced to the disk, and only then given its own, which fails when
that exists: a process that is killed at any point leaves the history as it was, or with the whole record. Two processes
that add at the same time do not meet. ``begun/ID.json`` says that a run was started for this history, ``ID.ended`` that
it came to an end: without it the run was killed, or still runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from harness.errors import ConfigError
from harness.nightly.record import SCHEMA, Night

#: What a run's name may look like; it becomes the name of a file.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Loaded:
    """The nights in the order of their start, and one sentence for each file that could not be used."""

    nights: tuple[Night, ...]
    warnings: tuple[str, ...]

    def last(self, nights: int) -> Loaded:
        """Only the last ``nights`` runs of each lab."""
        kept: list[Night] = []
        seen: Counter[str] = Counter()
        for night in reversed(self.nights):
            seen[night.lab] += 1
            kept += [night] if seen[night.lab] <= nights else []
        return Loaded(tuple(reversed(kept)), self.warnings)


class History:
    """The history in ``folder``, which is made by the first record."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._nights = self.folder / "nights"
        self._begun = self.folder / "begun"

    def append(self, night: Night) -> bool:
        """Add a run; ``False`` when it is there already, with the same content.

        Raises :class:`ConfigError` when it is there with another content, or the folder cannot be written.
        """
        if not _NAME.fullmatch(night.run):
            raise ConfigError(f"'{night.run}' is no name of a run: expected letters, digits, '.', '_' and '-'.")
        if self._add(self._nights / f"{night.run}.json", _text(night)):
            return True
        known = _read(self._nights / f"{night.run}.json")
        if isinstance(known, str):
            raise ConfigError(known)
        if known.model_copy(update={"folder": night.folder}) != night:
            raise ConfigError(
                f"The history '{self.folder}' has a run '{night.run}' with other results.",
                help="A record is never replaced: use another history, or move the file away if it is the wrong one.",
            )
        return False

    def begin(self, lab: str, runs: str) -> str:
        """Note that a run is being started; the identifier for :meth:`ended`. Raises :class:`ConfigError`."""
        id = time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + "-" + secrets.token_hex(3)
        self._add(self._begun / f"{id}.json", json.dumps({"lab": lab, "runs": runs}, ensure_ascii=False) + "\n")
        return id

    def ended(self, id: str, how: str) -> None:
        """Note how the run that :meth:`begin` announced came to its end. Raises :class:`ConfigError`."""
        self._add(self._begun / f"{id}.ended", how + "\n")

    def load(self) -> Loaded:
        """All records; a damaged file is left out and told of. Raises :class:`ConfigError` without a history."""
        if not self._nights.is_dir() and not self._begun.is_dir():
            raise ConfigError(
                f"'{self.folder}' holds no history: it has no folder 'nights'.",
                help="Name the folder with --history, or begin one: 'vmmcheck nightly --lab FILE', or "
                "'vmmcheck nightly --add RUN' for a run that exists.",
            )
        nights: list[Night] = []
        warnings: list[str] = []
        for path in sorted(self._nights.glob("*.json")):
            if path.name.startswith("."):
                continue
            found = _read(path)
            if isinstance(found, str):
                warnings.append(found)
            else:
                nights.append(found)
        warnings += [
            f"'{path.name}' is a record that was not written to its end: its writer was killed, or is still at it. If"
            " it was killed, add the run with 'vmmcheck nightly --add RUN', and delete the file."
            for path in sorted(self._nights.glob(".*.partial"))
        ]
        warnings += [
            f"A nightly run was begun at {path.stem[:15]} UTC and has not ended: it was killed, or it still runs. Its"
            f" cells have no verdicts here. What it wrote is in its run folder ({_runs(path)})."
            for path in sorted(self._begun.glob("*.json"))
            if not path.name.startswith(".") and not path.with_suffix(".ended").exists()
        ]
        return Loaded(tuple(sorted(nights, key=lambda night: (night.started, night.run))), tuple(warnings))

    def _add(self, path: Path, text: str) -> bool:
        """Make ``path`` with ``text``, whole and on the disk, or not at all; ``False`` when it exists."""
        partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(3)}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("x", encoding="utf-8", newline="\n") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            try:
                os.link(partial, path)
            except FileExistsError:
                return False
            finally:
                partial.unlink()
            _sync_folder(path.parent)
        except OSError as error:
            raise ConfigError(
                f"The history cannot be written: '{path}': {error.strerror}.",
                help="Name a folder that this user can write, on a file system with hard links, with --history.",
            ) from None
        return True


def _text(night: Night) -> str:
    body = json.dumps(night.model_dump(mode="json", exclude_defaults=True), ensure_ascii=False, separators=(",", ":"))
    return f"{hashlib.sha256(body.encode()).hexdigest()}\n{body}\n"


def _read(path: Path) -> Night | str:
    """A record, or the sentence that says why it cannot be used."""
    advice = "This night is left out. Move the file away and add the run again: 'vmmcheck nightly --add RUN'."
    try:
        told, _, body = path.read_text(encoding="utf-8").partition("\n")
        body = body.removesuffix("\n")
        if hashlib.sha256(body.encode()).hexdigest() != told:
            return f"The record '{path.name}' is cut short or was changed: its checksum does not fit. {advice}"
        version = json.loads(body)["schema_version"]
        if version != SCHEMA:
            return f"The record '{path.name}' has schema {version}, this program reads {SCHEMA}: it is left out."
        return Night.model_validate_json(body)
    except OSError as error:
        return f"The record '{path.name}' cannot be read ({error.strerror}). This night is left out."
    except (ValidationError, ValueError, KeyError, TypeError) as error:
        return f"The record '{path.name}' is no record of a run ({type(error).__name__}). {advice}"


def _runs(path: Path) -> str:
    try:
        return f"below '{json.loads(path.read_text(encoding='utf-8'))['runs']}'"
    except (OSError, ValueError, KeyError, TypeError):
        return "wherever its --run-dir was"


def _sync_folder(folder: Path) -> None:
    """Force a folder's entries to the disk: without it a record could vanish with the power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
