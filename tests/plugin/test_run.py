"""Whole runs against bare columns: verdicts, exit codes, and every report telling the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]

SUITE = """
from harness.cases import Expected, axis, case
from harness.expect import expect_register
from harness.guest import Program


def dr7(subject):
    program = Program("dr7")
    read = program.snapshot()
    return subject.run(program).snapshot(read).dr7


@case("DAT-01", rule="passes")
@axis("n", (1, 2), prefix="n")
def test_passes(subject, n):
    expect_register("dr7", dr7(subject), 0x400)


@case("DAT-02", rule="fails")
def test_fails(subject):
    expect_register("dr7", dr7(subject), 0x401, ref="SDM3 17.2.4")


@case("DAT-03", rule="predicted", expected=(Expected("G-99", "PRODUCT-REGISTER-MISMATCH", "predicted"),))
def test_predicted(subject):
    expect_register("dr7", dr7(subject), 0x402)


@case("DAT-04", rule="predicted, but not seen", expected=(Expected("G-98", "PRODUCT-REGISTER-MISMATCH", "no"),))
def test_unexpected_pass(subject):
    expect_register("dr7", dr7(subject), 0x400)


@case("DAT-05", rule="broken")
def test_broken(subject):
    raise KeyError("a bug of the case")


@case("DAT-06", rule="not here", needs=("bhyve",))
def test_not_here(subject):
    raise AssertionError


@case("DAT-07", rule="kills its worker")
def test_worker(subject):
    import os

    if os.environ.get("KILL_WORKER") == subject.platform.alias:
        os._exit(3)
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


def run(tmp_path: Path, *words: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    (tmp_path / "test_suite.py").write_text(SUITE, encoding="utf-8")
    (tmp_path / "lab.toml").write_text(LAB, encoding="utf-8")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "harness.plugin", "test_suite.py", "--lab", "lab.toml", *words],
        cwd=tmp_path,
        env={**inherited, **environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    runs = sorted((tmp_path / "runs").glob("*"))
    return done, runs[-1] if runs else tmp_path


def results(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return data


EXPECTED = {"PASS": 6, "FAIL": 2, "XFAIL": 2, "XPASS": 2, "ERROR": 2, "SKIP": 2}


def test_every_report_tells_the_same(tmp_path: Path) -> None:
    done, folder = run(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    data = results(folder)
    assert data["totals"] == EXPECTED
    cells = {(cell["host"], cell["test"].rpartition("::")[2]): cell["verdict"] for cell in data["cells"]}

    junit = {}
    for suite in ElementTree.parse(folder / "junit.xml").getroot():
        for case in suite:
            verdict = case.find("properties/property[@name='verdict']")
            assert verdict is not None
            junit[suite.attrib["name"], case.attrib["name"]] = verdict.attrib["value"]
    assert junit == cells

    allure = {}
    for path in (folder / "allure-results").glob("*-result.json"):
        result = json.loads(path.read_text(encoding="utf-8"))
        labels = {label["name"]: label["value"] for label in result["labels"]}
        allure[labels["sut"], result["name"].split(" ")[1]] = labels["verdict"]
    assert allure == cells

    events = [json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    finished = Counter(event["verdict"] for event in events if event["event"] == "cell_finished")
    assert finished == EXPECTED
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "14 of 16 cells answered" in page
    assert "14 of 16 cells answered" in done.stdout


def test_evidence_shows_expected_observed_records_and_hashes(tmp_path: Path) -> None:
    _, folder = run(tmp_path, "--host", "one", "--case", "DAT-02")
    cell = results(folder)["cells"][0]
    evidence = folder / cell["evidence"]
    judged = json.loads((evidence / "registers.json").read_text(encoding="utf-8"))[-1]
    assert (judged["expected"], judged["observed"], judged["ok"]) == ("0x401", "0x400", False)
    assert "snapshot" in (evidence / "program.txt").read_text(encoding="utf-8")
    assert len(json.loads((evidence / "rom.json").read_text(encoding="utf-8"))["rom_sha256"]) == 64
    assert b"VGP1 E" in (evidence / "console.raw").read_bytes()
    assert json.loads((evidence / "records.json").read_text(encoding="utf-8"))


def test_a_killed_worker_is_infrastructure_and_the_rest_is_run(tmp_path: Path) -> None:
    done, folder = run(tmp_path, KILL_WORKER="two")
    assert done.returncode == 1
    data = results(folder)
    assert data["totals"] == EXPECTED | {"PASS": 5, "INFRA": 1}
    killed = next(cell for cell in data["cells"] if cell["verdict"] == "INFRA")
    assert (killed["host"], killed["code"]) == ("two", "INFRA-WORKER-DIED")


def test_only_unanswered_cells_give_10_and_only_skips_5(tmp_path: Path) -> None:
    assert run(tmp_path, "--case", "DAT-05")[0].returncode == 10
    assert run(tmp_path, "--case", "DAT-06")[0].returncode == 5
    assert run(tmp_path, "--case", "DAT-01")[0].returncode == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("-n", "3"), "One worker drives one host"),
        (("--dist", "loadgroup"), "One worker drives one host"),
        (("--host", "nosuch"), "CONFIG-NO-HOSTS"),
        (("--lab", "missing.toml"), "CONFIG-INVENTORY"),
        (("--pdb",), "one host at a time"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(tmp_path: Path, words: tuple[str, ...], expected: str) -> None:
    done, _ = run(tmp_path, *words)
    assert done.returncode == 4
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_a_stopped_run_accounts_for_what_it_did_not_start(tmp_path: Path) -> None:
    _, folder = run(tmp_path, "--host", "one", "-x")
    data = results(folder)
    assert data["planned"] == len(data["cells"]) == 8
    assert data["totals"]["NOT_RUN"] > 0
