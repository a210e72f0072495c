"""The store: a killed writer, two writers at once, damaged files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli import cli
from harness.errors import ConfigError
from harness.nightly import History, Night, night_of_run

MakeRun = Callable[..., Path]
MakeNight = Callable[..., Night]

#: Adds a record that is made of argv[2], again and again under new names: argv[3] is the first part of them.
WRITER = """
import itertools, sys
from pathlib import Path
from typing import Any
from harness.nightly import History, night_of_run

history = History(Path(sys.argv[1]))
night = night_of_run(Path(sys.argv[2]), history.folder)
numbers = range(int(sys.argv[4])) if len(sys.argv) > 4 else itertools.count()
print("ready", flush=True)
for number in numbers:
    history.append(night.model_copy(update={"run": f"{sys.argv[3]}-{number:06}"}))
"""

#: Dies in the middle of writing a record: half of it is in the file when the disk would be asked to keep it.
HALF = """
import os, signal, sys
from pathlib import Path
from typing import Any
from harness.nightly import History, night_of_run

def die(handle):
    os.ftruncate(handle, os.fstat(handle).st_size // 2)
    os.kill(os.getpid(), signal.SIGKILL)

history = History(Path(sys.argv[1]))
night = night_of_run(Path(sys.argv[2]), history.folder)
os.fsync = die
history.append(night)
"""


def writer(*words: object, program: str = WRITER) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_what_is_added_is_read_again(make_night: MakeNight, tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    later = make_night({"one/a": "FAIL", "one/b": "PASS", "two/a": "INFRA"}, day=2)
    earlier = make_night({"one/a": "PASS"}, day=1)
    assert history.append(later)
    assert history.append(earlier)
    loaded = history.load()
    assert loaded.nights == (earlier, later)
    assert loaded.warnings == ()


def test_the_same_run_is_added_once_and_never_replaced(make_night: MakeNight, tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    night = make_night({"one/a": "FAIL"})
    assert history.append(night)
    assert not history.append(night)
    # The run folder moved: the record is the same.
    assert not history.append(night.model_copy(update={"folder": "../elsewhere"}))
    before = history.load()
    with pytest.raises(ConfigError, match="other results"):
        history.append(night.model_copy(update={"exit_code": 7}))
    assert history.load() == before


def test_a_writer_killed_in_the_middle_of_a_record(make_run: MakeRun, tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    good, cut = make_run({"one/a": "PASS"}, day=1), make_run({"one/a": "FAIL"}, day=2)
    history.append(night_of_run(good, history.folder))
    with writer(history.folder, cut, program=HALF) as process:
        assert process.wait(60) == -signal.SIGKILL
    loaded = history.load()
    assert [night.run for night in loaded.nights] == [good.name]
    (warning,) = loaded.warnings
    assert cut.name in warning
    assert "not written to its end" in warning
    # The run can be added after all.
    assert history.append(night_of_run(cut, history.folder))
    assert [night.run for night in history.load().nights] == [good.name, cut.name]


def test_writers_killed_at_any_moment_leave_whole_records(make_run: MakeRun, tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    run = make_run({f"one/{number}": "PASS" for number in range(300)})
    expected = night_of_run(run, history.folder)
    for attempt in range(6):
        with writer(history.folder, run, f"w{attempt}") as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(0.05 + 0.013 * attempt)
            os.kill(process.pid, signal.SIGKILL)
    loaded = history.load()
    assert len(loaded.nights) >= 6
    assert all(night.model_copy(update={"run": run.name}) == expected for night in loaded.nights)
    # At most what each of them had in its hands.
    assert len(loaded.warnings) <= 6
    assert all("not written to its end" in warning for warning in loaded.warnings)


def test_two_writers_at_once_lose_nothing(make_run: MakeRun, tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    run = make_run({"one/a": "PASS"})
    # Two with names of their own, and two that add the same runs.
    with (
        writer(history.folder, run, "a", 40) as one, writer(history.folder, run, "b", 40) as two,
        writer(history.folder, run, "same", 40) as three, writer(history.folder, run, "same", 40) as four,
    ):  # fmt: skip
        assert [process.wait(120) for process in (one, two, three, four)] == [0, 0, 0, 0]
    loaded = history.load()
    assert loaded.warnings == ()
    names = sorted(night.run for night in loaded.nights)
    assert names == sorted(f"{name}-{number:06}" for name in ("a", "b", "same") for number in range(40))


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other"])
def test_a_damaged_record_is_left_out_and_told_of(make_run: MakeRun, tmp_path: Path, damage: str) -> None:
    history = History(tmp_path / "history")
    folders = [make_run({"one/a": "PASS"}, day=1), make_run({"one/a": "FAIL"}, day=2)]
    for folder in folders:
        history.append(night_of_run(folder, history.folder))
    path = history.folder / "nights" / f"{folders[1].name}.json"
    data = path.read_bytes()
    path.write_bytes(
        {"cut": data[: len(data) // 2], "flipped": data.replace(b'"FAIL"', b'"PASS"'), "empty": b"", "other": b"x"}[
            damage
        ]
    )
    loaded = history.load()
    assert [night.run for night in loaded.nights] == [folders[0].name]
    (warning,) = loaded.warnings
    assert path.name in warning
    assert "checksum" in warning
    with pytest.raises(ConfigError, match="cut short or was changed"):
        history.append(night_of_run(folders[1], history.folder))
    done = CliRunner().invoke(cli, ["history", "--history", str(history.folder), "--out", str(tmp_path / "out")])
    assert done.exit_code == 10
    assert path.name in done.output
    assert path.name in (tmp_path / "out" / "nightly.html").read_text()


def test_a_record_of_a_later_program_is_left_out(make_night: MakeNight, tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    history.append(make_night({"one/a": "PASS"}).model_copy(update={"schema_version": 99}))
    (warning,) = history.load().warnings
    assert "schema 99" in warning


def test_what_is_no_history_or_no_run_is_told(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no history"):
        History(tmp_path / "nothing").load()
    done = CliRunner().invoke(cli, ["nightly", "--history", str(tmp_path / "h"), "--add", str(tmp_path)])
    assert done.exit_code == 4
    assert "not the folder of a finished run" in done.output
    empty = make_run({})
    done = CliRunner().invoke(cli, ["nightly", "--history", str(tmp_path / "h"), "--add", str(empty)])
    assert done.exit_code == 4
    assert "planned no cells" in done.output
    broken = make_run({"one/a": "PASS"})
    results = json.loads((broken / "results.json").read_text())
    results["cells"][0]["verdict"] = "PERHAPS"
    (broken / "results.json").write_text(json.dumps(results))
    with pytest.raises(ConfigError, match="damaged"):
        night_of_run(broken, tmp_path)
    locked = tmp_path / "file"
    locked.write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        History(locked).append(night_of_run(make_run({"one/a": "PASS"}), tmp_path))


def test_a_run_that_never_ended_is_told_of(make_night: MakeNight, tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    history.append(make_night({"one/a": "PASS"}))
    id = history.begin("lab", "runs")
    (warning,) = history.load().warnings
    assert "has not ended" in warning
    history.ended(id, "exit status 0")
    assert history.load().warnings == ()
