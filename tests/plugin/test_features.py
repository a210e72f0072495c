"""A CPU feature that the guest is not offered is a reason to skip, known only when the guest has run."""

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


def test_a_missing_feature_is_a_skip_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE, encoding="utf-8")
    lab = 'schema = 1\nlab = "test"\n[host.one]\nkind = "bare"\nvendor = "intel"\n'
    (tmp_path / "lab.toml").write_text(lab, encoding="utf-8")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "harness.plugin", "test_suite.py", "--lab", "lab.toml"],
        cwd=tmp_path, env={**inherited, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(next((tmp_path / "runs").glob("*/results.json")).read_text(encoding="utf-8"))
    found = {cell["test"].partition("[")[2]: (cell["verdict"], cell["message"]) for cell in results["cells"]}
    assert found["avx]"] == ("PASS", "")
    assert found["rtm]"] == ("SKIP", "needs the CPU feature rtm, which CPUID does not offer to the guest")
