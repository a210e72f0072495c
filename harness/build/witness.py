"""The witness program for FreeBSD hosts, built here: static, without libraries, for every release from 12.1 on."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from filelock import FileLock

from harness.build.toolchain import BASE_CFLAGS, BUILD_DIR, ROOT, TARGET, run_tool, toolchain_version, zig

SOURCES = ROOT / "kernel" / "freebsd" / "vmmwitness"


def build_witness_program(*, build_dir: Path | None = None) -> Path:
    """``vmmwitness`` as an ELF file for FreeBSD/amd64, built unless exactly these sources were built before.

    Raises :class:`harness.build.BuildFailed` with the compiler's message.
    """
    root = (build_dir or BUILD_DIR) / "images"
    root.mkdir(parents=True, exist_ok=True)
    sources = sorted(path for path in SOURCES.iterdir() if path.suffix in (".c", ".S"))
    digest = hashlib.sha256("\0".join((toolchain_version(), *TARGET, *BASE_CFLAGS)).encode())
    for source in sources:
        digest.update(source.name.encode() + b"\0" + hashlib.sha256(source.read_bytes()).digest())
    program = root / f"vmmwitness-{digest.hexdigest()[:24]}"
    if program.exists():
        return program
    with FileLock(root / ".vmmwitness.lock"), tempfile.TemporaryDirectory(dir=root) as folder:
        work = Path(folder)
        objects = [work / f"{source.stem}.o" for source in sources]
        for source, target in zip(sources, objects, strict=True):
            prefix = f"-ffile-prefix-map={ROOT}=."
            run_tool((*zig("cc"), *TARGET, *BASE_CFLAGS, "-g0", prefix, "-c", source, "-o", target), source.name)
        # This emulation of the linker's writes FreeBSD's number into the file, by which its kernel knows it.
        link = (*zig("ld.lld"), "-m", "elf_x86_64_fbsd", "-static", "--build-id=none", "-e", "_start")
        run_tool((*link, *objects, "-o", work / "vmmwitness"), "vmmwitness (link)")
        (work / "vmmwitness").rename(program)
    return program
