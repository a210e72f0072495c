"""The seam between what happens on a host and the evidence of a cell.

Transports, subjects and assertion helpers report here; only ``harness.results`` knows that files come of it.
"""

from __future__ import annotations

from typing import Protocol


class Recorder(Protocol):
    """Takes evidence for the cell that is running. Every call is written at once, not at the end."""

    def add_command(
        self, argv: str, status: int | None, stdout: bytes, stderr: bytes, started: float, seconds: float
    ) -> None:
        """A command on a host: exit status (``None``: unknown), output, wall-clock start, duration."""

    def add_file(self, name: str, data: bytes) -> None:
        """A file under ``name`` in the cell's folder."""

    def add_expectation(
        self, what: str, expected: str, observed: str, ok: bool, *, mask: str = "", reference: str = ""
    ) -> None:
        """One judged expectation, met or not."""

    def add_note(self, text: str) -> None:
        """A sentence for whoever reads the evidence."""


class NullRecorder:
    """Takes everything, keeps nothing; for work outside of cells."""

    def add_command(
        self, argv: str, status: int | None, stdout: bytes, stderr: bytes, started: float, seconds: float
    ) -> None: ...

    def add_file(self, name: str, data: bytes) -> None: ...

    def add_expectation(
        self, what: str, expected: str, observed: str, ok: bool, *, mask: str = "", reference: str = ""
    ) -> None: ...

    def add_note(self, text: str) -> None: ...
