"""A local socket on which a process that stands for a machine takes requests: one JSON object a line in, one out."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.errors import EmulatorFailed


class ControlSocket:
    """Serves ``path`` with ``handle``; what it raises as ``KeyError``, ``ValueError`` or ``EmulatorFailed`` is told."""

    def __init__(self, path: Path, handle: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._handle = handle
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # A path of a Unix socket has room for about a hundred bytes only; run folders may be deeper.
        here = os.open(path.parent, os.O_RDONLY)
        try:
            self._listener.bind(f"/proc/self/fd/{here}/{path.name}")
        finally:
            os.close(here)
        self._listener.listen()
        threading.Thread(target=self._accept, name="control", daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, client.makefile("rw", encoding="utf-8") as stream:
            for line in stream:
                try:
                    answer = self._handle(json.loads(line))
                except (KeyError, ValueError, EmulatorFailed) as error:
                    answer = {"ok": False, "error": str(error)}
                with suppress(OSError):
                    stream.write(json.dumps(answer) + "\n")
                    stream.flush()
