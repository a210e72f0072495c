"""Starts the hosts that are processes of ours, once, in the controller."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.inventory import Host


class Launcher:
    """Holds the processes behind emulated hosts for the time of a run."""

    def start(self, hosts: Mapping[str, Host], run_folder: Path) -> dict[str, dict[str, str]]:
        """Start what needs starting; alias -> how to reach it."""
        return {}

    def stop(self) -> dict[str, dict[str, Any]]:
        """End everything that was started; alias -> facts for the report."""
        return {}
