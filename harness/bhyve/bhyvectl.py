"""bhyvectl's command line and output (usr.sbin/bhyvectl, 12.1 to 15).

A request whose line is missing has failed, whatever the exit status says: 15.1 prints nothing and exits 0.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from harness.errors import ToolMismatch, UnexpectedAnswer
from harness.transport import CommandResult

_LINE = re.compile(r"^(\S.*?)\[(\d+)\]\s+(\S.*)$", re.MULTILINE)
_STAT = re.compile(r"^(\S.*?)\s*\t(-?\d+)$", re.MULTILINE)
_ERRNO = re.compile(r"^errno = (\d+)$", re.MULTILINE)


def _bhyvectl(vm: str, words: Sequence[str], cpu: int) -> str:
    return shlex.join(["bhyvectl", f"--vm={vm}", *([f"--cpu={cpu}"] if cpu else []), *words])


def get_command(vm: str, names: Sequence[str], cpu: int = 0) -> str:
    """Read registers of a vCPU."""
    return _bhyvectl(vm, [f"--get-{name}" for name in names], cpu)


def set_command(vm: str, values: Mapping[str, int], cpu: int = 0) -> str:
    """Set registers of a vCPU."""
    return _bhyvectl(vm, [f"--set-{name}={value:#x}" for name, value in values.items()], cpu)


def set_descriptor_command(vm: str, name: str, values: tuple[int, int, int], cpu: int = 0) -> str:
    """Set base, limit and access rights of a segment or a descriptor table of a vCPU."""
    parts = [f"--desc-{part}={value:#x}" for part, value in zip(("base", "limit", "access"), values, strict=True)]
    return _bhyvectl(vm, [f"--set-desc-{name}", *parts], cpu)


def set_capability_command(vm: str, name: str, on: bool, cpu: int = 0) -> str:
    """Switch a capability of a vCPU."""
    return _bhyvectl(vm, [f"--capname={name}", f"--setcap={int(on)}"], cpu)


def get_capability_command(vm: str, name: str, cpu: int = 0) -> str:
    """Ask for a capability of a vCPU."""
    return _bhyvectl(vm, [f"--capname={name}", "--getcap"], cpu)


def parse_capability(result: CommandResult, name: str) -> bool:
    """Raises :class:`ToolMismatch` when the tool does not say whether it is set."""
    found = re.search(rf'^Capability "{re.escape(name)}" is (not )?set on vcpu', result.text, re.MULTILINE)
    if found is None:
        raise ToolMismatch(f"'{result.command}' did not say whether {name} is set: {_said(result)}.")
    return found[1] is None


def stats_command(vm: str, cpu: int = 0) -> str:
    """Statistics of a vCPU."""
    return _bhyvectl(vm, ["--get-stats"], cpu)


def get_all_command(vm: str, cpu: int = 0) -> str:
    """Read everything of a vCPU at once."""
    return _bhyvectl(vm, ["--get-all"], cpu)


def parse_registers(result: CommandResult, names: Sequence[str], cpu: int = 0) -> dict[str, int]:
    """Values by name; raises :class:`ToolMismatch` for a line that is not there."""
    found = {name: value for name, vcpu, value in _LINE.findall(result.text) if int(vcpu) == cpu}
    for name in names:
        if name not in found:
            raise ToolMismatch(f"'{result.command}' printed no line for {name}: {_said(result)}.")
    try:
        # A descriptor is base/limit/access; the base is what can be asked for by one name.
        return {name: int(found[name].split("/")[0], 16) for name in names}
    except ValueError:
        raise UnexpectedAnswer(f"'{result.command}' printed something else than numbers: {_said(result)}.") from None


def parse_descriptor(result: CommandResult, name: str, cpu: int = 0) -> tuple[int, int, int]:
    """Base, limit and access rights, which tables do not have; raises :class:`ToolMismatch` when it is not printed."""
    label = name if name in ("gdtr", "idtr") else f"{name} desc"
    for shown, vcpu, value in _LINE.findall(result.text):
        parts = value.split("/")
        if shown == label and int(vcpu) == cpu and len(parts) >= 2:
            return int(parts[0], 16), int(parts[1], 16), int(parts[2], 16) if len(parts) > 2 else 0
    raise ToolMismatch(f"'{result.command}' printed no line for {label}: {_said(result)}.")


def check_set(result: CommandResult) -> None:
    """Raises :class:`ToolMismatch` when setting registers was refused."""
    if result.status != 0 or _ERRNO.search(result.text):
        raise ToolMismatch(f"'{result.command}' was refused: {_said(result)}.")


def parse_stats(result: CommandResult) -> dict[str, int]:
    """Statistics by FreeBSD's names; raises :class:`UnexpectedAnswer` when there are none."""
    stats = {name: int(value) for name, value in _STAT.findall(result.text)}
    if result.status != 0 or "total number of vm exits" not in stats:
        raise UnexpectedAnswer(f"'{result.command}' printed no statistics: {_said(result)}.")
    return stats


def _said(result: CommandResult) -> str:
    errno = _ERRNO.search(result.text)
    errors = result.stderr.decode("utf-8", "replace").strip().splitlines()
    # Its usage text is a hundred lines; the first line is the message.
    parts = [f"status {result.status}", f"errno {errno[1]}" if errno else "", result.text[:200], *errors[:1]]
    return ", ".join(part for part in parts if part)
