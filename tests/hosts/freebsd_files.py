"""A program, a library and a kernel module of FreeBSD's formats, compiled for a test; nothing of FreeBSD is in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.build.toolchain import run_tool, zig
from harness.hosts.abi import Ioctl

RUN, REGISTER = Ioctl(1, "_IOWR", 144), Ioctl(20, "_IOW", 16)
#: Declares them, and one without a structure, as a tree's header would.
HEADER = """\
enum {
	IOCNUM_RUN = 1,
	IOCNUM_REINIT = 5,
	IOCNUM_SET_REGISTER = 20,	/* said otherwise: a comment */
};
#define	VM_RUN		\\
	_IOWR('v', IOCNUM_RUN, struct vm_run)
#define	VM_REINIT	_IO('v', IOCNUM_REINIT)
#define	VM_SET_REGISTER	_IOW('v', IOCNUM_SET_REGISTER, struct vm_register)
"""
_BITS = {"_IO": 1, "_IOR": 2, "_IOW": 4, "_IOWR": 6}
_NOTE = """\
__attribute__((section(".note.tag"), aligned(4), used))
static const struct {{ int names, values, type; char name[8]; int version; }} tag = {{ 8, 4, 1, "FreeBSD", {} }};
"""
_FLAGS = ("-target", "x86_64-freestanding-none", "-O1", "-g0", "-fPIC", "-fno-sanitize=all")


def _compile(folder: Path, name: str, text: str, *link: str) -> bytes:
    folder.mkdir(parents=True, exist_ok=True)
    source, made, out = folder / f"{name}.c", folder / f"{name}.o", folder / name
    source.write_text(text)
    run_tool((*zig("cc"), *_FLAGS, "-c", source, "-o", made), name)
    if not link:
        return made.read_bytes()
    run_tool((*zig("ld.lld"), "-m", "elf_x86_64_fbsd", *link, made, "-o", out), name)
    return out.read_bytes()


def program(folder: Path, version: int) -> bytes:
    """A program that names the release it was built for."""
    return _compile(folder, "program", _NOTE.format(version) + "void _start(void) {}\n", "-static")


def library(folder: Path, version: int, ioctls: Sequence[Ioctl] = (RUN, REGISTER)) -> bytes:
    """A library that issues ``ioctls``."""
    text = _NOTE.format(version) + "static long ask(int fd, unsigned long request, void *data)\n"
    text += '{ long r; __asm__ volatile("syscall" : "=a"(r) : "a"(54L), "D"(fd), "S"(request), "d"(data));'
    text += " return r; }\n"
    for at, one in enumerate(ioctls):
        value = _BITS[one.direction] << 29 | one.size << 16 | ord("v") << 8 | one.number
        text += f"long call{at}(int fd, void *data) {{ return ask(fd, {value:#x}ul, data); }}\n"
    return _compile(folder, "library", text, "-shared")


def module(folder: Path, version: int) -> bytes:
    """A relocatable file that declares which kernel it was built for."""
    text = "struct depend { int minimum, preferred, maximum; };\n"
    text += f"__attribute__((used)) static const struct depend _vmm_depend_on_kernel = {{ {version}, {version}, 0 }};\n"
    return _compile(folder, "module", text)
