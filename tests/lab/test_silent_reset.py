"""A probe that takes a host down without a word: the verdict is that one case's, and the queue goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SUITE = '''
from harness.cases import case
from harness.guest import Program


def guest():
    program = Program("guest")
    program.execute("hostile_bases", 0x0BAD_0000, 0x1000, 0x2000)
    program.exit("cpuid", 20)
    return program


@case("X-01", rule="before", needs=("observe",))
def test_1_before(subject):
    subject.run(guest())


@case("X-02", rule="probed", needs=("observe",))
def test_2_probed(subject):
    with subject.host.observe():
        subject.run(guest())


@case("X-03", rule="after", needs=("observe",))
def test_3_after(subject):
    subject.run(guest())


@case("X-04", rule="listed", needs=("observe",))
def test_4_listed(subject):
    assert len(subject.host.probes("fbt:vmm:svm_launch:")) == 2
'''
LAB = 'schema = 1\nlab = "one"\n[host.one]\nkind = "emulated"\nvendor = "amd"\n'


def run(tmp_path: Path, *options: str) -> dict[str, dict[str, Any]]:
    """Cells by the names of their tests."""
    (tmp_path / "test_probed_suite.py").write_text(SUITE, encoding="utf-8")
    (tmp_path / "lab.toml").write_text(LAB, encoding="utf-8")
    runs = tmp_path / "runs"
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-p", "harness.plugin", "test_probed_suite.py", "--lab", "lab.toml",
            "--run-dir", str(runs), *options,
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    found = list(runs.glob("*/results.json"))
    assert found, done.stdout + done.stderr
    cells = json.loads(found[0].read_text(encoding="utf-8"))["cells"]
    return {cell["test"].rpartition("::")[2]: cell for cell in cells}


def test_gs_base_restored_by_the_caller(tmp_path: Path) -> None:
    cells = run(tmp_path, "--defect", "svm-gsbase-by-caller")
    probed = cells.pop("test_2_probed")
    assert (probed["verdict"], probed["code"]) == ("PANIC", "PRODUCT-RESET-UNEXPLAINED"), probed
    assert [cell["verdict"] for cell in cells.values()] == ["PASS"] * 3, cells


def test_the_same_cases_without_the_defect(tmp_path: Path) -> None:
    cells = run(tmp_path)
    assert [cell["verdict"] for cell in cells.values()] == ["PASS"] * 4, cells
