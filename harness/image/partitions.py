"""Is this a FreeBSD disk that a BIOS boots? Looked up in its partition table and superblock, without any tool.

The table is GPT (UEFI specification, 5.3); the types are FreeBSD's (gpart(8)); the superblock is that of UFS (fs(5)).
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ConfigError

SECTOR = 512
_TYPES = {
    uuid.UUID("83bd6b9d-7f41-11dc-be0b-001560b84f0f"): "freebsd-boot",
    uuid.UUID("516e7cb5-6ecf-11d6-8ff8-00022d09712b"): "freebsd-swap",
    uuid.UUID("516e7cb6-6ecf-11d6-8ff8-00022d09712b"): "freebsd-ufs",
    uuid.UUID("516e7cba-6ecf-11d6-8ff8-00022d09712b"): "freebsd-zfs",
    uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b"): "efi",
}
#: Where a superblock may be, with its magic (sys/ufs/ffs/fs.h: SBLOCK_UFS2, SBLOCK_UFS1).
_SUPERBLOCKS = ((65536, 0x19540119), (8192, 0x00011954))
#: Offsets of fs_clean and fs_magic in a superblock.
_CLEAN, _MAGIC = 209, 1372
#: The file system type of FreeBSD in the table of an MBR.
_MBR_FREEBSD = 0xA5
_HELP = "Take the .raw.xz of a FreeBSD release for amd64, the one with UFS; 'vmmcheck image how' says where it is."


@dataclass(frozen=True, slots=True)
class Layout:
    """``partitions``: type and size in bytes, in the table's order. ``root`` is the byte where UFS begins.

    ``clean`` is what the file system's superblock says of how it was last left.
    """

    partitions: tuple[tuple[str, int], ...]
    root: int
    clean: bool

    def __str__(self) -> str:
        parts = ", ".join(f"{kind} {size >> 20} MiB" for kind, size in self.partitions)
        return f"GPT: {parts}; UFS {'clean' if self.clean else 'not clean'}"


def look_at(image: Path) -> Layout:
    """Read the table of a raw image; raises :class:`ConfigError` that says what it is instead."""
    try:
        with image.open("rb") as stream:
            return _look(image, stream)
    except OSError as error:
        raise ConfigError(f"The image '{image}' cannot be read: {error.strerror}.") from None


def _look(image: Path, stream) -> Layout:  # type: ignore[no-untyped-def]
    head = stream.read(2 * SECTOR)
    if head[SECTOR : SECTOR + 8] != b"EFI PART":
        if head[510:512] == b"\x55\xaa" and _MBR_FREEBSD in head[450:510:16]:
            raise ConfigError(f"'{image}' has FreeBSD in an MBR: an installation medium, no disk image.", help=_HELP)
        stream.seek(32769)
        what = "a CD image" if stream.read(5) == b"CD001" else "no disk with a partition table (GPT)"
        raise ConfigError(f"'{image}' is {what}.", help=_HELP)
    table, count, size = struct.unpack_from("<QII", head, SECTOR + 72)
    if not (2 <= table < 1 << 32 and 0 < count <= 1024 and 128 <= size <= 4096):
        raise ConfigError(f"The partition table of '{image}' is damaged.", help=_HELP)
    stream.seek(table * SECTOR)
    raw = stream.read(count * size)
    found: list[tuple[str, int, int]] = []
    for at in range(0, len(raw) - size + 1, size):
        type = uuid.UUID(bytes_le=raw[at : at + 16])
        first, last = struct.unpack_from("<QQ", raw, at + 32)
        if type.int:
            found.append((_TYPES.get(type, str(type)), first * SECTOR, (last + 1 - first) * SECTOR))
    kinds = [kind for kind, _, _ in found]
    if "freebsd-ufs" not in kinds:
        if "freebsd-zfs" in kinds:
            raise ConfigError(
                f"'{image}' has its root on ZFS, which an emulated machine of 1 GiB boots too slowly to be of use.",
                help=_HELP,
            )
        raise ConfigError(f"'{image}' is no FreeBSD disk: its partitions are {', '.join(kinds) or 'none'}.", help=_HELP)
    if "freebsd-boot" not in kinds:
        raise ConfigError(f"'{image}' boots by UEFI only; the emulated machines have a BIOS.", help=_HELP)
    root = next(start for kind, start, _ in found if kind == "freebsd-ufs")
    for offset, magic in _SUPERBLOCKS:
        stream.seek(root + offset)
        block = stream.read(_MAGIC + 4)
        if len(block) == _MAGIC + 4 and struct.unpack_from("<I", block, _MAGIC)[0] == magic:
            return Layout(tuple((kind, length) for kind, _, length in found), root, block[_CLEAN] == 1)
    raise ConfigError(f"'{image}' has a partition for UFS, but no file system in it.", help=_HELP)
