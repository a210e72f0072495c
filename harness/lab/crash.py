"""What a panic leaves behind on a host, collected after it came back."""

from __future__ import annotations

import contextlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from harness.hosts import Host
from harness.inventory.model import Crash

#: Names worth copying whole; of a vmcore only name and size are kept.
_COPIED = re.compile(r"^(?:info|core\.txt|textdump\.tar)\.\d+(?:\.gz)?$")
_DUMPS = re.compile(r"^(?:info|core\.txt|textdump\.tar|vmcore)\.\d+")
#: Bytes of one file that are copied at most.
_LIMIT = 8 << 20
_PANIC = re.compile(r"^\s*Panic String: (.*)$", re.MULTILINE)


def keep(path: Path, data: bytes) -> None:
    """Write a file of what a host left, if there is room for it: the verdict does not wait for it."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@dataclass(frozen=True, slots=True)
class Trace:
    """New dump files and the panic message in them (empty: none)."""

    names: tuple[str, ...]
    panic: str


class CrashFolder:
    """Dumps that were there before are not ours: only what is new after a boot counts, and nothing is removed."""

    def __init__(self, entry: Crash) -> None:
        self._folder = entry.folder
        self._used = entry.kind != "none"
        self._known: frozenset[str] = frozenset()

    def remember(self, host: Host) -> None:
        """Take note of what is there now."""
        self._known = frozenset(self._names(host))

    def collect(self, host: Host, target: Path | None, prefix: str) -> Trace:
        """Copy what is new below ``target`` and remember it."""
        names = self._names(host)
        fresh = tuple(sorted(name for name in names if name not in self._known))
        self._known = frozenset(names)
        panic = ""
        for name in fresh:
            if not _COPIED.match(name):
                continue
            data = host.run(f"head -c {_LIMIT} {shlex.quote(f'{self._folder}/{name}')}", seconds=120).stdout
            if target is not None:
                keep(target / f"{prefix}-{name}", data)
            match = _PANIC.search(data.decode("utf-8", "replace")) if name.startswith("info.") else None
            if match:
                panic = match[1].strip()
        return Trace(fresh, panic)

    def _names(self, host: Host) -> list[str]:
        return [name for name in host.names_in(self._folder) if _DUMPS.match(name)] if self._used else []
