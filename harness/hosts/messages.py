"""Kernel messages of an item: cut out by a mark in the log, searched for what makes a pass no pass."""

from __future__ import annotations

import re
import shlex

#: Kernel messages that speak against the product although the guest was content.
_COMPLAINTS = re.compile(
    r"lock order reversal|spin lock .* held too long|Fatal (?:double fault|trap)|^panic: |KASSERT|VMEXIT_INVALID"
    r"|acquiring duplicate lock|sleeping thread|vmcs_(?:read|write) error|vmx_.*: error",
    re.IGNORECASE,
)
#: Messages about the hardware: the machine is at fault, not the product.
_HARDWARE = re.compile(r"^MCA: |^MCE: |thermal|NMI .*(?:parity|ECC)", re.IGNORECASE)
_TAG = "vmmcheck"


def mark_command(mark: str) -> str:
    """Write ``mark`` to the kernel's message buffer and console, so that a panic's log tells its own item.

    Priority ``user.err`` is what FreeBSD's syslog.conf sends to the console, and the console's output is in the message
    buffer, where ``dmesg -a`` shows it.
    """
    return f"logger -p user.err -t {_TAG} {shlex.quote(f'BEGIN {mark}')}"


#: Prints the end of the message buffer: more than an ordinary item leaves there.
TAIL_COMMAND = "dmesg -a | tail -n 40"


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
