"""FreeBSD disk images: what is on them, whether they are what was published, and how they are made ready for SSH."""

from harness.image.partitions import Layout, look_at
from harness.image.prepare import Prepared, prepare
from harness.image.source import copy_image, verify

__all__ = ["Layout", "Prepared", "copy_image", "look_at", "prepare", "verify"]
