"""A selection that there is nothing of is told in one sentence, never passed over."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import NoSuchCase
from harness.plugin.wanted import require_known

ROOT = Path(__file__).resolve().parents[2]


def run(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness.cli", "run", "--lab=labs/emulated.toml", f"--run-dir={tmp_path}", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--case=DAT-01,RST-01",), "Repeat the option for each case: --case DAT-01 --case RST-01."),
        (("--case=DAT-01", "--case=DTA-*"), "No case matches --case 'DTA-*'."),
        (("--case=rst-01",), "No case matches --case 'rst-01'. Near it are RST-01"),
        (("--host=emuamd,bareamd",), "Repeat the option for each host: --host emuamd --host bareamd."),
        (("--host=bareamd", "--host=zen*"), "Lab 'emulated' has no host 'zen*'; it has emuintel"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_is_started(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    done = run(tmp_path, *words)
    assert done.returncode == 4, done.stdout
    assert said in done.stderr + done.stdout
    assert not list(tmp_path.iterdir())


def test_hosts_are_chosen_by_globs_too(tmp_path: Path) -> None:
    done = run(tmp_path, "--host=bare*", "--case=RST-01")
    assert done.returncode == 0, done.stdout
    assert "4 of 4 cells answered: 2 SKIP, 2 PASS" in done.stdout
    assert "selected no cell" not in done.stdout


def test_a_selection_that_leaves_nothing_is_no_success(tmp_path: Path) -> None:
    done = run(tmp_path, "--host=bareamd", "--case=DAT-01", "-k", "reset")
    assert done.returncode == 5, done.stdout
    assert "--case DAT-01 selected no cell together with -k 'reset' in suites" in done.stdout


def test_a_case_that_the_chosen_module_does_not_have_is_named(tmp_path: Path) -> None:
    done = run(tmp_path, "--host=bareamd", "--case=DAT-01", "--case=RST-01", "suites/test_reset.py")
    assert done.returncode == 0, done.stdout
    assert "--case DAT-01 selected no cell in suites/test_reset.py" in done.stdout


def test_a_case_that_no_suite_asks_is_told_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "catalogue.toml").write_text(
        '[SNP-09]\nrule = "one"\nvendors = ["amd"]\nrequirements = ["S1.1"]\nrefs = []\npriority = 3\nobserve = "S"\n'
        'open = "Saving needs a kernel that can."\n',
        encoding="utf-8",
    )
    with pytest.raises(NoSuchCase, match=r"--case SNP-\*: no suite asks SNP-09. Saving needs a kernel that can."):
        require_known(["SNP-*"], [tmp_path])
