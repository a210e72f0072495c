"""Where guest programs run: bare in the emulator, or under bhyve on a host."""

from harness.hosts.state import HostDebugState, SentinelReport, ThreadBases
from harness.subjects.protocol import Debugger, HostActions, Platform, RunningGuest, Subject

__all__ = [
    "Debugger",
    "HostActions",
    "HostDebugState",
    "Platform",
    "RunningGuest",
    "SentinelReport",
    "Subject",
    "ThreadBases",
]
