"""What a command writes on its way to the client: whatever has come together goes as one packet, as from sshd."""

from __future__ import annotations

import threading
from collections.abc import Callable

from harness.emulated.streams import Function

Send = Callable[[bytes], None]


class Outbox:
    """Two streams into one channel, in the order in which they were written.

    A thread sends while the command goes on: a script of a dozen commands costs a few packets instead of two for each.
    Once the client is gone, or was never there, writing raises what sending raised (:class:`OSError`).
    """

    def __init__(self, send: Send, send_errors: Send) -> None:
        self.stdout = Function(lambda data: self._put(send, data))
        self.stderr = Function(lambda data: self._put(send_errors, data))
        self._parts: list[tuple[Send, bytearray]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._failure: OSError | None = None
        self._thread: threading.Thread | None = None

    def _put(self, send: Send, data: bytes) -> None:
        with self._changed:
            if self._failure is not None:
                raise self._failure
            if self._parts and self._parts[-1][0] is send:
                self._parts[-1][1].extend(data)
                return
            self._parts.append((send, bytearray(data)))
            if self._thread is None:
                self._thread = threading.Thread(target=self._send_all, daemon=True)
                self._thread.start()
            elif len(self._parts) == 1:
                self._changed.notify()

    def close(self) -> None:
        """Wait until everything is sent; raises what sending raised."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _send_all(self) -> None:
        while True:
            with self._changed:
                while not self._parts and not self._closed:
                    self._changed.wait()
                parts, self._parts = self._parts, []
            if not parts:
                return
            try:
                for send, data in parts:
                    send(bytes(data))
            except (OSError, EOFError) as error:
                with self._changed:
                    self._failure = error if isinstance(error, OSError) else BrokenPipeError()
                    self._parts.clear()
                return
