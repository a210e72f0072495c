"""Sessions: how a worker holds one host, from the first look at it to leaving it as it was found."""

from harness.lab.launcher import Launcher
from harness.lab.platforms import platform_of
from harness.lab.session import BareSession, HostSession, open_session

__all__ = ["BareSession", "HostSession", "Launcher", "open_session", "platform_of"]
