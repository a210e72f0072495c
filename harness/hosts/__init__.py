"""A host's own services: commands, facts, modules, messages, witnesses."""

from harness.hosts.facts import (
    CpuIdentity,
    Facts,
    collect_facts,
    require_declared,
    require_known_release,
    require_ready,
)
from harness.hosts.host import Boot, Host
from harness.hosts.messages import MessageLog, Messages, complaints, hardware_trouble
from harness.hosts.modules import LoadedFile, Modules
from harness.hosts.observation import Observation
from harness.hosts.tracing import ProbeRow
from harness.hosts.witness import Witness

__all__ = [
    "Boot",
    "CpuIdentity",
    "Facts",
    "Host",
    "LoadedFile",
    "MessageLog",
    "Messages",
    "Modules",
    "Observation",
    "ProbeRow",
    "Witness",
    "collect_facts",
    "complaints",
    "hardware_trouble",
    "require_declared",
    "require_known_release",
    "require_ready",
]
