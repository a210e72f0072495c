"""bhyve and bhyvectl as Python: command lines out, checked answers in."""

from harness.bhyve.bhyvectl import get_command, parse_registers, parse_stats, set_command
from harness.bhyve.command import DONE_STATUS, bhyve_command, explain_exit

__all__ = [
    "DONE_STATUS",
    "bhyve_command",
    "explain_exit",
    "get_command",
    "parse_registers",
    "parse_stats",
    "set_command",
]
