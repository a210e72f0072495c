"""A finished run as the place where cases run again: the guests' records are those that were stored.

The case builds its program anew; it must be, byte for byte, the one that ran (the ROM's hash is in the evidence), or
nothing is judged. What only a host could answer is not stored as such: a case that asks for it is not judged again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from harness.errors import NotStarted, RecordsDamaged, TestDefect
from harness.guest import EndMethod, Program, Result, Rom, decode
from harness.inventory import Host
from harness.lab.platforms import platform_of
from harness.recording import Recorder
from harness.results import CellRecorder
from harness.subjects import Platform, Subject


def _needs_host() -> NoReturn:
    raise NotStarted("The case asks the host itself, whose answers are not stored in this form.", help="")


class _Host:
    """Stands for the host: whatever is asked of it cannot be answered."""

    def __getattr__(self, name: str) -> Any:
        _needs_host()


class ReplayGuest:
    """A guest that ran already: what was done to it is done, its records are there."""

    def __init__(self, result: Result) -> None:
        self._result = result

    def wait_phase(self, phase: int) -> None: ...

    def go(self) -> None: ...

    def pin(self, cpu: int, vcpu: int = 0) -> None: ...

    def stop(self) -> None: ...

    def cont(self) -> None: ...

    def inject_nmi(self) -> None: ...

    def finish(self) -> Result:
        return self._result

    def __getattr__(self, name: str) -> Any:
        _needs_host()


class ReplaySubject:
    """Gives each program of a case the records that it left, in the order in which they ran."""

    def __init__(self, platform: Platform, folder: Path) -> None:
        self.platform = platform
        self._folder = folder
        self._runs = 0

    @property
    def host(self) -> Any:
        return _Host()

    def run(self, program: Program, *, pin: int | None = 0, seconds: float = 30) -> Result:
        return self._stored(program, "")

    @contextmanager
    def start(
        self, program: Program, *, pin: int | None = 0, name: str = "", seconds: float = 30
    ) -> Iterator[ReplayGuest]:
        yield ReplayGuest(self._stored(program, name))

    def _stored(self, program: Program, name: str) -> Result:
        self._runs += 1
        number = "" if self._runs == 1 else f"-{self._runs}"
        facts = self._read(f"rom{number}.json")
        console = self._folder / (f"{name}-console.raw" if name else f"console{number}.raw")
        if name or facts is None or not console.is_file():
            raise NotStarted(f"The evidence has no records of program {self._runs} of this case.", help="")
        nonce = int(facts["nonce"], 16)
        if not any(Rom.build(program, end, nonce=nonce).sha256 == facts["rom_sha256"] for end in EndMethod):
            raise NotStarted(f"Program '{program.name}' is not the one that ran: its ROM has another hash.", help="")
        result = decode(console.read_bytes(), nonce)
        records = self._read(f"records{number}.json")
        if records is not None and records != [record.as_dict() for record in result.records]:
            raise RecordsDamaged(f"The decoded records of program {self._runs} are not those of its console.")
        return result

    def _read(self, name: str) -> Any:
        path = self._folder / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


class ReplaySession:
    """Implements :class:`harness.lab.session.HostSession` without a host."""

    def __init__(self, alias: str, host: Host, stored: Path, run_folder: Path) -> None:
        self.platform = platform_of(alias, host)
        self._stored = stored
        self._run_folder = run_folder

    def open(self) -> dict[str, Any]:
        return {"heading": self.platform.heading, "replay_of": self._stored.name}

    def begin(self, recorder: Recorder) -> Subject:
        if not isinstance(recorder, CellRecorder):
            raise TestDefect("Only a cell can be judged again.")
        folder = self._stored / recorder.folder.relative_to(self._run_folder)
        return ReplaySubject(self.platform, folder)  # type: ignore[return-value]

    def end(self) -> None: ...

    def explain(self, error: Exception) -> Exception:
        return error

    def close(self) -> dict[str, Any]:
        return {}
