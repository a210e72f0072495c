"""Kernel messages of an item: cut out of the log, searched for what makes a pass no pass.

Between two items nothing of ours runs on a host, so that an item's messages are those behind the last line that was
seen before it. Marks in the log say the same to whoever reads a panic's log, and where the first item's begin.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HardwareTrouble, KernelMessage

#: Kernel messages that speak against the product although the guest was content.
_COMPLAINTS = re.compile(
    r"lock order reversal|spin lock .* held too long|Fatal (?:double fault|trap)|^panic: |KASSERT|VMEXIT_INVALID"
    r"|acquiring duplicate lock|sleeping thread|vmcs_(?:read|write) error|vmx_.*: error",
    re.IGNORECASE,
)
#: Messages about the hardware: the machine is at fault, not the product.
_HARDWARE = re.compile(r"^MCA: |^MCE: |thermal|NMI .*(?:parity|ECC)", re.IGNORECASE)
_TAG = "vmmcheck"
#: File of an item's messages in its evidence, and what a line that is ours begins with.
DELTA, _OURS = "dmesg-delta.txt", "(vmmcheck) "
_MARK = re.compile(r"BEGIN [0-9a-f]{8} ")
#: Lines of the buffer's end that are looked at: more than an ordinary item leaves there.
TAIL_LINES = 100


def mark_command(mark: str) -> str:
    """Write ``mark`` to the kernel's message buffer and console, so that a panic's log tells its own item.

    Priority ``user.err`` is what FreeBSD's syslog.conf sends to the console, and the console's output is in the message
    buffer, where ``dmesg -a`` shows it.
    """
    return f"logger -p user.err -t {_TAG} {shlex.quote(f'BEGIN {mark}')}"


#: Prints the end of the message buffer.
TAIL_COMMAND = f"dmesg -a | tail -n {TAIL_LINES}"


def since(text: str, mark: str) -> list[str]:
    """Lines behind ``mark``; none when the mark is not there, as then nobody can say whose they are."""
    lines = text.splitlines()
    at = max((number for number, line in enumerate(lines) if f"BEGIN {mark}" in line), default=-1)
    return [line for line in lines[at + 1 :] if line.strip()] if at >= 0 else []


def complaints(lines: list[str]) -> list[str]:
    """Lines that speak against the product."""
    return [line for line in lines if _COMPLAINTS.search(line)]


def hardware_trouble(lines: list[str]) -> list[str]:
    """Lines that speak against the machine."""
    return [line for line in lines if _HARDWARE.search(line)]


@dataclass(frozen=True, slots=True)
class Messages:
    """What the kernel said during an item; ``lost`` says why some of it may be missing, empty when nothing is."""

    lines: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()

    @property
    def of_the_kernel(self) -> tuple[str, ...]:
        """Without our own marks."""
        return tuple(line for line in self.lines if not _MARK.search(line))

    def as_delta(self) -> bytes:
        """The file :data:`DELTA`; empty when there is nothing but marks to tell."""
        if not self.of_the_kernel and not self.lost:
            return b""
        return "".join(f"{line}\n" for line in (*(f"{_OURS}{why}" for why in self.lost), *self.lines)).encode()


class MessageLog:
    """Follows the end of one host's message buffer, as it was printed by :data:`TAIL_COMMAND` now and then."""

    def __init__(self) -> None:
        self._seen: tuple[str, ...] | None = None
        self._lines: list[str] = []
        self._lost: list[str] = []

    def begin(self) -> None:
        """An item begins: what was said so far is not its own."""
        self._lines, self._lost = [], []

    def take(self, tail: Sequence[str], mark: str = "") -> None:
        """Add what is new in ``tail``; ``mark`` is one of this item's marks, for a host that was not looked at yet."""
        lines = tuple(tail)
        new, gap = self._new(lines, mark)
        self._lines += [line for line in new if line.strip()]
        if gap:
            self._lost.append(gap)
        self._seen = lines

    @property
    def item(self) -> Messages:
        """All messages of the item so far."""
        return Messages(tuple(self._lines), tuple(self._lost))

    def _new(self, lines: tuple[str, ...], mark: str) -> tuple[tuple[str, ...], str]:
        known = self._seen
        if known is None:
            at = max((number for number, line in enumerate(lines) if mark and f"BEGIN {mark}" in line), default=-1)
            if at >= 0:
                return lines[at:], ""
            if not mark:
                return (), ""
            return lines, "The mark of this item is not in the buffer: lines from before it may be among these."
        if len(known) < TAIL_LINES and lines[: len(known)] == known:
            return lines[len(known) :], ""
        for count in range(min(len(known), len(lines)), 0, -1):
            if known[-count:] == lines[:count]:
                return lines[count:], ""
        if not known:
            return lines, ""
        return lines, f"More than {TAIL_LINES} lines came, or the buffer was cleared: the first ones are lost."


def judge_messages(name: str, lines: Sequence[str]) -> None:
    """Raise :class:`HardwareTrouble` or :class:`KernelMessage` for what host ``name`` said while an item ran."""
    trouble, said = hardware_trouble(list(lines)), complaints(list(lines))
    if trouble:
        raise HardwareTrouble(f"The machine '{name}' reported: {trouble[0]}")
    if said:
        raise KernelMessage(f"The kernel of '{name}' complained while the item ran: {said[0]}")


def read_delta(folder: Path) -> list[str]:
    """The kernel's lines in the evidence of a cell."""
    path = folder / DELTA
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return [line for line in text.splitlines() if not line.startswith(_OURS)]
