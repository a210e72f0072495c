"""The emulator as a process: configuration, start, stop, copies, accounting."""

from harness.bochs.machine import CPU_MODELS, BochsConfig, BochsMachine, RamImage
from harness.bochs.nursery import Nursery, nursery_seconds, start_machine

__all__ = ["CPU_MODELS", "BochsConfig", "BochsMachine", "Nursery", "RamImage", "nursery_seconds", "start_machine"]
