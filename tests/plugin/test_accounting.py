"""Nothing is lost and nothing is green by accident: whole runs whose items need no emulator."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from harness.results.evidence import verify_manifest

ROOT = Path(__file__).resolve().parents[2]

HEAD = """
import os
import pytest
from harness.cases import Expected, axis, case
from harness.errors import *
from harness.expect import expect_equal
"""
GOOD = """
@case("DAT-01", rule="holds")
def test_good(subject):
    expect_equal("one", 1, 1)
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
ONE = ("--host", "one")

Cells = dict[tuple[str, str], dict[str, Any]]


def run(folder: Path, modules: dict[str, str], *words: str, **environment: str) -> tuple[int, Cells, Path]:
    """Exit code, cells by host and test, run folder. Every report is held against the cells, one by one."""
    for name, text in modules.items():
        (folder / f"test_{name}.py").write_text(HEAD + text, encoding="utf-8")
    (folder / "lab.toml").write_text(LAB, encoding="utf-8")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "harness.plugin", ".", "--lab", "lab.toml", *words],
        cwd=folder,
        env={**inherited, **environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        start_new_session=True,
    )
    runs = sorted((folder / "runs").glob("*/results.json"))
    assert runs, done.stdout + done.stderr
    assert "INTERNALERROR" not in done.stdout + done.stderr, done.stdout + done.stderr
    data = json.loads(runs[-1].read_text(encoding="utf-8"))
    cells = {(cell["host"], cell["test"]): cell for cell in data["cells"]}
    assert data["planned"] == len(data["cells"]) == len(cells) == sum(data["totals"].values())
    assert data["exit_code"] == done.returncode
    compare(runs[-1].parent, cells)
    return done.returncode, cells, runs[-1].parent


def compare(folder: Path, cells: Cells) -> None:
    """JUnit XML, Allure and the event stream name the same cells with the same verdicts."""
    verdicts = {key: cell["verdict"] for key, cell in cells.items()}
    junit = {}
    for suite in ElementTree.parse(folder / "junit.xml").getroot():
        for item in suite:
            found = item.find("properties/property[@name='verdict']")
            assert found is not None
            module = item.attrib["classname"].partition(".")[2]
            name = f"{module}::{item.attrib['name']}" if item.attrib["name"] else module
            junit[suite.attrib["name"], name] = found.attrib["value"]
    assert junit == verdicts
    allure = {}
    for path in (folder / "allure-results").glob("*-result.json"):
        result = json.loads(path.read_text(encoding="utf-8"))
        labels = {label["name"]: label["value"] for label in result["labels"]}
        name = next(test for host, test in cells if cells[host, test]["nodeid"] == result["fullName"])
        allure[labels["sut"], name] = labels["verdict"]
    assert allure == verdicts
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    finished = {(e["host"], e["test"]): e["verdict"] for e in events if e["event"] == "cell_finished"}
    assert finished == verdicts
    assert (folder / "report.html").stat().st_size > 1000


@pytest.mark.parametrize("words", [(), ONE], ids=["workers", "alone"])
def test_a_module_that_cannot_be_collected_is_never_green(tmp_path: Path, words: tuple[str, ...]) -> None:
    status, cells, _ = run(tmp_path, {"good": GOOD, "bad": "import nosuchmodule\n"}, *words)
    assert status == 10
    assert cells["one", "test_bad.py"]["code"] == "TEST-COLLECTION"
    assert "nosuchmodule" in cells["one", "test_bad.py"]["message"]


@pytest.mark.parametrize("words", [(), ONE], ids=["workers", "alone"])
def test_a_failure_outside_of_every_case_is_never_green(tmp_path: Path, words: tuple[str, ...]) -> None:
    status, cells, _ = run(tmp_path, {"good": GOOD + "def test_stray():\n    assert 1 == 2\n"}, *words)
    assert status == 10
    assert cells["one", "test_good.py::test_stray"]["code"] == "TEST-NO-CASE"
    assert cells["one", "test_good.py::test_good"]["verdict"] == "PASS"


@pytest.mark.parametrize("words", [(), ONE], ids=["workers", "alone"])
def test_stopping_at_the_first_failure_still_says_product_failure(tmp_path: Path, words: tuple[str, ...]) -> None:
    bad = """
@case("DAT-02", rule="does not hold")
@axis("n", range(6), prefix="n")
def test_bad(subject, n):
    expect_equal("one", 1, 2)
"""
    status, cells, _ = run(tmp_path, {"bad": bad}, "-x", *words)
    assert status == 1
    assert "NOT_RUN" in {cell["verdict"] for cell in cells.values()}


def test_a_killed_worker_leaves_what_it_had_judged(tmp_path: Path) -> None:
    killed = """
@case("DAT-02", rule="kills its worker")
@axis("n", range(4), prefix="n")
def test_killed(subject, n):
    expect_equal("judged before", n, n)
    if subject.platform.alias == "two" and n in (0, 3):
        os._exit(3)
"""
    status, cells, folder = run(tmp_path, {"killed": killed})
    assert status == 10
    for n in (0, 3):
        cell = cells["two", f"test_killed.py::test_killed[n{n}]"]
        assert (cell["verdict"], cell["code"]) == ("INFRA", "INFRA-WORKER-DIED")
        evidence = folder / cell["evidence"]
        assert json.loads((evidence / "registers.json").read_text(encoding="utf-8"))[0]["what"] == "judged before"
        assert json.loads((evidence / "verdict.json").read_text(encoding="utf-8"))["code"] == "INFRA-WORKER-DIED"
        assert verify_manifest(evidence) == []
    assert sum(cell["verdict"] == "PASS" for cell in cells.values()) == 6


def test_without_restarts_the_rest_of_the_host_is_not_run(tmp_path: Path) -> None:
    killed = """
@case("DAT-02", rule="kills its worker")
@axis("n", range(5), prefix="n")
def test_killed(subject, n):
    if subject.platform.alias == "two" and n == 1:
        os._exit(3)
"""
    status, cells, _ = run(tmp_path, {"killed": killed}, "--max-worker-restart=0")
    assert status == 10
    verdicts = [cells["two", f"test_killed.py::test_killed[n{n}]"]["verdict"] for n in range(5)]
    assert verdicts == ["PASS", "INFRA", "NOT_RUN", "NOT_RUN", "NOT_RUN"]


def test_no_message_can_break_a_report(tmp_path: Path) -> None:
    odd = r"""
@case("DAT-02", rule="says what no file can take")
def test_odd(subject):
    raise RegisterMismatch("null \x00 escape \x1b[31m no text \udcff <script>alert(1)</script> \ufffe")
"""
    status, _, folder = run(tmp_path, {"odd": odd}, *ONE)
    assert status == 1
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page
    assert "\x1b" not in page


def test_a_plain_xfail_hides_nothing(tmp_path: Path) -> None:
    plain = """
@case("DAT-02", rule="does not hold")
@pytest.mark.xfail(reason="no code, so no prediction")
def test_plain(subject):
    expect_equal("one", 1, 2)
"""
    status, cells, _ = run(tmp_path, {"plain": plain}, *ONE)
    assert status == 1
    assert cells["one", "test_plain.py::test_plain"]["verdict"] == "FAIL"


def test_no_sink_writes_a_secret(tmp_path: Path) -> None:
    leaky = """
from harness.inventory.secrets import Secret

@case("DAT-02", rule="quotes a secret everywhere")
def test_leaky(subject, request):
    text = Secret(env="LEAK").resolve().get_secret_value()
    subject.recorder.add_command(f"login {text}", 1, text.encode(), text.encode(), 0.0, 0.0)
    subject.recorder.add_file("file.raw", b"\\xff" + text.encode())
    subject.recorder.add_note(text)
    expect_equal(text, text, "another")
"""
    canary = "canary-7f3a91"
    status, cells, folder = run(tmp_path, {"leaky": leaky}, "--tb=short", LEAK=canary)
    assert status == 1
    assert "[redacted]" in cells["one", "test_leaky.py::test_leaky"]["message"]
    holding = [path for path in folder.rglob("*") if path.is_file() and canary.encode() in path.read_bytes()]
    assert holding == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
@pytest.mark.parametrize("words", [(), ONE], ids=["workers", "alone"])
def test_an_interrupted_run_answers_for_every_cell(tmp_path: Path, words: tuple[str, ...], number: int) -> None:
    slow = """
@case("DAT-02", rule="interrupts the run, then waits for its end")
@axis("n", range(4), prefix="n")
def test_slow(subject, n):
    import threading
    expect_equal("judged before", n, n)
    if n == 1 and subject.platform.alias == "one":
        number = int(os.environ["SIGNAL"])
        if number == 2:
            os.killpg(0, number)  # a terminal's Ctrl-C goes to everybody
        else:
            os.kill(os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid(), number)
        threading.Event().wait(40)
    elif n == 2:
        threading.Event().wait(40)
"""
    status, cells, folder = run(tmp_path, {"slow": slow}, *words, SIGNAL=str(int(number)))
    assert status == 2
    cut = cells["one", "test_slow.py::test_slow[n1]"]
    assert (cut["verdict"], cut["code"]) == ("NOT_RUN", "INFRA-NOT-STARTED")
    assert "while this cell ran" in cut["message"]
    assert verify_manifest(folder / cut["evidence"]) == []
    assert cells["one", "test_slow.py::test_slow[n0]"]["verdict"] == "PASS"
    assert cells["one", "test_slow.py::test_slow[n3]"]["verdict"] == "NOT_RUN"


def test_a_lost_host_is_told_once_and_the_rest_is_not_run(tmp_path: Path) -> None:
    lost = """
from harness.lab.session import BareSession

class Broken(Exception): ...

def explain(self, error):
    return HostLost("It does not come back.") if isinstance(error, Broken) else error

BareSession.explain = explain

@case("DAT-02", rule="loses a host")
@axis("n", range(4), prefix="n")
def test_lost(subject, n):
    if n == 1 and subject.platform.alias == "two":
        raise Broken
"""
    status, cells, _ = run(tmp_path, {"lost": lost})
    assert status == 10
    found = [cells["two", f"test_lost.py::test_lost[n{n}]"] for n in range(4)]
    assert [cell["verdict"] for cell in found] == ["PASS", "INFRA", "NOT_RUN", "NOT_RUN"]
    assert [cell["code"] for cell in found[1:3]] == ["INFRA-HOST-LOST", "INFRA-NOT-STARTED"]
    assert "It does not come back." in found[2]["message"]
    assert all(cell["verdict"] == "PASS" for (host, _), cell in cells.items() if host == "one")


def test_hosts_are_chosen_by_what_they_are(tmp_path: Path) -> None:
    status, cells, _ = run(tmp_path, {"good": GOOD}, "--hosts", "vendor == amd")
    assert status == 0
    assert {host for host, _ in cells} == {"two"}
