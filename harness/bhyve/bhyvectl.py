"""bhyvectl's output. A request whose line is missing has failed, whatever the exit status says (15.1 exits 0)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from harness.errors import ToolMismatch, UnexpectedAnswer
from harness.transport import CommandResult

_LINE = re.compile(r"^(\S.*?)\[(\d+)\]\s+(\S.*)$", re.MULTILINE)
_STAT = re.compile(r"^(\S.*?)\s*\t(-?\d+)$", re.MULTILINE)


def get_command(vm: str, names: Sequence[str]) -> str:
    """Read registers of vCPU 0."""
    return shlex.join(["bhyvectl", f"--vm={vm}", *(f"--get-{name}" for name in names)])


def set_command(vm: str, values: Mapping[str, int]) -> str:
    """Set registers of vCPU 0."""
    return shlex.join(["bhyvectl", f"--vm={vm}", *(f"--set-{name}={value:#x}" for name, value in values.items())])


def parse_registers(result: CommandResult, names: Sequence[str]) -> dict[str, int]:
    """Values by name; raises :class:`ToolMismatch` for a line that is not there."""
    found = {name: value for name, _, value in _LINE.findall(result.text)}
    for name in names:
        if name not in found:
            raise ToolMismatch(
                f"'{result.command}' printed no line for {name} (status {result.status}): {result.text[:200]!r}"
                f" {result.stderr.decode('utf-8', 'replace')[:200]!r}."
            )
    try:
        return {name: int(found[name].split("/")[0], 16) for name in names}
    except ValueError:
        text = result.text[:200]
        raise UnexpectedAnswer(f"'{result.command}' printed something else than numbers: {text!r}.") from None


def parse_stats(result: CommandResult) -> dict[str, int]:
    """Statistics by FreeBSD's names; raises :class:`UnexpectedAnswer` when there are none."""
    stats = {name: int(value) for name, value in _STAT.findall(result.text)}
    if "total number of vm exits" not in stats:
        raise UnexpectedAnswer(f"'{result.command}' printed no statistics: {result.text[:200]!r}.")
    return stats
