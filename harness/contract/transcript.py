"""A recorded command: the text of the file, and what of it is the same on every host."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_PARTS = ("COMMAND", "STDOUT", "STDERR")
_HEX = re.compile(r"\b0x[0-9a-f]+\b|\b(?=[0-9a-f]*[a-f])(?=[0-9a-f]*[0-9])[0-9a-f]{6,}\b")
#: Not an exit status (``rc=1``) nor the number of a vCPU (``dr0[0]``), which are the same everywhere.
_NUMBER = re.compile(r"(?<![\w.\[=-])-?\d+(?![\w.-])")


@dataclass(frozen=True, slots=True)
class Transcript:
    """One script and what came of it; ``head`` holds facts of the recording (host, status)."""

    name: str
    head: tuple[str, ...]
    command: str
    stdout: str
    stderr: str

    @classmethod
    def parse(cls, name: str, text: str) -> Transcript:
        """Read a file's text; raises :class:`ValueError` when a part is missing."""
        pieces = re.split(r"^### (COMMAND|STDOUT|STDERR)\n", text, flags=re.MULTILINE)
        parts = dict(zip(pieces[1::2], pieces[2::2], strict=True))
        missing = [part for part in _PARTS if part not in parts]
        if missing:
            raise ValueError(f"The transcript '{name}' has no part {', '.join(missing)}.")
        head = tuple(line.removeprefix("# ") for line in pieces[0].splitlines())
        return cls(name, head, parts["COMMAND"].rstrip("\n"), parts["STDOUT"], parts["STDERR"])

    def text(self) -> str:
        """The file's text."""
        head = "".join(f"# {line}\n" for line in self.head)
        return f"{head}### COMMAND\n{self.command}\n### STDOUT\n{_whole(self.stdout)}### STDERR\n{_whole(self.stderr)}"


def _whole(text: str) -> str:
    return text if not text or text.endswith("\n") else f"{text}\n"


def shape(text: str) -> list[str]:
    """Lines without what differs from host to host: numbers, addresses, widths of columns."""
    lines = (_NUMBER.sub("N", _HEX.sub("0xN", line)) for line in text.splitlines())
    return [" ".join(line.split()) for line in lines if line.strip()]


def read_folder(folder: Path) -> dict[str, Transcript]:
    """Transcripts by name."""
    files = sorted(folder.glob("*.txt"))
    return {path.stem: Transcript.parse(path.stem, path.read_text(encoding="utf-8")) for path in files}
