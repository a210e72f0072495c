"""A run of the suites in a process of its own, and where it left its results."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from harness.errors import ConfigError

#: What asks us to end: Ctrl-C, a cancelled job, a closed terminal.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Launched:
    """Exit status of a run, and its folder; ``None`` when it left no results behind."""

    status: int
    folder: Path | None


def launch_run(lab: Path, run_dir: Path, arguments: Sequence[str]) -> Launched:
    """Run ``vmmcheck run`` with these words; its output goes where ours goes.

    Other runs may begin in ``run_dir`` meanwhile: ours is the one that our process made. An interrupt, or a request to
    end, is passed on as one interrupt, so that the hosts are given back and the cells get their verdicts; the run has
    a process group of its own, as a terminal or a CI server would interrupt it a second time while it does that.
    """
    before = {path.name for path in run_dir.iterdir()} if run_dir.is_dir() else set()
    command = [sys.executable, "-m", "harness.cli", "run", f"--lab={lab.resolve()}", f"--run-dir={run_dir.resolve()}"]
    words = [*command, *absolute(arguments)]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, process_group=0) as process:

        def interrupt(number: int, frame: FrameType | None) -> None:
            process.send_signal(signal.SIGINT)

        previous = {number: signal.signal(number, interrupt) for number in _ENDING}
        try:
            status = process.wait()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
    made = [path for path in run_dir.iterdir() if path.name not in before] if run_dir.is_dir() else []
    ours = next((path for path in sorted(made, reverse=True) if _pid(path) == process.pid), None)
    finished = ours is not None and (ours / "results.json").is_file()
    return Launched(status, ours if finished else None)


def absolute(arguments: Sequence[str]) -> list[str]:
    """The words of a run with the file of ``--module=ko:FILE`` or ``patch:FILE`` named from the root: a run works in
    another folder than ours."""
    found = list(arguments)
    for at, word in enumerate(found):
        after = at > 0 and found[at - 1] == "--module"
        if after:
            found[at] = absolute_module(word)
        elif word.startswith("--module="):
            found[at] = f"--module={absolute_module(word.removeprefix('--module='))}"
    return found


def absolute_module(module: str) -> str:
    """``module`` with the path of a ``ko:`` or ``patch:`` made absolute; everything else as it is."""
    kind, colon, what = module.partition(":")
    return f"{kind}:{Path(what).expanduser().resolve()}" if colon and kind in ("ko", "patch") and what else module


def finished_folder(path: Path) -> Path:
    """``path`` as the folder of a finished run; raises :class:`ConfigError` for anything else."""
    if not (path / "results.json").is_file():
        raise ConfigError(
            f"'{path}' is not the folder of a finished run: it has no results.json.",
            help="Name a folder such as runs/20260101-010203-ab12 that 'vmmcheck run' wrote to its end.",
        )
    return path.resolve()


def _pid(folder: Path) -> int:
    try:
        return int(json.loads((folder / "run.json").read_text(encoding="utf-8"))["controller"]["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
