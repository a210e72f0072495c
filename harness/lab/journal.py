"""What a host was like before a run changed it, written down on the host: a run that dies leaves it to the next one."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from harness.errors import UnexpectedAnswer
from harness.hosts import Boot, Host

#: On persistent storage, and no part of our folder, which every run makes anew.
FILE = "/root/.vmmcheck.found"


@dataclass(frozen=True, slots=True)
class Found:
    """What was there before us, taken down before anything is changed."""

    #: Path of the vmm.ko that was loaded; empty: none.
    vmm: str
    modules: frozenset[str]
    #: Kernel environment variables that we set -> their value before, ``None`` when there was none.
    kenv: Mapping[str, str | None]


class Journal:
    """The file :data:`FILE` of one host. It speaks of one boot: another one has undone what it would undo."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def read(self, boot: Boot) -> Found | None:
        """What a run found on this very boot and did not put back; ``None`` where there is no such run.

        Raises :class:`UnexpectedAnswer` for a file that is no journal: nothing is guessed about a host.
        """
        answer = self._host.run(f"cat {FILE} 2>/dev/null")
        if answer.status != 0:
            return None
        try:
            data = json.loads(answer.text)
            if data["boot"] != str(boot):
                return None
            return Found(str(data["vmm"]), frozenset(data["modules"]), dict(data["kenv"]))
        except (ValueError, KeyError, TypeError):
            raise UnexpectedAnswer(
                f"'{FILE}' on '{self._host.transport.name}' is no journal of a run: {answer.text[:80]!r}.",
                help="See which modules and kernel variables the host should have, then remove the file.",
            ) from None

    def write(self, boot: Boot, found: Found) -> None:
        """Whole or not at all. Raises :class:`CommandFailed` when there is no room, :class:`LeaseLost`."""
        data = {"boot": str(boot), "vmm": found.vmm, "modules": sorted(found.modules), "kenv": dict(found.kenv)}
        self._host.put(f"{FILE}.new", f"{json.dumps(data)}\n".encode())
        self._host.change(f"mv -f {shlex.quote(f'{FILE}.new')} {shlex.quote(FILE)}")

    def forget(self) -> None:
        """Everything was put back."""
        self._host.change(f"rm -f {FILE} {FILE}.new")
