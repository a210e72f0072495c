"""Chance can be had again: the seed is printed, the same seed gives the same choices on every host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SUITE = """
from pathlib import Path

from harness.cases import axis, case


@case("MIG-06", rule="chooses")
@axis("n", (1, 2), prefix="n")
def test_chooses(subject, stress, n):
    with Path("chosen.txt").open("a") as stream:
        stream.write(f"{subject.platform.alias} {n} {stress.scale} {stress.random.getrandbits(32)}\\n")
"""

LAB = """
schema = 1
lab = "test"
[host.one]
kind = "bare"
vendor = "intel"
[host.two]
kind = "bare"
vendor = "amd"
"""


def run(folder: Path, *words: str) -> tuple[subprocess.CompletedProcess[str], dict[tuple[str, str], tuple[str, str]]]:
    (folder / "test_suite.py").write_text(SUITE, encoding="utf-8")
    (folder / "lab.toml").write_text(LAB, encoding="utf-8")
    (folder / "chosen.txt").unlink(missing_ok=True)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "harness.plugin", "test_suite.py", "--lab", "lab.toml", *words],
        cwd=folder, env={**inherited, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    chosen = {}
    if (folder / "chosen.txt").exists():
        for line in (folder / "chosen.txt").read_text(encoding="utf-8").splitlines():
            alias, n, scale, value = line.split()
            chosen[alias, n] = (scale, value)
    return done, chosen


def test_a_run_prints_the_seed_that_repeats_it(tmp_path: Path) -> None:
    done, chosen = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    match = re.search(r"repeat them with (--seed=\d+) (--stress=1)$", done.stdout, re.MULTILINE)
    assert match is not None, done.stdout
    # The same on every host, another for each variant.
    assert chosen["one", "1"] == chosen["two", "1"] != chosen["one", "2"]
    notes = list((tmp_path / "runs").glob("*/cells/*/one/notes.txt"))
    assert len(notes) == 2
    assert all(match[1] in note.read_text(encoding="utf-8") for note in notes)

    again, same = run(tmp_path, match[1], match[2])
    assert again.returncode == 0, again.stdout
    assert same == chosen

    _, other = run(tmp_path, "--seed=1", "--stress=3", "--host=one")
    assert {scale for scale, _ in other.values()} == {"3"}
    assert other["one", "1"][1] != chosen["one", "1"][1]


def test_less_than_once_is_refused(tmp_path: Path) -> None:
    done, _ = run(tmp_path, "--stress=0")
    assert done.returncode == 4
    assert "--stress=0" in done.stderr
