"""The journal of hazards: what is about to be done to a host is written down, and on the disk, before it is done.

One JSON object a line, appended and synced: ``begun`` before a hazard, ``settled`` once its host was seen to be whole.
A host with a hazard that was begun and never settled is tainted; the next run tells which cell did that and looks at
the host before anything else.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.errors import ConfigError

NAME = "hazards.jsonl"


@dataclass(frozen=True, slots=True)
class Hazard:
    """A hazardous cell: on which host and boot it was begun (``at``: wall clock), by which run."""

    host: str
    run: str
    case: str
    test: str
    boot: str
    at: float

    def __str__(self) -> str:
        return f"{self.case} ({self.test}) of run {self.run}"


class HazardJournal:
    """Journal in ``folder``, which all runs of a lab share."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME

    def begin(self, hazard: Hazard) -> None:
        """On the disk when this returns."""
        self._append({"event": "begun", **asdict(hazard)})

    def settle(self, host: str, outcome: str, run: str) -> None:
        """The host was verified after its last hazard; ``outcome`` says what came of that."""
        self._append({"event": "settled", "host": host, "outcome": outcome, "run": run, "at": time.time()})

    def tainted(self) -> dict[str, Hazard]:
        """Host -> the hazard after which nobody saw it whole. A last line that a crash cut short counts for nothing.

        Raises :class:`ConfigError` for a journal that is none.
        """
        open_hazards: dict[str, Hazard] = {}
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                if entry.pop("event") == "begun":
                    open_hazards[entry["host"]] = Hazard(**entry)
                else:
                    open_hazards.pop(entry["host"], None)
            except (ValueError, TypeError, KeyError, AttributeError):
                if number == len(lines):
                    break
                raise ConfigError(
                    f"Line {number} of '{self.path}' is no entry of the journal of hazards: {line[:80]!r}.",
                    help="Look at the hosts that it names, then move the file away.",
                ) from None
        return open_hazards

    def _append(self, entry: dict[str, object]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A line that a crash cut short must not swallow this one.
        cut = self.path.exists() and self.path.read_bytes()[-1:] not in (b"", b"\n")
        data = ("\n" * cut + json.dumps(entry, ensure_ascii=False) + "\n").encode()
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, data)
            os.fsync(handle)
        finally:
            os.close(handle)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
