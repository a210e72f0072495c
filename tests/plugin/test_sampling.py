"""A sampled run: some variants of every test, the same ones for the same seed, and told as a sample."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness.plugin.sampling import Variant, draw

ROOT = Path(__file__).resolve().parents[2]

SUITE = """
from harness.cases import axis, case
from harness.expect import expect_equal


@case("DAT-05", rule="has many variants")
@axis("length", tuple(range(20)))
def test_many(subject, length):
    expect_equal("one", 1, 1)


@case("DAT-06", rule="cannot be shown here", needs=("bhyve",))
@axis("length", tuple(range(5)))
def test_hidden(subject, length):
    expect_equal("one", 1, 1)
"""


def run(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "test_suite.py").write_text(SUITE, encoding="utf-8")
    lab = 'schema = 1\nlab = "test"\n[host.one]\nkind = "bare"\nvendor = "intel"\n'
    (tmp_path / "lab.toml").write_text(lab, encoding="utf-8")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "harness.plugin", "test_suite.py", "--lab", "lab.toml", *words],
        cwd=tmp_path, env={**inherited, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


def results(tmp_path: Path) -> dict[str, Any]:
    newest = max((tmp_path / "runs").glob("*/results.json"), key=lambda path: path.stat().st_mtime_ns)
    data: dict[str, Any] = json.loads(newest.read_text(encoding="utf-8"))
    return data


def test_a_sample_has_so_many_variants_of_every_test_and_says_so(tmp_path: Path) -> None:
    done = run(tmp_path, "--sample", "2", "--sample-seed", "7")
    assert done.returncode == 0, done.stdout + done.stderr
    found = results(tmp_path)
    verdicts = sorted((cell["case"], cell["verdict"]) for cell in found["cells"])
    # Of the test that nothing can show here, one variant tells why.
    assert verdicts == [("DAT-05", "PASS"), ("DAT-05", "PASS"), ("DAT-06", "SKIP")]
    assert found["selection"] == "sample: 2 variants of every test, drawn with --sample-seed 7"
    assert found["selection"] in done.stdout
    assert found["planned"] == 3


def test_without_a_sample_nothing_is_left_out(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(results(tmp_path)["cells"]) == 25
    assert "selection" not in results(tmp_path)


def test_a_sample_of_less_than_nothing_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "--sample", "-1")
    assert done.returncode == 4
    assert "--sample takes a number of variants" in done.stderr


def test_the_seed_decides_what_is_drawn_whatever_else_is_selected() -> None:
    many = [Variant("a", "one", index % 3 != 0, f"a{index}") for index in range(30)]
    other = [Variant("b", "one", True, f"b{index}") for index in range(30)]
    drawn = draw(many, 3, 1)
    assert len(drawn) == 3
    assert drawn == sorted(drawn, key=lambda name: int(name[1:]))
    assert all(int(name[1:]) % 3 for name in drawn)
    assert draw(other + many, 3, 1)[3:] == drawn
    assert any(draw(many, 3, seed) != drawn for seed in range(2, 6))


def test_a_small_test_is_drawn_whole() -> None:
    few = [Variant("a", "one", True, index) for index in range(2)]
    assert draw(few, 5, 1) == [0, 1]
