"""The coverage page tells what runs have answered, from a real run and a measurement of the sensitivity."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / "labs" / "emulated.toml"


def vmmcheck(*words: str, status: int = 0) -> str:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", *words], cwd=ROOT, env=inherited, capture_output=True, text=True,
        timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One real run of two cases on one bare column."""
    folder = tmp_path_factory.mktemp("runs")
    vmmcheck("run", "--host=bareamd", "--case=RST-02", "--case=REG-06", f"--run-dir={folder}", "-k", "inactive or rtm")
    return folder


SENSITIVITY = {
    "run": "sensitivity-1",
    "full": True,
    "cases_nothing_made_fail": [["RST-03", "intel"], ["REG-09", "amd"]],
    "defects": [
        {
            "id": "vmx-dr6-lost", "vendor": "intel", "requirement": "S1.3", "state": "caught",
            "caught_by": [{"case": "RST-02"}, {"case": "RST-02"}], "other_reason": [],
            "caught_by_other_requirements": [],
        },
        {
            "id": "vmx-dr7-lost", "vendor": "intel", "requirement": "S1.2", "state": "survived",
            "caught_by": [], "other_reason": [], "caught_by_other_requirements": [{"case": "RST-02"}],
        },
    ],
}  # fmt: skip


def coverage(runs: Path, out: Path, *words: str) -> dict[str, Any]:
    vmmcheck("coverage", f"--lab={LAB}", f"--runs={runs}", f"--out={out}", *words)
    data: dict[str, Any] = json.loads((out / "coverage.json").read_text(encoding="utf-8"))
    return data


def holes(data: dict[str, Any], kind: str) -> dict[str, str]:
    return {hole["what"]: hole["why"] for hole in data["holes"] if hole["kind"] == kind}


def test_the_latest_answers_stand_beside_their_rules(runs: Path, tmp_path: Path) -> None:
    data = coverage(runs, tmp_path)
    reset = data["cases"]["RST-02"]["columns"]
    assert reset["bareamd"] == {"cells": 1, "verdict": "PASS", "counts": {"PASS": 1}, "never_run": 0, "reason": ""}
    assert reset["bareintel"]["verdict"] is None
    assert reset["bareintel"]["never_run"] == 1
    fixed = data["cases"]["REG-06"]["columns"]["bareamd"]
    # The prediction showed; the other cells of the case have not been run.
    assert fixed["verdict"] == "XFAIL"
    assert fixed["never_run"] == fixed["cells"] - 1
    assert data["gaps"]["EMULATOR-DR7-RTM"]["columns"]["bareamd"] == {"XFAIL": 1}
    assert set(data["gaps"]["EMULATOR-DR7-RTM"]["columns"]["bareintel"]) == {"never run"}
    assert data["cases"]["VCB-01"]["columns"]["bareintel"]["reason"].startswith("not applicable to intel")
    assert "RST-02" in data["rules"]["SDM3 9.1.1"]
    assert "SDM3 9.1.1" not in holes(data, "rule without a passing case")
    assert "SDM3 17.3.1.2" in holes(data, "rule without a passing case")
    assert "1 on bareintel" in holes(data, "cells that no run has answered")["RST-02"]
    assert holes(data, "sensitivity not measured")
    for id, case in data["cases"].items():
        assert bool(case["tests"]) != bool(case["open"]), id
        assert (id in holes(data, "case without a test")) == (not case["tests"])


def test_defects_stand_beside_the_requirements_that_they_violate(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(SENSITIVITY), encoding="utf-8")
    data = coverage(runs, tmp_path / "out", f"--sensitivity={tmp_path / 's.json'}")
    kills = data["cases"]["RST-02"]["killed_by"]
    assert [(kill["defect"], kill["own"]) for kill in kills] == [("vmx-dr6-lost", True), ("vmx-dr7-lost", False)]
    missing = holes(data, "requirement without a defect that is caught")
    assert "S1.2" in missing
    assert "S1.3" not in missing
    # REG-09 has priority 2: only what is evidence for a requirement at first priority must have been seen to fail.
    assert holes(data, "P1 case that no defect made fail") == {"RST-03": "on intel"}
    page = (tmp_path / "out" / "coverage.html").read_text(encoding="utf-8")
    assert "1 of 1 defects caught" in page
    assert re.search(r"<code>vmx-dr7-lost</code> on intel: survived", page)


def test_a_run_with_a_defect_or_of_another_column_does_not_count(runs: Path, tmp_path: Path) -> None:
    (run,) = runs.iterdir()
    for name, change in (("defect", {"arguments": ["--defect=svm-x"]}), ("earlier", {"started": 1.0})):
        copied = tmp_path / "runs" / name
        copied.mkdir(parents=True)
        recipe = json.loads((run / "run.json").read_text(encoding="utf-8")) | change
        (copied / "run.json").write_text(json.dumps(recipe), encoding="utf-8")
        shutil.copy(run / "results.json", copied)
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    for cell in results["cells"]:
        cell["verdict"] = "FAIL"
    (tmp_path / "runs" / "defect" / "results.json").write_text(json.dumps(results), encoding="utf-8")
    (tmp_path / "runs" / "foreign").mkdir()
    (tmp_path / "runs" / "foreign" / "results.json").write_text("{", encoding="utf-8")
    data = coverage(tmp_path / "runs", tmp_path / "out")
    assert data["cases"]["RST-02"]["columns"]["bareamd"]["verdict"] == "PASS"

    for cell in results["cells"]:
        cell["platform"] = "bare Bochs of another model"
    (tmp_path / "runs" / "earlier" / "results.json").write_text(json.dumps(results), encoding="utf-8")
    data = coverage(tmp_path / "runs", tmp_path / "out")
    assert data["cases"]["RST-02"]["columns"]["bareamd"]["verdict"] is None


def test_the_page_stands_alone(runs: Path, tmp_path: Path) -> None:
    coverage(runs, tmp_path)
    page = (tmp_path / "coverage.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)\s*=|https?://|@import|url\(", page)
    assert page.count('class="case"') >= 150
    text = (tmp_path / "coverage.md").read_text(encoding="utf-8")
    assert text.count("| RST-02 |") == 1
    assert "PASS 1/1" in text


def test_what_is_no_measurement_is_refused(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text("{}", encoding="utf-8")
    said = vmmcheck("coverage", f"--runs={runs}", f"--out={tmp_path}", f"--sensitivity={tmp_path / 's.json'}", status=4)
    assert "is no sensitivity.json" in said
    assert "Traceback" not in said
