"""A host's own services: facts, modules, witnesses."""

from harness.hosts.host import Host
from harness.hosts.witness import Witness

__all__ = ["Host", "Witness"]
