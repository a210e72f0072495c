"""What the D programs of ``kernel/dtrace`` print, as values."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from harness.errors import UnexpectedAnswer
from harness.hosts.state import HostDebugState

_SAVED = ("dr0", "dr1", "dr2", "dr3", "dr6", "dr7", "debugctl")
_FRAME = re.compile(r"\s+(?:\S+`)?(\S+?)(?:\+0x[0-9a-f]+)?")


@dataclass(frozen=True, slots=True)
class TracedThread:
    """Entries of one thread on one host CPU, as per-CPU data named it at that moment."""

    tid: int
    cpu: int
    entries: int
    execname: str
    name: str


@dataclass(frozen=True, slots=True)
class TracedStack:
    """A chain of functions, innermost first; an address in hexadecimal where no function is."""

    functions: tuple[str, ...]
    times: int


@dataclass(slots=True)
class Observation:
    """The world switch between two moments: counts by what was seen (``kernel/dtrace/README.md``).

    Filled when the observation ends. ``wrong`` has everything that was looked at, with 0 for what was never found;
    ``saved`` the host's debug registers as they were put aside; ``clean``, ``first`` and ``moved`` count entries by
    their clean bits (AMD), ``debugctl`` threads by the guest's DEBUGCTL at their first entry (AMD).
    """

    entries: int = 0
    returns: int = 0
    threads: list[TracedThread] = field(default_factory=list)
    wrong: dict[str, int] = field(default_factory=dict)
    contexts: dict[int, int] = field(default_factory=dict)
    saved: dict[HostDebugState, int] = field(default_factory=dict)
    sites: dict[int, int] = field(default_factory=dict)
    clean: dict[int, int] = field(default_factory=dict)
    first: dict[int, int] = field(default_factory=dict)
    moved: dict[int, int] = field(default_factory=dict)
    debugctl: dict[int, int] = field(default_factory=dict)
    entry_stacks: list[TracedStack] = field(default_factory=list)
    return_stacks: list[TracedStack] = field(default_factory=list)

    def without(self, bit: int) -> int:
        """Entries whose clean bit ``bit`` was clear: the processor had to load that group."""
        return sum(times for bits, times in self.clean.items() if not bits >> bit & 1)


def fill(observation: Observation, text: str) -> None:
    """Take the output of a program; raises :class:`UnexpectedAnswer` when it is not whole or not understood."""
    lines = text.splitlines()
    if "complete" not in lines:
        raise UnexpectedAnswer(f"The D program ended before its last line: {text[-200:]!r}.")
    stack: tuple[str, int, list[str]] | None = None
    for line in lines:
        if stack is not None and line[:1].isspace() and line.strip():
            match = _FRAME.fullmatch(line)
            stack[2].append(match[1] if match is not None else line.strip())
            continue
        _end_stack(observation, stack)
        stack = None
        word, _, rest = line.partition(" ")
        try:
            if word == "stack":
                name, times = rest.split()
                stack = (name, int(times), [])
            elif word not in ("armed", "complete", ""):
                _take(observation, word, rest.split())
        except (ValueError, IndexError):
            raise UnexpectedAnswer(f"The D program printed a line that means nothing: {line!r}.") from None
    _end_stack(observation, stack)
    if observation.entries and not observation.wrong:
        # At each entry a program notes what it looked at, with 0 for what it did not find: silence is not "nothing".
        raise UnexpectedAnswer(f"The D program did not say what it looked at: {text[-200:]!r}.")


def _end_stack(observation: Observation, stack: tuple[str, int, list[str]] | None) -> None:
    if stack is not None:
        stacks = observation.entry_stacks if stack[0] == "entry" else observation.return_stacks
        stacks.append(TracedStack(tuple(stack[2]), stack[1]))


def _take(observation: Observation, word: str, parts: list[str]) -> None:
    if word in ("entries", "returns"):
        setattr(observation, word, int(parts[0]))
    elif word == "thread":
        tid, cpu, times = (int(part) for part in parts[:3])
        observation.threads.append(TracedThread(tid, cpu, times, parts[3], " ".join(parts[4:])))
    elif word == "wrong":
        observation.wrong[" ".join(parts[1:])] = int(parts[0])
    elif word == "saved":
        state = HostDebugState(**{name: int(part, 16) for name, part in zip(_SAVED, parts[:7], strict=True)})
        observation.saved[state] = int(parts[7])
    elif word == "context":
        observation.contexts[int(parts[0], 16)] = int(parts[1])
    elif word == "site":
        observation.sites[int(parts[0], 16)] = int(parts[1])
    elif word in ("clean", "first", "moved", "debugctl"):
        counts: dict[int, int] = getattr(observation, word)
        counts[int(parts[0], 16)] = int(parts[1])
    else:
        raise ValueError(word)
