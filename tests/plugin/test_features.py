"""What decides about a cell beside its host: CPU features of the guest, and failures predicted beside the suite."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SUITE = """
from harness.cases import axis, case, require_feature
from harness.expect import expect_equal
from harness.guest import Program


@case("DAT-05", rule="needs a feature")
@axis("feature", ("avx", "rtm"))
def test_with_a_feature(subject, feature):
    program = Program("nothing")
    program.note()
    require_feature(getattr(subject.run(program).features, feature), feature)
    expect_equal("one", 1, 1)
"""


def run(tmp_path: Path, suite: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "test_suite.py").write_text(suite, encoding="utf-8")
    lab = 'schema = 1\nlab = "test"\n[host.one]\nkind = "bare"\nvendor = "intel"\n'
    (tmp_path / "lab.toml").write_text(lab, encoding="utf-8")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "harness.plugin", "test_suite.py", "--lab", "lab.toml"],
        cwd=tmp_path, env={**inherited, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


def test_a_missing_feature_is_a_skip_that_names_it(tmp_path: Path) -> None:
    done = run(tmp_path, SUITE)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(next((tmp_path / "runs").glob("*/results.json")).read_text(encoding="utf-8"))
    found = {cell["test"].partition("[")[2]: (cell["verdict"], cell["message"]) for cell in results["cells"]}
    assert found["avx]"] == ("PASS", "")
    assert found["rtm]"] == ("SKIP", "needs the CPU feature rtm, which CPUID does not offer to the guest")


GAP = """
[[gap]]
id = "G-99"
vendors = ["intel"]
source = "x.c"
reason = "predicted"
cases = ["DAT-05"]
cpus = "every"
releases = ">=10.0"
review = 2027-01-01
[[gap.shows]]
case = "DAT-05"
code = "PRODUCT-REGISTER-MISMATCH"
test = "test_wrong*"
variant = ["{variant}"]
evidence = "measured"
"""

WRONG = """
from harness.cases import axis, case
from harness.expect import expect_register


@case("DAT-05", rule="is wrong")
@axis("n", (1, 2), prefix="n")
def test_wrong_twice(subject, n):
    expect_register("dr7", 1, 2)


@case("DAT-05", rule="is right")
@axis("n", (1, 2), prefix="n")
def test_right(subject, n):
    expect_register("dr7", 1, 1)
"""


def test_what_is_predicted_beside_the_suite_is_expected_there_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "gaps.toml").write_text(GAP.format(variant="n1"), encoding="utf-8")
    done = run(tmp_path, WRONG)
    assert done.returncode == 1, done.stdout + done.stderr
    results = json.loads(next((tmp_path / "runs").glob("*/results.json")).read_text(encoding="utf-8"))
    found = {cell["test"].partition("::")[2]: cell["verdict"] for cell in results["cells"]}
    assert found == {
        "test_wrong_twice[n1]": "XFAIL", "test_wrong_twice[n2]": "FAIL", "test_right[n1]": "PASS",
        "test_right[n2]": "PASS",
    }  # fmt: skip
    # What it speaks of does not fail any more: red, so that the file stays true.
    (tmp_path / "test_suite.py").unlink()
    assert run(tmp_path, WRONG.replace("1, 2)\n\n", "1, 1)\n\n")).returncode == 1
    newest = max((tmp_path / "runs").glob("*/results.json"), key=lambda path: path.stat().st_mtime)
    cells = json.loads(newest.read_text(encoding="utf-8"))["cells"]
    assert [cell["verdict"] for cell in cells if cell["test"].endswith("test_wrong_twice[n1]")] == ["XPASS"]


def test_a_mistake_in_what_is_predicted_is_told_before_anything_runs(tmp_path: Path) -> None:
    text = GAP.format(variant="n1").replace("PRODUCT-REGISTER-MISMATCH", "PRODUCT-NOTHING")
    (tmp_path / "gaps.toml").write_text(text, encoding="utf-8")
    done = run(tmp_path, WRONG)
    assert done.returncode == 4
    assert "G-99 names codes PRODUCT-NOTHING; known are" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "runs").exists()
