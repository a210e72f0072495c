"""Hazardous cases are run when asked for, and whoever comes after a crash can read which cell it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError
from harness.hazards import NAME, Hazard, HazardJournal

ROOT = Path(__file__).resolve().parents[2]
HAZARD = Hazard("one", "run-1", "HAZ-01", "suites/test_hazards.py::test_it", "boot-1", 1.0)

SUITE = '''
from pathlib import Path

from harness.cases import case
from harness.guest import Program
from harness.lab.power import SimulatedPower


@case("HAZ-01", rule="takes its host down", hazard=True)
def test_1_hazard(subject):
    if subject.platform.kind == "bare":
        return
    journal = Path("runs/hazards.jsonl").read_text()
    assert '"event": "begun"' in journal and "settled" not in journal
    program = Program("quiet")
    program.sync(1)
    with subject.start(program) as guest:
        guest.wait_phase(1)
        SimulatedPower(next(Path("runs").glob("*/hosts/one/emulated")) / "control").ask(
            {"op": "misbehave", "kind": "panic"}
        )
        while True:
            guest.registers("dr7")


@case("ISO-03", rule="after")
def test_2_after(subject):
    subject.run(Program("quiet"))
'''


def run(tmp_path: Path, kind: str, *words: str) -> tuple[dict[str, dict[str, Any]], Path]:
    (tmp_path / "test_suite.py").write_text(SUITE, encoding="utf-8")
    (tmp_path / "lab.toml").write_text(
        f'schema = 1\nlab = "hazards"\n[host.one]\nkind = "{kind}"\nvendor = "intel"\n', encoding="utf-8"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "harness.plugin", "test_suite.py", "--lab", "lab.toml", *words],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    results = list((tmp_path / "runs").glob("*/results.json"))
    assert results, done.stdout + done.stderr
    cells = json.loads(results[0].read_text(encoding="utf-8"))["cells"]
    return {cell["test"].rpartition("::")[2]: cell for cell in cells}, tmp_path / "runs" / NAME


def test_a_hazard_is_not_run_unless_it_is_asked_for(tmp_path: Path) -> None:
    cells, journal = run(tmp_path, "bare")
    assert cells["test_1_hazard"]["verdict"] == "SKIP"
    assert cells["test_1_hazard"]["message"] == "may take the host down: run it with --hazards"
    assert cells["test_2_after"]["verdict"] == "PASS"
    assert not journal.exists()


def test_a_hazard_that_takes_the_host_down_has_its_verdict_and_the_host_comes_back(tmp_path: Path) -> None:
    cells, journal = run(tmp_path, "emulated", "--hazards")
    assert cells["test_1_hazard"]["code"] == "PRODUCT-HOST-PANIC", cells
    assert cells["test_2_after"]["verdict"] == "PASS"
    begun, settled = (json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines())
    assert (begun["event"], begun["host"], begun["case"]) == ("begun", "one", "HAZ-01")
    assert (settled["event"], settled["host"], settled["outcome"]) == ("settled", "one", "PANIC")
    assert HazardJournal(journal.parent).tainted() == {}


def test_the_next_run_tells_which_cell_left_the_host(tmp_path: Path) -> None:
    HazardJournal(tmp_path / "runs").begin(HAZARD)
    _, journal = run(tmp_path, "bare")
    (results,) = (tmp_path / "runs").glob("*/results.json")
    told = json.loads(results.read_text(encoding="utf-8"))["hosts"]["one"]["left_by_hazard"]
    assert told == "HAZ-01 (suites/test_hazards.py::test_it) of run run-1"
    assert HazardJournal(journal.parent).tainted() == {}


def test_the_journal_survives_a_line_that_a_crash_cut_short(tmp_path: Path) -> None:
    journal = HazardJournal(tmp_path)
    journal.begin(HAZARD)
    journal.path.write_text(journal.path.read_text(encoding="utf-8") + '{"event": "set', encoding="utf-8")
    assert journal.tainted() == {"one": HAZARD}


def test_a_journal_that_is_none_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("nonsense\n{}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"Line 1 of .* is no entry"):
        HazardJournal(tmp_path).tainted()
