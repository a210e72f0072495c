"""Where an image comes from: its checksum, and a plain copy of it."""

from __future__ import annotations

import hashlib
import lzma
import re
from pathlib import Path
from typing import BinaryIO

from harness.errors import ConfigError

_BLOCK = 1 << 20
#: ``SHA256 (NAME) = HEX``, as FreeBSD publishes it, and ``HEX  NAME``, as sha256sum prints it.
_BSD = re.compile(r"^(?P<kind>SHA256|SHA512) \((?P<name>[^)]+)\) = (?P<hex>[0-9a-f]{64,128})$", re.MULTILINE)
_GNU = re.compile(r"^(?P<hex>[0-9a-f]{64}|[0-9a-f]{128}) [ *](?P<name>\S+)$", re.MULTILINE)
#: First bytes of what is no raw disk -> what it is, and what makes a raw one of it.
_FORMATS = {
    b"QFI\xfb": ("a qcow2 image", "Take the .raw.xz of the same release, or 'qemu-img convert -O raw'."),
    b"KDMV": ("a VMDK image", "Take the .raw.xz of the same release, or 'qemu-img convert -O raw'."),
    b"conectix": ("a VHD image", "Take the .raw.xz of the same release, or 'qemu-img convert -O raw'."),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "Unpack it with 'zstd -d' first."),
    b"\x1f\x8b": ("compressed with gzip", "Unpack it with 'gunzip' first."),
}
_XZ = b"\xfd7zXZ\0"


def verify(image: Path, checksums: Path) -> str:
    """Compare ``image`` with the line that ``checksums`` has for its name; ``SHA256 HEX`` or ``SHA512 HEX``.

    Raises :class:`ConfigError`: the list has no line for a file of that name, or another sum.
    """
    try:
        text = checksums.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(f"The checksums '{checksums}' cannot be read: {error.strerror}.") from None
    found = [match for form in (_BSD, _GNU) for match in form.finditer(text) if Path(match["name"]).name == image.name]
    if not found:
        raise ConfigError(
            f"'{checksums.name}' has no SHA256 or SHA512 sum for '{image.name}'.",
            help="Keep the name that the image was published under, and take the checksums of the same folder.",
        )
    said = ""
    for match in found:
        kind = "sha256" if len(match["hex"]) == 64 else "sha512"
        with image.open("rb") as stream:
            actual = hashlib.file_digest(stream, kind).hexdigest()
        if actual != match["hex"]:
            raise ConfigError(
                f"'{image.name}' is not what was published: {kind.upper()} is {actual}, '{checksums.name}' says"
                f" {match['hex']}.",
                help="Fetch the image again; do not use this one.",
            )
        said = f"{kind.upper()} {actual}"
    return said


def copy_image(image: Path, target: Path) -> None:
    """A raw copy of a raw image, which may be compressed with xz; blocks of zeros become holes.

    Raises :class:`ConfigError` for another format, a damaged file, a target that exists, and a full disk (then
    nothing is left at ``target``).
    """
    if target.exists():
        raise ConfigError(f"'{target}' exists already.", help="Name a new file with --out, or remove the old one.")
    try:
        with image.open("rb") as raw:
            head = raw.read(8)
            raw.seek(0)
            for magic, (what, help) in _FORMATS.items():
                if head.startswith(magic):
                    raise ConfigError(f"'{image}' is {what}, not a raw disk image.", help=help)
            if head.startswith(_XZ):
                with lzma.open(raw) as unpacked:
                    _copy(unpacked, target)  # type: ignore[arg-type]
            else:
                _copy(raw, target)
    except (lzma.LZMAError, EOFError) as error:
        target.unlink(missing_ok=True)
        raise ConfigError(f"'{image}' is damaged: {error}.", help="Fetch it again, with its checksum.") from None
    except OSError as error:
        target.unlink(missing_ok=True)
        raise ConfigError(f"'{image}' cannot be copied to '{target}': {error.strerror or error}.") from None


def _copy(source: BinaryIO, target: Path) -> None:
    zeros = bytes(_BLOCK)
    with target.open("xb") as out:
        while block := source.read(_BLOCK):
            if block == zeros[: len(block)]:
                out.seek(len(block), 1)
            else:
                out.write(block)
        out.truncate(out.tell())
