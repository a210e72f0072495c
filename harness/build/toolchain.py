"""One pinned compiler (the ``ziglang`` package carries clang and lld) and a content-addressed build cache.

An image is named by the hash of everything that decides its bytes: sources, headers, flags, linker script and
compiler version. Building the same inputs twice gives the same bytes, and a second build is a look-up.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from filelock import FileLock

from harness.errors import ConfigError, ToolMissing

ROOT = Path(__file__).resolve().parents[2]
BUILD_DIR = ROOT / "build"

TARGET = ("-target", "x86_64-freestanding-none")
#: Freestanding code that runs with interrupts and no SSE state of its own; frame pointers because stack walks
#: through them are part of what is tested.
BASE_CFLAGS = (
    "-std=gnu11",
    "-O2",
    "-g",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-ffreestanding",
    "-fno-stack-protector",
    "-fno-pic",
    "-fno-sanitize=all",
    "-fno-asynchronous-unwind-tables",
    "-fno-omit-frame-pointer",
    "-mno-omit-leaf-frame-pointer",
    "-mno-red-zone",
    "-mno-sse",
    "-mno-sse2",
    "-mno-mmx",
    "-mno-80387",
    "-fno-builtin",
)


class BuildFailed(ConfigError):
    """A source file of a guest or of the reference hypervisor does not compile or link."""

    code = "CONFIG-BUILD"
    help = "Correct the source file named in the compiler's message and run again."


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """What goes into one linked image.

    ``sources`` are ``.c`` and ``.S`` files, ``include_dirs`` the folders whose headers count as inputs,
    ``linker_script`` an lld script, ``cflags`` additions to :data:`BASE_CFLAGS`.
    """

    name: str
    sources: tuple[Path, ...]
    linker_script: Path
    entry: str
    include_dirs: tuple[Path, ...] = ()
    cflags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Image:
    """A built image: flat bytes to load, and the ELF file with its symbols."""

    binary: Path
    elf: Path
    key: str


@cache
def toolchain_version() -> str:
    """Version of the pinned toolchain; raises :class:`ToolMissing` when it is not installed."""
    try:
        return version("ziglang")
    except PackageNotFoundError:
        raise ToolMissing(
            "The Python package 'ziglang' (the compiler for guests) is not installed.",
            help="Run 'make test' or 'make emulated' once: they set up the virtual environment.",
        ) from None


def run_tool(command: Sequence[str | Path], what: str) -> None:
    """Run a compiler or linker; raises :class:`BuildFailed` with what it said."""
    # The cache of the compiler stays inside build/, so that nothing is written to the user's home.
    env = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(BUILD_DIR / "zig"), "ZIG_LOCAL_CACHE_DIR": str(BUILD_DIR / "zig")}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=env, check=False)
    if done.returncode != 0:
        raise BuildFailed(f"Building {what} failed:\n{done.stderr.strip()}\n")


def zig(*words: str) -> tuple[str, ...]:
    """The command line of one of the pinned toolchain's programs."""
    return (sys.executable, "-m", "ziglang", *words)


def _headers(spec: ImageSpec) -> list[Path]:
    folders = {*spec.include_dirs, *(source.parent for source in spec.sources)}
    return sorted({header for folder in folders for header in folder.rglob("*.h")})


def _key(spec: ImageSpec) -> str:
    digest = hashlib.sha256()
    for text in (toolchain_version(), spec.name, spec.entry, *BASE_CFLAGS, *spec.cflags):
        digest.update(text.encode() + b"\0")
    for path in (*spec.sources, *_headers(spec), spec.linker_script):
        digest.update(str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name).encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:24]


def _compile(spec: ImageSpec, source: Path, folder: Path, index: int) -> Path:
    target = folder / f"{index:03d}-{source.stem}.o"
    includes = [f"-I{folder_}" for folder_ in (*spec.include_dirs, source.parent)]
    # Paths must not reach the debug information: they would make the bytes depend on the machine.
    prefix = f"-ffile-prefix-map={ROOT}=."
    language = ("-x", "assembler-with-cpp", "-D__ASSEMBLER__=1") if source.suffix == ".S" else ()
    flags = (*TARGET, *BASE_CFLAGS, *spec.cflags, prefix, *includes)
    run_tool((*zig("cc"), *flags, "-c", *language, source, "-o", target), str(source.name))
    return target


def flatten(elf: Path) -> bytes:
    """The loadable bytes of an ELF file by load address, gaps filled with zeros; memory without bytes is left out."""
    from elftools.elf.elffile import ELFFile  # only a build needs it, and every worker would wait for it

    with elf.open("rb") as stream:
        segments = [
            (segment["p_paddr"], segment.data())
            for segment in ELFFile(stream).iter_segments("PT_LOAD")
            if segment["p_filesz"]
        ]
    start = min(address for address, _ in segments)
    image = bytearray(max(address + len(data) for address, data in segments) - start)
    for address, data in segments:
        image[address - start : address - start + len(data)] = data
    return bytes(image)


def build_image(spec: ImageSpec, *, build_dir: Path | None = None) -> Image:
    """Build ``spec`` unless exactly these inputs were built before; safe for concurrent processes.

    Raises :class:`BuildFailed` with the compiler's message, :class:`ToolMissing` without a compiler.
    """
    root = (build_dir or BUILD_DIR) / "images"
    root.mkdir(parents=True, exist_ok=True)
    key = _key(spec)
    folder = root / f"{spec.name}-{key}"
    image = Image(folder / f"{spec.name}.bin", folder / f"{spec.name}.elf", key)
    if folder.is_dir():
        return image
    with FileLock(root / f".{spec.name}.lock"):
        if folder.is_dir():
            return image
        work = Path(tempfile.mkdtemp(prefix=f".{spec.name}-", dir=root))
        try:
            with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
                objects = list(pool.map(lambda job: _compile(spec, job[1], work, job[0]), enumerate(spec.sources)))
            link = (*zig("ld.lld"), "-m", "elf_x86_64", "-static", "--build-id=none", "-z", "max-page-size=4096")
            common: tuple[str | Path, ...] = (*link, "-e", spec.entry, "-T", spec.linker_script, *objects)
            run_tool((*common, "-o", work / image.elf.name), f"{spec.name} (link)")
            (work / image.binary.name).write_bytes(flatten(work / image.elf.name))
            for object_file in objects:
                object_file.unlink()
            work.rename(folder)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
    return image


#: What runs on the machine of the harness itself; the oldest glibc that Python 3.11 wheels expect.
_LIBRARY_FLAGS = (
    "-target", "x86_64-linux-gnu.2.31", "-shared", "-fPIC", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror",
    "-fno-sanitize=all",
)  # fmt: skip


def build_library(source: Path, *, build_dir: Path | None = None) -> Path:
    """Build one C file into a shared library for this machine, unless it was built before.

    Raises :class:`BuildFailed` with the compiler's message, :class:`ToolMissing` without a compiler.
    """
    root = (build_dir or BUILD_DIR) / "images"
    root.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256("\0".join((toolchain_version(), *_LIBRARY_FLAGS)).encode() + source.read_bytes())
    library = root / f"{source.stem}-{digest.hexdigest()[:24]}.so"
    if not library.exists():
        with FileLock(root / f".{source.stem}.lock"), tempfile.TemporaryDirectory(dir=root) as work:
            run_tool((*zig("cc"), *_LIBRARY_FLAGS, source, "-o", Path(work) / library.name), source.name)
            (Path(work) / library.name).rename(library)
    return library
