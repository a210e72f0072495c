"""Trials: a run of a small selection on two hosts, one fault at one moment, and what has to be so afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness.trouble.faults import FAULTS, MOMENTS, Fault, Run, children
from harness.trouble.invariants import Cells, complete, explained, read_cells, same_everywhere, untouched
from harness.trouble.standing import StandingHost, State

ROOT = Path(__file__).resolve().parents[2]
#: Cases with short guests, long ones, two at once, phases, the host's hand on them, and a dtrace.
SELECTION = ("RST-04", "ISO-04", "ISO-06", "MIG-02", "MIG-05", "HST-01")
#: Seconds after which a run that has not ended is stuck, and after which its processes have to be gone.
STUCK, GONE = 400.0, 20.0


@dataclass(slots=True)
class Trial:
    """One trial; ``wrong`` is what should not have been."""

    number: int
    fault: str
    host: str
    moment: str = ""
    nth: int = 0
    later: float = 0.0
    hit: bool = False
    status: int | None = None
    seconds: float = 0.0
    folder: Path | None = None
    verdicts: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def line(self) -> str:
        """For the terminal."""
        when = f"{self.moment} {self.nth}+{self.later:.2f}s" if self.moment else "before"
        verdicts = " ".join(f"{count} {name}" for name, count in sorted(self.verdicts.items()))
        missed = "" if self.hit or not self.moment else " (moment never came)"
        state = "good " if not self.wrong else "WRONG"
        return (
            f"{state} {self.number:3d} {self.fault:22} {self.host:8} {when:20} {self.seconds:5.1f} s"
            f"  exit {self.status}  {verdicts}{missed}"
        )


class Campaign:
    """Two hosts below ``folder``, kept for all trials. ``cases`` is what each run is made of."""

    def __init__(self, folder: Path, cases: Sequence[str] = SELECTION) -> None:
        self.folder = folder
        self._cases = cases
        self.hosts = {
            alias: StandingHost(alias, vendor, folder) for alias, vendor in (("fbamd", "amd"), ("fbintel", "intel"))
        }
        self._lab = folder / "lab.toml"
        entries = "".join(host.entry() for host in self.hosts.values())
        self._lab.write_text(f'schema = 1\nlab = "trouble"\n{entries}', encoding="utf-8")
        self.reference: Cells = {}

    def close(self) -> None:
        for host in self.hosts.values():
            host.stop()

    # --- runs ------------------------------------------------------------------------------------------------------

    def establish(self) -> None:
        """The run without a fault that all others are held against; raises :class:`RuntimeError` when it is bad."""
        before = self._states()
        process, folder = self._start(self.folder / "reference")
        status = self._wait(process)
        made = self._made(folder)
        if made is None or status != 0:
            raise RuntimeError(f"The run without a fault ended with status {status}: see {folder}.")
        self.reference = read_cells(made)
        wrong = complete(made, status) + same_everywhere(made) + self._left(before, self.hosts, {})
        if wrong:
            raise RuntimeError(f"The run without a fault is not in order: {'; '.join(wrong)}.")

    def _start(self, runs: Path) -> tuple[subprocess.Popen[bytes], Path]:
        runs.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, "-m", "harness.cli", "run", f"--lab={self._lab}", f"--run-dir={runs}", "--sample=1"]
        words += [f"--case={case}" for case in self._cases]
        log = runs.with_suffix(".log")
        with log.open("wb") as stream:
            process = subprocess.Popen(
                words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
            )
        return process, runs

    @staticmethod
    def _wait(process: subprocess.Popen[bytes]) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(STUCK)
        return None

    @staticmethod
    def _made(runs: Path) -> Path | None:
        return next((path.parent for path in runs.glob("*/results.json")), None)

    def _states(self) -> dict[str, State]:
        return {alias: host.state() for alias, host in self.hosts.items()}

    # --- one trial ---------------------------------------------------------------------------------------------------

    def draw(self, number: int, seed: int, faults: Sequence[str], moment: str = "") -> Trial:
        """Trial ``number`` of a seed: which fault, on which host, when."""
        chance = random.Random(f"{seed}:{number}")
        name = faults[number % len(faults)] if faults else chance.choice(list(FAULTS))
        fault = FAULTS[name]
        trial = Trial(number, name, chance.choice(list(self.hosts)))
        if fault.strike is not None:
            trial.moment = moment or chance.choice(fault.moments)
            when = MOMENTS[trial.moment]
            trial.nth, trial.later = chance.randint(1, when.most), round(chance.uniform(0, when.later), 2)
        return trial

    def run(self, trial: Trial) -> Trial:
        """Do it and say what is wrong; the hosts are clean again afterwards."""
        fault, host = FAULTS[trial.fault], self.hosts[trial.host]
        if fault.before is not None:
            fault.before(host)
        before = self._states()
        runs = self.folder / f"trial-{trial.number:03d}-{trial.fault}"
        started = time.monotonic()
        with _small_disk(runs, fault.run_size):
            process, folder = self._start(runs)
            below: list[int] = []
            if fault.strike is not None:
                below = self._strike(trial, fault, host, process, folder)
            trial.status = self._wait(process)
            trial.seconds = time.monotonic() - started
            if trial.status is None:
                trial.wrong.append(f"the run did not end within {STUCK:g} s")
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            trial.folder = self._made(folder)
            self._all_gone(trial, process.pid, below)
            self._judge(trial, fault, before)
        # What went wrong may have been left anywhere.
        for one in self.hosts.values() if trial.wrong else (host,):
            one.make_clean()
        return trial

    def _strike(
        self, trial: Trial, fault: Fault, host: StandingHost, process: subprocess.Popen[bytes], folder: Path
    ) -> list[int]:
        """Wait for the moment and strike; the processes of the run then."""
        moment = MOMENTS[trial.moment]
        host.board.ask({"op": "watch", "program": moment.program, "nth": trial.nth})
        deadline = time.monotonic() + STUCK
        while process.poll() is None and time.monotonic() < deadline:
            if host.board.ask({"op": "await", "seconds": 0.5})["hit"]:
                trial.hit = True
                break
        below = children(process.pid)
        if trial.hit and fault.strike is not None:
            if trial.later:
                host.board.ask({"op": "go"})
                time.sleep(trial.later)
            with contextlib.suppress(ProcessLookupError):
                fault.strike(host, Run(process.pid, folder))
        host.board.ask({"op": "go"})
        return below

    @staticmethod
    def _all_gone(trial: Trial, pid: int, below: Sequence[int]) -> None:
        """No process of the run is left."""
        deadline = time.monotonic() + GONE
        while left := [one for one in below if _alive(one)]:
            if time.monotonic() > deadline:
                trial.wrong.append(f"processes of the run are left: {left}")
                for one in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(one, signal.SIGKILL)
                return
            time.sleep(0.1)

    # --- what has to be so -------------------------------------------------------------------------------------------

    def _judge(self, trial: Trial, fault: Fault, before: dict[str, State]) -> None:
        if fault.kills_run and trial.hit:
            self._judge_next(trial, before)
            return
        if trial.folder is None:
            if not fault.run_size:
                trial.wrong.append("the run left no results.json")
            else:
                self._judge_broken_off(trial, before)
            return
        cells = read_cells(trial.folder)
        for cell in cells.values():
            trial.verdicts[cell["verdict"]] = trial.verdicts.get(cell["verdict"], 0) + 1
        trial.wrong += complete(trial.folder, trial.status if trial.status is not None else -1)
        trial.wrong += same_everywhere(trial.folder)
        other = next(alias for alias in self.hosts if alias != trial.host)
        panics = fault.panics if trial.hit and _may_panic(trial.moment) else ()
        if fault.status is None or not trial.hit:
            trial.wrong += untouched(cells, self.reference, other)
        else:
            trial.wrong += explained(cells, self.reference, other, 0, ())
            if trial.status not in (fault.status, 0):
                trial.wrong.append(f"exit status {trial.status}; {fault.status} is what an ended run has")
        trial.wrong += explained(cells, self.reference, trial.host, int(bool(panics)), panics)
        if fault.says and not any(
            key[0] == trial.host and cell["verdict"] == "INFRA" and fault.says in cell["message"]
            for key, cell in cells.items()
        ):
            trial.wrong.append(f"no cell of {trial.host} is INFRA and says '{fault.says}'")
        if fault.panics and trial.hit and MOMENTS[trial.moment].in_item and "PANIC" not in trial.verdicts:
            trial.wrong.append("the host went down while an item ran, and no cell is PANIC")
        told = _told(trial.folder)
        self._mend(self.hosts[trial.host], fault)
        trial.wrong += self._left(before, self.hosts, told if fault.told else {})
        if fault.told not in ("", "*") and trial.hit and told and fault.told not in str(told.get(trial.host)):
            trial.wrong.append(f"not_restored says {told} and nothing of '{fault.told}'")
        if not fault.told and told:
            trial.wrong.append(f"hosts were not restored: {told}")

    def _judge_next(self, trial: Trial, before: dict[str, State]) -> None:
        """The run was killed: the next one has to come to the same verdicts, and to leave the host as the first one
        found it."""
        process, folder = self._start(self.folder / f"trial-{trial.number:03d}-next")
        trial.status = self._wait(process)
        trial.folder = self._made(folder)
        if trial.folder is None or trial.status is None:
            trial.wrong.append("the run after the one that was killed left no results.json")
            return
        cells = read_cells(trial.folder)
        for cell in cells.values():
            trial.verdicts[cell["verdict"]] = trial.verdicts.get(cell["verdict"], 0) + 1
        trial.wrong += complete(trial.folder, trial.status) + same_everywhere(trial.folder)
        for alias in self.hosts:
            trial.wrong += untouched(cells, self.reference, alias)
        trial.wrong += self._left(before, self.hosts, {})

    def _judge_broken_off(self, trial: Trial, before: dict[str, State]) -> None:
        """Nothing could be written: the status says so, and the hosts are as they were."""
        if trial.status in (0, 1, None):
            trial.wrong.append(f"exit status {trial.status} of a run that could write no results")
        trial.wrong += self._left(before, self.hosts, {})

    @staticmethod
    def _mend(host: StandingHost, fault: Fault) -> None:
        """What keeps us from looking ends."""
        if fault.name in ("outage", "disk-full", "outage-short", "new-host-key"):
            host.board.ask({"op": "misbehave", "kind": "behave"})

    @staticmethod
    def _left(before: dict[str, State], hosts: dict[str, StandingHost], told: dict[str, str]) -> list[str]:
        wrong = []
        for alias, host in hosts.items():
            try:
                host.await_boot()
                differences = before[alias].differences(host.state())
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what was found
                differences = [f"it cannot be looked at: {error}"]
            if differences and alias not in told:
                wrong.append(f"{alias} is not as it was found, and nothing says so: {'; '.join(differences)}")
        return wrong


def _may_panic(moment: str) -> bool:
    return MOMENTS[moment].in_item or MOMENTS[moment].loading


def _told(folder: Path) -> dict[str, str]:
    hosts = json.loads((folder / "results.json").read_text(encoding="utf-8"))["hosts"]
    return {alias: facts["not_restored"] for alias, facts in hosts.items() if facts.get("not_restored")}


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@contextmanager
def _small_disk(folder: Path, mib: int) -> Iterator[None]:
    """``folder`` on a file system of its own with room for ``mib``; nothing where that is 0. Needs root."""
    if not mib:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)

