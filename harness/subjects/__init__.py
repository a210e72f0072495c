"""Where guest programs run: bare in the emulator, or under bhyve on a host."""

from harness.subjects.protocol import HostActions, HostDebugState, Platform, RunningGuest, Subject

__all__ = ["HostActions", "HostDebugState", "Platform", "RunningGuest", "Subject"]
