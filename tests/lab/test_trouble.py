"""What a cell is when its host goes down, hangs, loses its link, or its worker dies: the whole path, for real."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.matrix import matrix_of_runs
from harness.trouble.invariants import complete, same_everywhere

ROOT = Path(__file__).resolve().parents[2]

SUITE = '''
"""A suite whose middle item makes trouble on some of its hosts."""
import os
from pathlib import Path

from harness.cases import case
from harness.guest import Program
from harness.lab.power import SimulatedPower

KINDS = dict(pair.split("=") for pair in os.environ["TROUBLE"].split(","))


def quiet():
    program = Program("quiet")
    program.exit("cpuid", 10)
    return program


@case("ISO-01", rule="before")
def test_1_before(subject):
    subject.run(quiet())


@case("ISO-02", rule="trouble")
def test_2_trouble(subject):
    program = quiet()
    program.sync(1)
    program.exit("busy", 50)
    with subject.start(program) as guest:
        guest.wait_phase(1)
        kind = KINDS.get(subject.platform.alias)
        if kind is not None:
            state = Path(os.environ["TROUBLE_RUNS"]).glob(f"*/hosts/{subject.platform.alias}/emulated")
            control = SimulatedPower(next(state) / "control")
            if kind == "worker":
                os._exit(9)
            elif kind == "host":
                os.kill(__import__("json").loads((control._path.parent / "ready.json").read_text())["pid"], 9)
            elif kind == "emulator":
                ready = __import__("json").loads((control._path.parent / "ready.json").read_text())
                os.kill(ready["bochs_pid"], 9)
            else:
                control.ask({"op": "misbehave", "kind": kind})
                assert kind != "stuck-cpu", "as a case that fails"
            while True:
                guest.registers("dr7")
        guest.go()
        guest.finish()


@case("ISO-03", rule="after")
def test_3_after(subject):
    subject.run(quiet())
'''

HOST = """
[host.{alias}]
kind = "emulated"
vendor = "{vendor}"
"""


def run(
    tmp_path: Path, kinds: Mapping[str, str], vendors: Mapping[str, str]
) -> tuple[int, dict[tuple[str, str], dict[str, Any]]]:
    """A run on hosts of these vendors and on ``quiet``, with a kind of trouble on each of ``kinds``."""
    hosts = {**vendors, "quiet": "amd"}
    suite = tmp_path / "test_trouble_suite.py"
    suite.write_text(SUITE, encoding="utf-8")
    lab = tmp_path / "lab.toml"
    entries = [HOST.format(alias=alias, vendor=vendor) for alias, vendor in hosts.items()]
    lab.write_text("".join(('schema = 1\nlab = "trouble"\n', *entries)), encoding="utf-8")
    runs = tmp_path / "runs"
    told = ",".join(f"{alias}={kind}" for alias, kind in kinds.items())
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "harness.plugin", suite.name, "--lab", lab.name, "--run-dir", str(runs)],
        cwd=tmp_path,
        env={**environment, "TROUBLE": told, "TROUBLE_RUNS": str(runs), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    found = list(runs.glob("*/results.json"))
    assert found, done.stdout + done.stderr
    results = json.loads(found[0].read_text(encoding="utf-8"))
    assert results["planned"] == len(results["cells"]) == 3 * len(hosts)
    folder = found[0].parent
    assert complete(folder, done.returncode) + same_everywhere(folder) == []
    matrix_and_terminal(folder, results["cells"], done.stdout)
    cells = {(cell["host"], cell["test"].rpartition("::")[2]): cell for cell in results["cells"]}
    return done.returncode, cells


def matrix_and_terminal(folder: Path, cells: list[dict[str, Any]], terminal: str) -> None:
    """Matrix and terminal say of each cell what results.json says, and nothing else."""
    expected = {(cell["host"], cell["test"].rpartition("::")[2]): cell["verdict"] for cell in cells}
    matrix = matrix_of_runs([folder], folder / "matrix", {})
    counts: Counter[tuple[str, str, str]] = Counter()
    for entry in matrix.entries:
        for host in entry.hosts:
            for verdict, number in host.counts.items():
                counts[host.host, entry.case, str(verdict)] += number
            for test, verdict in host.others.items():
                assert expected[host.host, test.rpartition("::")[2]] == verdict
    # Every case here is one cell on each host, so this is cell by cell.
    assert counts == Counter((cell["host"], cell["case"], cell["verdict"]) for cell in cells)

    (line,) = [line for line in terminal.splitlines() if "cells answered:" in line]
    told = {verdict: int(number) for number, verdict in re.findall(r"(\d+) ([A-Z_]+)", line.partition("answered:")[2])}
    assert told == dict(Counter(expected.values()))


@pytest.mark.parametrize(
    ("kind", "vendor", "verdict", "code"),
    [
        ("panic", "intel", "PANIC", "PRODUCT-HOST-PANIC"),
        ("reset", "amd", "PANIC", "PRODUCT-RESET-UNEXPLAINED"),
        ("emulator", "amd", "PANIC", "PRODUCT-HOST-HANG"),
        ("stuck-cpu", "amd", "PANIC", "PRODUCT-CPU-STUCK"),
        ("drop-link", "intel", "INFRA", "INFRA-SSH-LOST"),
        ("worker", "amd", "INFRA", "INFRA-WORKER-DIED"),
    ],
)
def test_trouble_ends_as_what_it_is(tmp_path: Path, kind: str, vendor: str, verdict: str, code: str) -> None:
    status, cells = run(tmp_path, {"troubled": kind}, {"troubled": vendor})
    troubled = cells["troubled", "test_2_trouble"]
    assert (troubled["verdict"], troubled["code"]) == (verdict, code), troubled
    # Everything else has its verdict as if nothing had been: the queue went on, the other host saw nothing.
    others = [cell for key, cell in cells.items() if key != ("troubled", "test_2_trouble")]
    assert [cell["verdict"] for cell in others] == ["PASS"] * 5, others
    assert status == (1 if verdict == "PANIC" else 10)


def test_a_host_that_is_gone_for_good_is_the_labs_matter_and_the_rest_of_it_is_not_run(tmp_path: Path) -> None:
    status, cells = run(tmp_path, {"troubled": "host"}, {"troubled": "intel"})
    troubled = cells["troubled", "test_2_trouble"]
    assert (troubled["verdict"], troubled["code"]) == ("INFRA", "INFRA-HOST-LOST"), troubled
    behind = cells["troubled", "test_3_after"]
    assert (behind["verdict"], behind["code"]) == ("NOT_RUN", "INFRA-NOT-STARTED"), behind
    assert {cell["verdict"] for key, cell in cells.items() if key[0] == "quiet"} == {"PASS"}
    assert status == 10


def test_all_views_agree_on_a_run_with_several_troubles(tmp_path: Path) -> None:
    """A worker killed, a host panicked and a host lost, in one run: :func:`run` holds the views against each other."""
    kinds = {"killed": "worker", "panicked": "panic", "lost": "host"}
    status, cells = run(tmp_path, kinds, {"killed": "amd", "panicked": "intel", "lost": "intel"})
    assert {alias: cells[alias, "test_2_trouble"]["code"] for alias in kinds} == {
        "killed": "INFRA-WORKER-DIED", "panicked": "PRODUCT-HOST-PANIC", "lost": "INFRA-HOST-LOST",
    }  # fmt: skip
    assert {cell["verdict"] for key, cell in cells.items() if key[0] == "quiet"} == {"PASS"}
    assert status == 1
