"""Command texts that mean the same whatever the login shell is, and several commands in one round trip.

root's login shell is csh up to FreeBSD 13 and sh from 14 on, and sshd hands every command to it. So each command goes
to ``/bin/sh -c`` with a quoting that csh and sh read alike.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence

from harness.errors import UnexpectedAnswer
from harness.transport.protocol import CommandResult


def through_sh(script: str, become: Sequence[str] = ()) -> str:
    """``script`` (one line) for any login shell, run by ``/bin/sh``; ``become`` stands before it (``sudo -n``).

    csh replaces ``!`` even between single quotes, and ends a quote at a newline: the first is taken out of the
    quotes, the second is refused with :class:`ValueError`.
    """
    if "\n" in script or "\0" in script:
        raise ValueError(f"A command for a host is one line of text: {script[:80]!r}.")
    quoted = script.replace("'", "'\\''").replace("!", "'\\!'")
    return " ".join([*become, "/bin/sh", "-c", f"'{quoted}'"])


#: What stands before a command that changes a host (a test that the host is ours): no news to anybody who reads on.
_CONDITION = re.compile(r"^test .{1,160}? \|\| exit \d+; ")
#: Characters of a command that a message shows.
_SHOWN = 120


def shown(command: str) -> str:
    """``command`` as a sentence names it: without the condition before it, and cut where it is long."""
    return _CONDITION.sub("", command)[:_SHOWN]


#: A mark: its token, the name of what it stands behind, and that one's status.
_MARK = re.compile(rb"@@(\w+) (\S+) (\d+)\r?\n")


class Framed:
    """Several commands in one script, each with its own output and status in the answer.

    A mark that no output can hold by accident follows each command. ``fd`` is the stream that carries the answers: 1,
    or 2 where standard output belongs to somebody else (a guest's console).
    """

    def __init__(self, commands: Mapping[str, str], *, fd: int = 1, token: str = "") -> None:
        self.token = token or secrets.token_hex(8)
        self._commands = dict(commands)
        self._fd = fd

    def script(self) -> str:
        """The script as one line; its own status is that of the last mark, so it says nothing."""
        merge, to = ("2>&1", "") if self._fd == 1 else (">&2", " >&2")
        return "; ".join(f"( {command} ) {merge}; {self.mark(name)}{to}" for name, command in self._commands.items())

    def mark(self, name: str, status: str = "$?") -> str:
        """The command that writes the mark behind ``name``."""
        return f'echo "@@{self.token} {name} {status}"'

    def parse(
        self, data: bytes, started: float, seconds: float, arrived: Sequence[tuple[int, float]] = ()
    ) -> dict[str, CommandResult]:
        """Answers by name, as far as they arrived; output of a command is both of its streams as they came."""
        results: dict[str, CommandResult] = {}
        times = self.times(data, arrived)
        for name, output, status in self.pieces(data):
            if name in self._commands:
                began, took = times.get(name, (0.0, seconds))
                results[name] = CommandResult(self._commands[name], status, output, b"", started + began, took)
        return results

    def times(self, data: bytes, arrived: Sequence[tuple[int, float]]) -> dict[str, tuple[float, float]]:
        """When each command began and how long it took, in seconds of the script, going by when its mark arrived.

        ``arrived`` is how much of ``data`` had come when; commands whose marks came together share one time.
        """
        found: dict[str, tuple[float, float]] = {}
        began, chunks = 0.0, iter(arrived)
        size, at = next(chunks, (0, 0.0))
        for match in self._marks(data):
            while size < match.end():
                later = next(chunks, None)
                if later is None:
                    return found
                size, at = later
            found[match[2].decode()] = (began, at - began)
            began = at
        return found

    def _marks(self, data: bytes) -> Iterator[re.Match[bytes]]:
        # One expression for all tokens: a new one would have to be compiled for every guest.
        token = self.token.encode()
        return (match for match in _MARK.finditer(data) if match[1] == token)

    def pieces(self, data: bytes) -> Iterator[tuple[str, bytes, int]]:
        """``(name, output before the mark, status)`` in order."""
        at = 0
        for match in self._marks(data):
            yield match[2].decode(), data[at : match.start()], int(match[3])
            at = match.end()

    def require(self, results: Mapping[str, CommandResult], command: str) -> None:
        """Raise :class:`UnexpectedAnswer` when an answer is missing."""
        missing = [name for name in self._commands if name not in results]
        if missing:
            raise UnexpectedAnswer(f"No answer came for {', '.join(missing)} of '{shown(command)}'.")
