"""What the reference hypervisor is built from: its firmware and its kernel."""

from __future__ import annotations

from pathlib import Path

from harness.build.toolchain import Image, ImageSpec, build_image

REFERENCE = Path(__file__).resolve().parents[2] / "kernel" / "reference"

#: Where the emulator loads the kernel; boot/kernel.ld and boot/rom.S say the same.
KERNEL_ADDRESS = 0x200000
#: MiB of RAM the kernel is laid out for (kern/mem.c).
MEMORY = 128
#: Emulated processors (MAXCPU).
NCPU = 2


def firmware_spec() -> ImageSpec:
    """The 64 KiB ROM that brings the boot processor to the kernel."""
    boot = REFERENCE / "boot"
    return ImageSpec("reference-rom", (boot / "rom.S",), boot / "rom.ld", "rom_reset")


def kernel_spec() -> ImageSpec:
    """The kernel with both backends."""
    folders = ("kern", "vmm", "vmm/amd", "vmm/intel", "bhyve")
    sources = [
        path
        for folder in folders
        for pattern in ("*.S", "*.c")
        for path in sorted((REFERENCE / folder).glob(pattern))
    ]
    # The entry must be first in the image; the linker script sees to that by its section.
    include = (REFERENCE / "include", REFERENCE / "kern", REFERENCE / "vmm", REFERENCE / "bhyve")
    return ImageSpec("reference-kernel", tuple(sources), REFERENCE / "boot" / "kernel.ld", "start", include,
                     ("-mgeneral-regs-only",))


def build_reference_hypervisor() -> tuple[Image, Image]:
    """Firmware and kernel, built if need be."""
    return build_image(firmware_spec()), build_image(kernel_spec())
