"""One folder per cell, written as things happen."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import EvidenceLost
from harness.jsontext import listed, one_line
from harness.redaction import clean, clean_bytes

#: What output that is no text has: then its bytes are kept as well.
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\xff]")
#: Of the files in a cell's folder.
SCHEMA = 2
#: Judged expectations while the cell runs: one line each, so that a killed process loses none.
_JUDGED = "registers.jsonl"


class CellRecorder:
    """Writes the evidence of one cell below ``folder`` (made with the first file).

    What cannot be written must not disturb what runs, nor the host: :meth:`finish` tells of it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._counts: dict[str, int] = {}
        self._made = False
        self._trouble = ""
        #: Descriptors of the files that grow, open until the cell is over.
        self._growing: dict[str, int] = {}

    def add_command(
        self, argv: str, status: int | None, stdout: bytes, stderr: bytes, started: float, seconds: float
    ) -> None:
        """Append one line to ``commands.jsonl``."""
        entry = {
            "command": clean(argv),
            "status": status,
            "stdout": _text(stdout),
            "stderr": _text(stderr),
            **({"stdout_hex": clean_bytes(stdout).hex()} if _BINARY.search(stdout) else {}),
            "started": round(started, 4),
            "seconds": round(seconds, 4),
        }
        self._append("commands.jsonl", one_line(entry) + "\n")

    def add_file(self, name: str, data: bytes) -> None:
        """Write ``name``; a second file of that name in one cell gets a number."""
        count = self._counts[name] = self._counts.get(name, 0) + 1
        if count > 1:
            stem, dot, ending = name.partition(".")
            name = f"{stem}-{count}{dot}{ending}"
        path = self._path(name)
        with self._writing(name):
            _write(path, clean_bytes(data))

    def add_expectation(
        self, what: str, expected: str, observed: str, ok: bool, *, mask: str = "", reference: str = ""
    ) -> None:
        """Append one judged expectation; :meth:`finish` makes ``registers.json`` of them."""
        entry = {
            "what": clean(what),
            "expected": clean(expected),
            "observed": clean(observed),
            "mask": mask,
            "rule": reference,
            "ok": ok,
        }
        self._append(_JUDGED, one_line(entry) + "\n")

    def add_note(self, text: str) -> None:
        self._append("notes.txt", clean(text) + "\n")

    def finish(self, verdict: dict[str, Any]) -> None:
        """Write what was judged, the verdict and the checksums of everything.

        Raises :class:`EvidenceLost` when this, or anything before it, could not be written.
        """
        self.close()
        judged = Path(self._path(_JUDGED))
        with self._writing("verdict.json"):
            self._finish(judged, verdict)
        if self._trouble:
            raise EvidenceLost(self._trouble)

    def _finish(self, judged: Path, verdict: dict[str, Any]) -> None:
        if judged.exists():
            # Whole lines only: a process that is killed may leave half of one.
            lines = judged.read_text(encoding="utf-8").split("\n")[:-1]
            _write(self._path("registers.json"), listed([json.loads(line) for line in lines]).encode())
            judged.unlink()
        _write(self._path("verdict.json"), listed({"schema": SCHEMA, **verdict}).encode())
        names = sorted(entry.name for entry in os.scandir(self.folder) if entry.name != "manifest.json")
        _write(self._path("manifest.json"), listed({name: _hash(self._path(name)) for name in names}).encode())

    def close(self) -> None:
        """Nothing more is added; a cell without a verdict of its own ends so."""
        while self._growing:
            os.close(self._growing.popitem()[1])

    def _path(self, name: str) -> str:
        if not self._made:
            with self._writing("the folder"):
                self.folder.mkdir(parents=True, exist_ok=True)
                self._made = True
        return f"{self.folder}/{name}"

    def _append(self, name: str, text: str) -> None:
        """At once, unbuffered: a process that is killed loses nothing of what it had told."""
        path = self._path(name)
        with self._writing(name):
            if name not in self._growing:
                self._growing[name] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            write_all(self._growing[name], text.encode())

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            # ValueError: a line that found no room was written on when there was some again.
            why = error.strerror if isinstance(error, OSError) else error
            self._trouble = self._trouble or f"'{name}' of '{self.folder}' cannot be written: {why}."


def write_all(descriptor: int, data: bytes) -> None:
    """All of ``data``; raises ``OSError``."""
    while data:
        data = data[os.write(descriptor, data) :]


def _write(path: str, data: bytes) -> None:
    with open(path, "wb", buffering=0) as stream:  # noqa: PTH123 - there are a dozen for every cell
        write_all(stream.fileno(), data)


def _text(data: bytes) -> str:
    return clean(data.decode("utf-8", "backslashreplace"))


def verify_manifest(folder: Path) -> list[str]:
    """Names of files of a cell that are missing, differ from its manifest, or are not in it.

    The facts of its host, which cells share, count as one of them. Raises ``OSError`` and ``ValueError`` when there is
    no manifest that could be read.
    """
    text = (folder / "manifest.json").read_text(encoding="utf-8")
    sums = json.loads(text)
    if not isinstance(sums, dict) or text != listed(sums):
        # Its own checksum is its form: every byte of it means something.
        raise ValueError("it is not as it was written")
    wrong = [name for name, expected in sums.items() if _hash(folder / name) != expected]
    wrong += [path.name for path in sorted(folder.iterdir()) if path.name not in {*sums, "manifest.json"}]
    return wrong or _wrong_facts(folder)


def console_of(folder: Path, nonce: str) -> bytes:
    """What the guest with this nonce sent, out of a cell's folder; the longest copy where there are several."""
    banner = f"VGP1 B {nonce} ".encode()
    found = [path.read_bytes() for path in sorted(folder.glob("*console*.raw"))]
    return max((data for data in found if banner in data), key=len, default=b"")


def run_of(folder: Path) -> Path:
    """The run folder that a cell's folder is in (``RUN/cells/TEST/HOST``)."""
    return folder.resolve().parents[2]


def facts_reference(run: Path, path: Path) -> dict[str, str]:
    """How a cell names the facts of its host: the file's path in the run folder, and its SHA-256."""
    return {"file": path.relative_to(run).as_posix(), "sha256": _hash(path)}


def _wrong_facts(folder: Path) -> list[str]:
    told = json.loads((folder / "verdict.json").read_text(encoding="utf-8")).get("host_facts")
    return [told["file"]] if told and _hash(run_of(folder) / told["file"]) != told["sha256"] else []


def _hash(path: str | Path) -> str:
    """SHA-256 of a file, empty when there is none."""
    try:
        with open(path, "rb", buffering=0) as stream:  # noqa: PTH123 - there are a dozen for every cell
            return hashlib.sha256(stream.read()).hexdigest()
    except (FileNotFoundError, IsADirectoryError):
        return ""
