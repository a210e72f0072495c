"""ROM images: one fixed runtime, and a payload before it."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness.build import ImageSpec, build_image
from harness.errors import RomInvalid
from harness.guest import tables
from harness.guest.program import EndMethod, Program

GUESTS = Path(__file__).resolve().parents[2] / "guests"
ROM_SIZE = 64 * 1024


def runtime_spec() -> ImageSpec:
    """What the guest runtime is built from."""
    runtime = GUESTS / "runtime"
    sources = (*sorted(runtime.glob("*.S")), *sorted(runtime.glob("*.c")), *sorted((GUESTS / "snippets").glob("*.S")))
    return ImageSpec("guest-runtime", sources, runtime / "runtime.ld", "reset", (GUESTS / "include", runtime))


@cache
def runtime_image() -> bytes:
    """The runtime's bytes, built if need be; raises :class:`RomInvalid` when they do not fit the layout."""
    path = build_image(runtime_spec()).binary
    data = path.read_bytes()
    expected = ROM_SIZE - tables.constants()["PAYLOAD_SIZE"]
    if len(data) != expected:
        raise RomInvalid(f"The guest runtime '{path.name}' has {len(data)} bytes, expected {expected}.")
    return data


@dataclass(frozen=True, slots=True)
class Rom:
    """A boot ROM that ends at 4 GiB. ``nonce`` comes back in every line the guest sends."""

    image: bytes
    nonce: int
    program: Program

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.image).hexdigest()

    @property
    def runtime_sha256(self) -> str:
        return hashlib.sha256(self.image[tables.constants()["PAYLOAD_SIZE"] :]).hexdigest()

    @classmethod
    def build(cls, program: Program, end: EndMethod, *, nonce: int | None = None) -> Rom:
        """Put ``program`` before the runtime. A fresh ``nonce`` makes the image, and so its hash, unique."""
        chosen = secrets.randbits(32) if nonce is None else nonce
        payload = program.encode(chosen, end)
        return cls(payload.ljust(tables.constants()["PAYLOAD_SIZE"], b"\0") + runtime_image(), chosen, program)
