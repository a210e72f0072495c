"""The emulated host's files: a tree in memory with a size limit, and device nodes that follow the kernel."""

from __future__ import annotations

import itertools
import posixpath
import threading
from collections.abc import Callable

DEFAULT_SIZE = 64 * 1024 * 1024


class FileError(Exception):
    """An operation on a file failed, with FreeBSD's text for it."""


class FileSystem:
    """Absolute POSIX paths. ``devices`` lists names below ``/dev/vmm``; they exist without being stored."""

    def __init__(self, vm_names: Callable[[], list[str]]) -> None:
        self._files: dict[str, bytes] = {}
        self._modes: dict[str, int] = {}
        #: Inode and time of the last change; both are numbers that only grow.
        self._changed: dict[str, tuple[int, int]] = {}
        self._changes = itertools.count(1)
        self._dirs = {"/"}
        self._vm_names = vm_names
        self._lock = threading.RLock()
        self.size = DEFAULT_SIZE
        for folder in ("/bin", "/boot/kernel", "/boot/modules", "/dev", "/etc", "/root", "/tmp", "/usr/sbin",
                       "/var/crash", "/var/run", "/var/tmp"):  # fmt: skip
            self.mkdir(folder, parents=True)

    @staticmethod
    def resolve(path: str, cwd: str = "/root") -> str:
        return posixpath.normpath(posixpath.join(cwd, path))

    def used(self) -> int:
        return sum(len(data) for data in self._files.values())

    def exists(self, path: str) -> bool:
        return path in self._files or self.is_dir(path) or self.device(path) is not None

    def is_dir(self, path: str) -> bool:
        return path in self._dirs or (path == "/dev/vmm" and bool(self._vm_names()))

    def device(self, path: str) -> str | None:
        """The VM behind ``/dev/vmm/NAME``, if there is one; ``null`` for /dev/null."""
        if path in ("/dev/null", "/dev/zero"):
            return posixpath.basename(path)
        folder, name = posixpath.split(path)
        return name if folder == "/dev/vmm" and name in self._vm_names() else None

    def read(self, path: str) -> bytes:
        if path == "/dev/null":
            return b""
        if path not in self._files:
            raise FileError("Is a directory" if self.is_dir(path) else "No such file or directory")
        return self._files[path]

    def write(self, path: str, data: bytes, *, append: bool = False, mode: int | None = None) -> None:
        if path == "/dev/null":
            return
        with self._lock:
            if self.is_dir(path):
                raise FileError("Is a directory")
            if not self.is_dir(posixpath.dirname(path)):
                raise FileError("No such file or directory")
            old = self._files.get(path, b"")
            new = old + data if append else data
            if self.used() - len(old) + len(new) > self.size:
                raise FileError("No space left on device")
            self._touch(path)
            self._files[path] = new
            if mode is not None:
                self._modes[path] = mode

    def _touch(self, path: str) -> None:
        now = next(self._changes)
        inode = self._changed[path][0] if path in self._files and path in self._changed else now
        self._changed[path] = inode, now

    def changed(self, path: str) -> tuple[int, int]:
        """Inode of a file and when it was last changed."""
        self.read(path)
        return self._changed.get(path, (0, 0))

    def mode(self, path: str) -> int:
        return 0o755 if self.is_dir(path) else self._modes.get(path, 0o644)

    def chmod(self, path: str, mode: int) -> None:
        self._modes[path] = mode
        self._touch(path)

    def mkdir(self, path: str, *, parents: bool = False) -> None:
        if parents:
            while path not in self._dirs:
                self._dirs.add(path)
                path = posixpath.dirname(path)
            return
        with self._lock:
            if self.exists(path):
                raise FileError("File exists")
            if not self.is_dir(posixpath.dirname(path)):
                raise FileError("No such file or directory")
            self._dirs.add(path)

    def remove(self, path: str) -> None:
        with self._lock:
            if path not in self._files:
                raise FileError("Is a directory" if self.is_dir(path) else "No such file or directory")
            del self._files[path]
            self._modes.pop(path, None)

    def rename(self, source: str, target: str) -> None:
        """rename(2) of a file: it takes no room."""
        with self._lock:
            if source not in self._files:
                raise FileError("No such file or directory")
            if self.is_dir(target):
                raise FileError("Is a directory")
            self._files[target] = self._files.pop(source)
            self._changed[target] = self._changed.pop(source, (0, 0))[0], next(self._changes)
            if source in self._modes:
                self._modes[target] = self._modes.pop(source)

    def rmtree(self, path: str) -> None:
        """Remove a file or a folder with all below it."""
        with self._lock:
            if path in self._files:
                self.remove(path)
                return
            if path not in self._dirs:
                raise FileError("No such file or directory")
            below = path.rstrip("/") + "/"
            self._files = {name: data for name, data in self._files.items() if not name.startswith(below)}
            self._dirs = {name for name in self._dirs if name != path and not name.startswith(below)}

    def listing(self, path: str) -> list[str]:
        """Names in a folder, sorted."""
        if not self.is_dir(path):
            raise FileError("No such file or directory")
        below = path.rstrip("/") + "/"
        names = {
            name[len(below) :].split("/")[0]
            for name in (*self._files, *self._dirs)
            if name.startswith(below) and name != path
        }
        if path == "/dev/vmm":
            names |= set(self._vm_names())
        return sorted(names)

    def forget_volatile(self) -> None:
        """What a reboot does: /tmp and /var/run are empty afterwards."""
        for folder in ("/tmp", "/var/run"):
            self.rmtree(folder)
            self.mkdir(folder)
