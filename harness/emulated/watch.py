"""Stops a host's programs at the moment that somebody waits for."""

from __future__ import annotations

import threading

from harness.emulated.shell import Context, Program

#: Seconds after which a held program goes on by itself: whoever set the watch is gone.
HELD_SECONDS = 30.0


class Watch:
    """Holds call number ``nth`` (1 for the next one) of ``program`` in ``programs`` until :meth:`remove`.

    ``hit`` is set when the call has come. Raises :class:`KeyError` for a program that the host does not have.
    """

    def __init__(self, programs: dict[str, Program], program: str, nth: int) -> None:
        self.hit = threading.Event()
        self._released = threading.Event()
        self._programs = programs
        self._name = program
        self._original = programs[program]
        self._left = nth
        self._lock = threading.Lock()
        programs[program] = self._call

    def _call(self, context: Context, argv: list[str]) -> int:
        with self._lock:
            self._left -= 1
            ours = self._left == 0
        if ours:
            self.hit.set()
            self._released.wait(HELD_SECONDS)
        return self._original(context, argv)

    def remove(self) -> None:
        """Let a held call go on, and hold none any more."""
        self._programs[self._name] = self._original
        self._released.set()
