"""One step of git bisect: good and bad only of answers, everything else skips or stops."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness.bisect import Answer, Judgement, judge_confirmed, judge_run
from harness.cli import cli
from harness.cli.launch import absolute
from harness.errors import BuildFailed
from harness.inventory.model import Builder
from harness.lab.undertest import build

ROOT = Path(__file__).resolve().parents[2]
EMULATED = f"--lab={ROOT / 'labs' / 'emulated.toml'}"


def cell(told: str, host: str = "one") -> dict[str, Any]:
    """``verdict code`` as an entry of results.json."""
    verdict, _, code = told.partition(" ")
    raw = {"XFAIL": "FAIL", "XPASS": "PASS"}.get(verdict, verdict)
    return {"verdict": verdict, "raw": raw, "code": code, "message": "why", "host": host, "test": "suites/t.py::test_t"}


FAIL, OTHER = "FAIL PRODUCT-HOST-STATE", "FAIL PRODUCT-HIT-MISMATCH"
RUNS: list[tuple[tuple[str, ...], str, Answer]] = [
    (("PASS", "PASS"), "", Answer.GOOD),
    (("PASS", "SKIP"), "", Answer.GOOD),
    (("PASS", "XFAIL PRODUCT-HOST-STATE"), "", Answer.GOOD),
    (("PASS", FAIL), "", Answer.BAD),
    (("PASS", "PANIC PRODUCT-HOST-PANIC"), "", Answer.BAD),
    (("PASS", "XPASS PRODUCT-UNEXPECTED-PASS"), "", Answer.BAD),
    (("INFRA INFRA-SSH-LOST", FAIL), "", Answer.BAD),
    ((FAIL,), "PRODUCT-HOST-STATE", Answer.BAD),
    ((OTHER, FAIL), "PRODUCT-HOST-STATE", Answer.BAD),
    # Predicted, and asked for by its code.
    (("XFAIL PRODUCT-HOST-STATE",), "PRODUCT-HOST-STATE", Answer.BAD),
    (("XFAIL PRODUCT-HIT-MISMATCH",), "PRODUCT-HOST-STATE", Answer.GOOD),
    ((OTHER,), "PRODUCT-HOST-STATE", Answer.SKIP),
    (("PASS",), "PRODUCT-HOST-STATE", Answer.GOOD),
    (("SKIP", "SKIP"), "", Answer.SKIP),
    (("PASS", "FLAKY"), "", Answer.SKIP),
    (("PASS", "INFRA INFRA-SSH-LOST"), "", Answer.SKIP),
    (("PASS", "ERROR TEST-DEFECT"), "", Answer.SKIP),
    (("PASS", "NOT_RUN INFRA-NOT-STARTED"), "", Answer.SKIP),
    (("ERROR TEST-DEFECT",), "", Answer.SKIP),
    (("INFRA CONFIG-MODULE-BUILD", "NOT_RUN INFRA-NOT-STARTED"), "", Answer.SKIP),
    (("INFRA INFRA-MODULE-REFUSED", "INFRA INFRA-MODULE-REFUSED"), "", Answer.SKIP),
    (("INFRA INFRA-SSH-UNREACHABLE", "NOT_RUN INFRA-NOT-STARTED"), "", Answer.ABORT),
    (("INFRA INFRA-HOST-LOST",), "", Answer.ABORT),
    (("INFRA CONFIG-INVALID",), "", Answer.ABORT),
    ((), "", Answer.ABORT),
]


@pytest.mark.parametrize(("told", "code", "answer"), RUNS)
def test_what_a_run_says_of_a_commit(told: tuple[str, ...], code: str, answer: Answer) -> None:
    assert judge_run([cell(one) for one in told], code).answer is answer


def test_bad_has_to_show_again() -> None:
    bad, good, lost, gone = (
        Judgement(answer, "why") for answer in (Answer.BAD, Answer.GOOD, Answer.SKIP, Answer.ABORT)
    )
    assert judge_confirmed(bad, [bad, bad]).answer is Answer.BAD
    assert judge_confirmed(bad, [bad, good]).answer is Answer.SKIP
    assert judge_confirmed(bad, [lost]).answer is Answer.SKIP
    assert judge_confirmed(bad, [gone]).answer is Answer.ABORT
    assert judge_confirmed(good, []).answer is Answer.GOOD


@pytest.mark.parametrize(
    "words", [[], ["--lab", "/none.toml", "--case", "X"], [EMULATED, "--case", "X", "--confirm", "no"], [EMULATED]]
)
def test_wrong_words_never_make_a_commit_bad(words: list[str]) -> None:
    assert CliRunner().invoke(cli, ["bisect", *words]).exit_code == 128


def test_trouble_of_our_own_never_makes_a_commit_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    # The package has a command of the same name as the module.
    monkeypatch.setattr(sys.modules["harness.cli.bisect"], "launch_run", broken)
    assert CliRunner().invoke(cli, ["bisect", EMULATED, "--case", "X"]).exit_code == 128


def test_files_are_named_from_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute(["--module=ko:vmm.ko", "--module", "patch:a.diff", "--host", "ko:x", "--module=ref:main"]) == [
        f"--module=ko:{tmp_path}/vmm.ko", "--module", f"patch:{tmp_path}/a.diff", "--host", "ko:x", "--module=ref:main",
    ]  # fmt: skip


def test_sources_that_do_not_build_are_told_from_a_wrong_inventory(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with pytest.raises(BuildFailed, match="status 3"):
        build(Builder(source=str(source), command=("sh", "-c", "exit 3; {source} {output}")), tmp_path / "work")
    with pytest.raises(BuildFailed, match="wrote no"):
        build(Builder(source=str(source), command=("true", "{source}", "{output}")), tmp_path / "work")
    patch = tmp_path / "wrong.diff"
    patch.write_text("--- a/none\n+++ b/none\n@@ -1 +1 @@\n-x\n+y\n")
    builder = Builder(source=str(source), command=("true", "{source}", "{output}"), patches=(str(patch),))
    with pytest.raises(BuildFailed, match="does not apply"):
        build(builder, tmp_path / "work")


def test_git_finds_the_commit_that_seeded_a_defect(tmp_path: Path) -> None:
    """A real git bisect with real runs: commits carry the name of the module that their kernel has."""
    repository, runs = tmp_path / "repository", tmp_path / "runs"
    repository.mkdir()
    git = ["git", "-C", str(repository), "-c", "user.name=x", "-c", "user.email=x@example.org"]

    def ask(*words: str) -> str:
        return subprocess.run([*git, *words], check=True, capture_output=True, text=True).stdout

    ask("init", "-q")
    for number, module in enumerate(["stock", "stock", "defect:svm-host-dr6-not-restored"]):
        (repository / "module").write_text(f"{module}\n# {number}\n")
        ask("add", "-A")
        ask("commit", "-qm", f"commit {number}")
    ask("bisect", "start", "HEAD", "HEAD~2")
    words = f"{EMULATED} --host emuamd --case ISO-04 -k cpuid --confirm 0 --run-dir {runs}"
    step = f'"{sys.executable}" -m harness.cli bisect {words} --module "$(head -n 1 module)"'
    told = ask("bisect", "run", "sh", "-c", step)
    assert "commit 2" in told
    assert "first bad commit" in told
    assert "bisect: good (0)" in told


def test_a_cancelled_run_ends_with_verdicts_and_is_known_by_its_process(tmp_path: Path) -> None:
    """SIGTERM to us interrupts the run once: it writes its results, and they are found."""
    program = (
        "import sys; from pathlib import Path; from harness.cli.launch import launch_run;"
        f"done = launch_run(Path({str(ROOT / 'labs/emulated.toml')!r}), Path({str(tmp_path)!r}),"
        " ['--host=bareamd', '--case=DAT-*']); print('ended', done.status, done.folder)"
    )
    command, out = [sys.executable, "-c", program], subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("[bareamd "):
                break
        os.kill(process.pid, signal.SIGTERM)
        rest = process.stdout.read()
        assert process.wait(120) == 0
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert f"ended 2 {folder}" in rest
    assert '"NOT_RUN"' in (folder / "results.json").read_text()
