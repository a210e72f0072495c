"""Debug state of a host, as values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HostDebugState:
    """Debug registers of a host CPU (or of a host thread, without ``debugctl``)."""

    dr0: int = 0
    dr1: int = 0
    dr2: int = 0
    dr3: int = 0
    dr6: int = 0xFFFF0FF0
    dr7: int = 0x400
    debugctl: int = 0


@dataclass(frozen=True, slots=True)
class ThreadBases:
    """FS and GS base that a host thread has in user mode, as ptrace reads them (PT_GETFSBASE, PT_GETGSBASE)."""

    fsbase: int = 0
    gsbase: int = 0


@dataclass(frozen=True, slots=True)
class SentinelReport:
    """What a sentinel saw: accesses made, hits of its own watch, traps it cannot explain, registers
    and bases at the end."""

    address: int
    touches: int
    hits: int
    foreign: int
    registers: HostDebugState
    bases: ThreadBases
