"""Builds what runs in guests and in the emulated kernel, with one pinned toolchain."""

from harness.build.toolchain import ImageSpec, build_image, toolchain_version

__all__ = ["ImageSpec", "build_image", "toolchain_version"]
