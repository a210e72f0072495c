"""Guest programs, their ROM images and the records that come back."""

from harness.guest.counting import check_operations, operations_of
from harness.guest.program import EndMethod, Handle, Program
from harness.guest.records import (
    Counted,
    Features,
    Kind,
    Mode,
    Record,
    Result,
    decode,
    has_banner,
    is_finished,
    noted,
    phases,
    with_memory,
)
from harness.guest.rom import Rom
from harness.guest.state import ControlRegisters, DebugRegisters, DescriptorTables

__all__ = [
    "ControlRegisters",
    "Counted",
    "DebugRegisters",
    "DescriptorTables",
    "EndMethod",
    "Features",
    "Handle",
    "Kind",
    "Mode",
    "Program",
    "Record",
    "Result",
    "Rom",
    "check_operations",
    "decode",
    "has_banner",
    "is_finished",
    "noted",
    "operations_of",
    "phases",
    "with_memory",
]
