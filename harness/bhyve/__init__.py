"""bhyve and bhyvectl as Python: command lines out, checked answers in."""

from harness.bhyve.bhyvectl import (
    check_set,
    get_all_command,
    get_capability_command,
    get_command,
    parse_capability,
    parse_descriptor,
    parse_registers,
    parse_stats,
    set_capability_command,
    set_command,
    set_descriptor_command,
    stats_command,
)
from harness.bhyve.command import BhyveOptions
from harness.bhyve.debugger import STUB_PORT, Debugger, carry_command
from harness.bhyve.ending import HALT_DONE, TESTDEV_DONE, Ending, Exit, interpret
from harness.bhyve.runscript import Finished, HostView, RunScript
from harness.bhyve.stop import find_command, remove_machine, stop_guest

__all__ = [
    "HALT_DONE",
    "STUB_PORT",
    "TESTDEV_DONE",
    "BhyveOptions",
    "Debugger",
    "Ending",
    "Exit",
    "Finished",
    "HostView",
    "RunScript",
    "carry_command",
    "check_set",
    "find_command",
    "get_all_command",
    "get_capability_command",
    "get_command",
    "interpret",
    "parse_capability",
    "parse_descriptor",
    "parse_registers",
    "parse_stats",
    "remove_machine",
    "set_capability_command",
    "set_command",
    "set_descriptor_command",
    "stats_command",
    "stop_guest",
]
