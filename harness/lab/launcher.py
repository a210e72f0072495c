"""Starts the hosts that are processes of ours, once, in the controller."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.build.reference import build_reference_hypervisor
from harness.errors import EmulatorFailed
from harness.inventory import EmulatedHost, Host, VirtualHost
from harness.inventory.load import dump_host
from harness.lab.power import PowerFailed, SimulatedPower
from harness.timing import Deadline, wait_until

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
STOP_SECONDS = 15.0


class Launcher:
    """Holds the processes behind emulated and virtual hosts for the time of a run."""

    def __init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._states: dict[str, Path] = {}

    def start(self, hosts: Mapping[str, Host], run_folder: Path) -> dict[str, dict[str, str]]:
        """Start what needs starting; alias -> how to reach it. Raises :class:`EmulatorFailed` with the log's end."""
        started = {alias: host for alias, host in hosts.items() if isinstance(host, (EmulatedHost, VirtualHost))}
        if any(isinstance(host, EmulatedHost) for host in started.values()):
            # Once, here: otherwise each host would wait for the other's build.
            build_reference_hypervisor()
        for alias, host in started.items():
            emulated = isinstance(host, EmulatedHost)
            state = run_folder.resolve() / "hosts" / alias / ("emulated" if emulated else "virtual")
            state.mkdir(parents=True)
            self._states[alias] = state
            module = (
                ["harness.emulated", "--model", host.vendor]
                if isinstance(host, EmulatedHost)
                else ["harness.virtual", "--entry", json.dumps(dump_host(host))]
            )
            with (state / "host.log").open("wb") as log:
                self._processes[alias] = subprocess.Popen(
                    [sys.executable, "-m", *module, "--state", str(state)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=ROOT,
                    env={**os.environ, "PYTHONUNBUFFERED": "1"},
                    # Ctrl-C is for us: the host goes on until the guests are cleared away.
                    start_new_session=True,
                )
        return {alias: self._ready(alias) for alias in started}

    def _ready(self, alias: str) -> dict[str, str]:
        path, process = self._states[alias] / "ready.json", self._processes[alias]
        wait_until(
            lambda: path.exists() or process.poll() is not None,
            Deadline.after(START_SECONDS),
            f"the process of host '{alias}'",
            error=EmulatorFailed,
        )
        if not path.exists():
            said = (self._states[alias] / "host.log").read_text(encoding="utf-8", errors="replace").strip()
            raise EmulatorFailed(f"The host '{alias}' could not be started: {said[-800:] or 'it said nothing'}.")
        return {key: str(value) for key, value in json.loads(path.read_text(encoding="utf-8")).items()}

    def stop(self) -> dict[str, dict[str, Any]]:
        """End everything that was started; alias -> what it used."""
        facts: dict[str, dict[str, Any]] = {}
        for alias, process in self._processes.items():
            control = self._states[alias] / "control"
            with contextlib.suppress(PowerFailed):
                answer = SimulatedPower(control).ask({"op": "account"})
                facts[alias] = {"bochs_seconds": round(float(answer["bochs_seconds"]), 3)}
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        return facts
