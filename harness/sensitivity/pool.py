"""Worker processes, each with an emulated host of its own, started when there is work for their vendor."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from harness.errors import EmulatorFailed, WorkerDied
from harness.inventory import EmulatedHost
from harness.lab import Launcher
from harness.sensitivity.matrix import CaseRow, TaskResult
from harness.sensitivity.worker import Failed, Message, Planned, Task, alias_of, work

_CONTEXT = multiprocessing.get_context("spawn")
#: Workers that end before they did a single task, until the measurement is given up.
_MAX_STILLBORN = 3
_END_SECONDS = 20.0


@dataclass(slots=True)
class Worker:
    """One process, its host, and what it is doing."""

    vendor: str
    process: SpawnProcess
    connection: Connection
    launcher: Launcher
    folder: Path
    ready: bool = False
    task: Task | None = None


class Pool:
    """At most ``jobs`` workers at a time, of whatever vendors the work left is for."""

    def __init__(self, jobs: int, folder: Path, words: Sequence[str], patience: float) -> None:
        self._jobs = max(1, jobs)
        self._folder = folder
        self._words = tuple(words)
        self._patience = patience
        self._workers: list[Worker] = []
        self._count = 0
        self._stillborn = 0
        #: vendor -> every case that its host can run.
        self.cases: dict[str, list[CaseRow]] = {}
        #: What became of workers that did not end by themselves.
        self.lost: list[str] = []

    def run(self, tasks: deque[Task]) -> Iterator[tuple[Task, TaskResult]]:
        """Do all tasks; yields each with its result, as they end. Takes from ``tasks`` what it starts."""
        while tasks or any(worker.task for worker in self._workers):
            self._hand_out(tasks)
            for ready in wait([worker.connection for worker in self._workers]):
                worker = next(worker for worker in self._workers if worker.connection is ready)
                done = self._hear(worker)
                if done is not None:
                    yield done

    def close(self) -> None:
        """End all workers and their hosts."""
        for worker in list(self._workers):
            self._end(worker)

    # --- dealing ----------------------------------------------------------------------------------------------------

    def _hand_out(self, tasks: deque[Task]) -> None:
        for worker in self._workers:
            if worker.ready and worker.task is None:
                self._give(worker, tasks)
        while tasks:
            waiting = Counter(task.vendor for task in tasks)
            coming = Counter(worker.vendor for worker in self._workers if not worker.ready)
            # The vendor with most work for each of its workers gets the next one.
            busy = Counter(worker.vendor for worker in self._workers if worker.task is not None)
            vendor = max(waiting, key=lambda name: waiting[name] / (1 + busy[name] + coming[name]))
            if waiting[vendor] <= coming[vendor]:
                return
            if len(self._workers) >= self._jobs:
                idle = next((one for one in self._workers if one.ready and one.task is None), None)
                if idle is None:
                    return
                self._end(idle)
            self._start(vendor)

    def _give(self, worker: Worker, tasks: deque[Task]) -> None:
        task = next((task for task in tasks if task.vendor == worker.vendor), None)
        if task is None:
            return
        tasks.remove(task)
        worker.task = task
        with contextlib.suppress(BrokenPipeError):  # heard as the end of its connection
            worker.connection.send(task)

    def _hear(self, worker: Worker) -> tuple[Task, TaskResult] | None:
        try:
            message: Message = worker.connection.recv()
        except (EOFError, ConnectionError):
            message = Failed("The worker process died.")
        if isinstance(message, Planned):
            worker.ready = True
            self._stillborn = 0
            self.cases[worker.vendor] = list(message.cases)
            return None
        task, worker.task = worker.task, None
        if isinstance(message, TaskResult):
            assert task is not None
            return task, message
        self._end(worker)
        self.lost.append(f"{worker.folder.name} ({worker.vendor}): {message.message}")
        if task is None:
            self._stillborn += 1
            if self._stillborn >= _MAX_STILLBORN:
                log = (worker.folder / "worker.log").read_text(encoding="utf-8", errors="replace")
                raise WorkerDied(f"No worker comes up: {message.message} Its log ends: {log[-600:].strip()}")
            return None
        return task, message.result or TaskResult(task.name, task.vendor, (), 0, 0.0, message.message)

    # --- processes ---------------------------------------------------------------------------------------------------

    def _start(self, vendor: str) -> None:
        self._count += 1
        folder = self._folder / "workers" / f"w{self._count}"
        folder.mkdir(parents=True)
        launcher = Launcher()
        alias = alias_of(vendor)
        host = EmulatedHost.model_validate({"kind": "emulated", "vendor": vendor})
        try:
            reach = launcher.start({alias: host}, folder)[alias]
        except EmulatorFailed:
            launcher.stop()
            raise
        ours, theirs = _CONTEXT.Pipe()
        arguments = (theirs, vendor, reach, folder, self._folder, self._words, self._patience)
        process = _CONTEXT.Process(target=work, args=arguments, daemon=True)
        process.start()
        theirs.close()
        self._workers.append(Worker(vendor, process, ours, launcher, folder))

    def _end(self, worker: Worker) -> None:
        self._workers.remove(worker)
        with contextlib.suppress(OSError):
            worker.connection.send(None)
        # One that is in the middle of a task does not listen.
        worker.process.join(0.1 if worker.task is not None else _END_SECONDS)
        if worker.process.is_alive():
            worker.process.terminate()
            worker.process.join()
        worker.connection.close()
        worker.launcher.stop()
