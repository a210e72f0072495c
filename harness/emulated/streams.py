"""Byte streams between commands, the shell and the SSH channel."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol


class Reader(Protocol):
    def read(self, limit: int = 65536) -> bytes:
        """Some bytes; blocks until there are any; empty at the end."""


class Writer(Protocol):
    def write(self, data: bytes) -> None: ...


class Pipe:
    """An unbounded pipe. Writing after the reader went away raises :class:`BrokenPipeError`."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._condition = threading.Condition()
        self._closed = False
        self._abandoned = False

    def write(self, data: bytes) -> None:
        with self._condition:
            if self._abandoned:
                raise BrokenPipeError
            self._data += data
            self._condition.notify_all()

    def read(self, limit: int = 65536) -> bytes:
        with self._condition:
            while not self._data and not self._closed:
                self._condition.wait()
            data = bytes(self._data[:limit])
            del self._data[:limit]
            return data

    def close(self) -> None:
        """No more bytes will come."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def abandon(self) -> None:
        """Nobody will read any more."""
        with self._condition:
            self._abandoned = True


class Collect:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> None:
        self.data += data


class Fixed:
    """Hands out fixed bytes, then the end."""

    def __init__(self, data: bytes = b"") -> None:
        self._data = data

    def read(self, limit: int = 65536) -> bytes:
        data, self._data = self._data[:limit], self._data[limit:]
        return data


class Function:
    """A writer that calls a function."""

    def __init__(self, function: Callable[[bytes], None]) -> None:
        self._function = function

    def write(self, data: bytes) -> None:
        self._function(data)


def read_all(reader: Reader) -> bytes:
    parts = []
    while part := reader.read():
        parts.append(part)
    return b"".join(parts)
