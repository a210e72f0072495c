"""A small measurement with real parts: emulated hosts, the suites, the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def measure(tmp_path: Path, *words: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", "sensitivity", "--run-dir", str(tmp_path), *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    written = sorted(tmp_path.glob("sensitivity-*/sensitivity.json"))
    return done, json.loads(written[-1].read_text(encoding="utf-8")) if written else {}


def states(data: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(row["id"], row["vendor"]): row["state"] for row in data["defects"]}


@pytest.fixture(scope="module")
def early(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], dict[str, Any], Path]:
    """One defect of each kind of end: caught on each vendor, by no case of its own, and the host taken down."""
    folder = tmp_path_factory.mktemp("early")
    chosen = ("svm-guest-dr-swapped", "svm-rbp-lost", "vmx-host-dr-not-restored", "vmx-tf-not-cleared")
    words = [word for name in chosen for word in ("--defect", name)]
    cases = [word for name in ("ISO-05", "ISO-06", "STP-09") for word in ("--case", name)]
    return (*measure(folder, "--jobs", "2", *words, *cases), folder)


def test_defects_are_caught_by_cases_of_their_requirement(
    early: tuple[subprocess.CompletedProcess[str], dict[str, Any], Path],
) -> None:
    done, data, folder = early
    assert states(data) == {
        ("svm-guest-dr-swapped", "amd"): "caught",
        ("vmx-host-dr-not-restored", "intel"): "caught",
        ("vmx-tf-not-cleared", "intel"): "caught",
        # Its own cases are not among the chosen ones.
        ("svm-rbp-lost", "amd"): "other cases only",
    }, done.stdout + done.stderr
    assert done.returncode == 1
    rows = {row["id"]: row for row in data["defects"]}
    catch = rows["svm-guest-dr-swapped"]["caught_by"][0]
    assert (catch["case"], catch["code"], catch["what"]) == ("ISO-06", "PRODUCT-REGISTER-MISMATCH", "dr3")
    assert (folder / data["run"] / catch["evidence"] / "verdict.json").is_file()
    assert rows["svm-guest-dr-swapped"]["cells"]["ran"] < rows["svm-guest-dr-swapped"]["cells"]["planned"]
    assert data["clean_failures"] == []
    assert data["requirements_without_defect"] == []
    assert data["cpu_seconds"] > 0


def test_a_host_that_went_down_is_a_catch_and_goes_on(
    early: tuple[subprocess.CompletedProcess[str], dict[str, Any], Path],
) -> None:
    _, data, _ = early
    panic = next(row for row in data["defects"] if row["id"] == "svm-rbp-lost")["caught_by_other_requirements"][0]
    assert panic["verdict"] == "PANIC"
    assert panic["code"].startswith("PRODUCT-")
    assert data["workers_lost"] == []


def test_full_runs_every_cell_on_both(tmp_path: Path) -> None:
    done, data = measure(
        tmp_path, "--full", "--jobs", "1", "--vendor", "amd", "--defect", "svm-guest-dr-swapped", "--case", "REG-03",
        "--case", "ISO-06", "--own", "2",
    )  # fmt: skip
    row = data["defects"][0]
    assert row["state"] == "caught", done.stderr
    assert row["cells"]["ran"] == row["cells"]["planned"] >= 3
    assert list(data["clean_cells"]) == ["amd PASS"]
    assert data["clean_cells"]["amd PASS"] >= row["cells"]["ran"]
    assert ["REG-03", "amd"] in data["cases_nothing_made_fail"]
    assert ["ISO-06", "amd"] not in data["cases_nothing_made_fail"]
    assert done.returncode == 0


def test_usage(tmp_path: Path) -> None:
    done, _ = measure(tmp_path, "--defect", "no-such-defect")
    assert done.returncode == 4
    assert "No defect is selected" in done.stderr
    done, _ = measure(tmp_path, "--defect", "svm-clean-*", "--list")
    assert done.returncode == 0
    assert "svm-clean-cr2" in done.stdout
