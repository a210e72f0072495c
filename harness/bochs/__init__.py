"""The emulator as a process: configuration, start, stop, accounting."""

from harness.bochs.machine import CPU_MODELS, BochsConfig, BochsMachine, RamImage

__all__ = ["CPU_MODELS", "BochsConfig", "BochsMachine", "RamImage"]
