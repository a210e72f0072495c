"""Verdicts, their order, expectations and exit codes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from unittest.mock import Mock

import pytest

from harness import verdicts
from harness.errors import ConfigError, HostPanic, KernelMessage, NotStarted, RegisterMismatch, SshLost, TestDefect
from harness.results import CellPlan, CellRecorder, Outcome, judge, outcome_of
from harness.results.evidence import verify_manifest
from harness.results.run import exit_code
from harness.verdicts import Verdict, worst


def plan(*expected: tuple[str, str, str]) -> CellPlan:
    return CellPlan(
        "t.py::t[h]", "t.py::t", "DAT-01", "rule", "h", "platform", "intel", "bare", expected=tuple(expected)
    )


def verdict_of(error: Exception | None, *expected: tuple[str, str, str]) -> Verdict:
    outcome = outcome_of(error) if error is not None else None
    outcomes = [outcome] if outcome is not None else []
    if outcome is None:
        outcomes = [Outcome(Verdict.PASS)]
    return judge(plan(*expected), outcomes, started=0, duration=0, evidence="").verdict


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (RegisterMismatch("x"), Verdict.FAIL),
        (HostPanic("x"), Verdict.PANIC),
        (SshLost("x"), Verdict.INFRA),
        (NotStarted("x"), Verdict.NOT_RUN),
        (TestDefect("x"), Verdict.ERROR),
        (ConfigError("x"), Verdict.INFRA),
        (AssertionError("x"), Verdict.FAIL),
        (KeyError("x"), Verdict.ERROR),
    ],
)
def test_the_place_of_origin_decides(error: Exception, verdict: Verdict) -> None:
    assert verdict_of(error) is verdict


def test_an_assertion_of_the_harness_or_a_library_is_no_answer() -> None:
    """Only an assertion that a case itself makes is about the product."""
    with pytest.raises(AssertionError) as made_here:
        assert plan().expected, "nothing is expected"
    assert outcome_of(made_here.value).verdict is Verdict.FAIL
    with pytest.raises(AssertionError) as in_a_library:
        Mock().assert_called()
    assert outcome_of(in_a_library.value).verdict is Verdict.ERROR
    with pytest.raises(AssertionError) as in_the_harness:
        exec(compile("assert not 'an inner rule that was broken'", str(verdicts.__file__), "exec"))
    assert outcome_of(in_the_harness.value).verdict is Verdict.ERROR


def test_an_expected_failure_must_carry_its_code() -> None:
    gap = ("G-05", RegisterMismatch.code, "known")
    assert verdict_of(RegisterMismatch("x"), gap) is Verdict.XFAIL
    assert verdict_of(HostPanic("x"), gap) is Verdict.PANIC
    assert verdict_of(AssertionError("x"), gap) is Verdict.FAIL
    assert verdict_of(SshLost("x"), gap) is Verdict.INFRA
    assert verdict_of(None, gap) is Verdict.XPASS


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        (KernelMessage("lock order reversal"), Verdict.FAIL),
        (SshLost("x"), Verdict.INFRA),
        (HostPanic("x"), Verdict.PANIC),
        (RegisterMismatch("x"), Verdict.XFAIL),
    ],
)
def test_an_expected_failure_hides_nothing_that_comes_after_it(after: Exception, verdict: Verdict) -> None:
    outcomes = [Outcome(Verdict.PASS), outcome_of(RegisterMismatch("x")), outcome_of(after)]
    cell = judge(plan(("G-05", RegisterMismatch.code, "known")), outcomes, started=0, duration=0, evidence="")
    assert cell.verdict is verdict
    assert cell.code == outcome_of(after).code


def test_skips_count_only_alone() -> None:
    assert worst([Verdict.SKIP, Verdict.PASS]) is Verdict.PASS
    assert worst([Verdict.SKIP]) is Verdict.SKIP
    assert worst([]) is Verdict.NOT_RUN
    assert worst(Verdict) is Verdict.PANIC


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ({Verdict.PASS: 3, Verdict.SKIP: 1, Verdict.XFAIL: 1}, 0),
        ({Verdict.PASS: 3, Verdict.FAIL: 1, Verdict.INFRA: 1}, 1),
        ({Verdict.XPASS: 1}, 1),
        ({Verdict.PASS: 3, Verdict.NOT_RUN: 1}, 10),
        ({Verdict.PASS: 3, Verdict.FLAKY: 1}, 11),
        ({Verdict.SKIP: 3}, 5),
        ({}, 5),
    ],
)
def test_exit_codes_are_single_numbers(verdicts: dict[Verdict, int], code: int) -> None:
    assert exit_code(Counter(verdicts)) == code


def test_a_changed_byte_of_evidence_is_detected(tmp_path: Path) -> None:
    recorder = CellRecorder(tmp_path / "cell")
    recorder.add_command("uname", 0, b"FreeBSD\n", b"", 1.0, 0.1)
    recorder.add_file("console.raw", b"abc")
    recorder.add_file("console.raw", b"second")
    recorder.add_expectation("dr6", "0x1", "0x2", False)
    recorder.finish({"verdict": "FAIL"})
    assert verify_manifest(tmp_path / "cell") == []
    assert (tmp_path / "cell" / "console-2.raw").read_bytes() == b"second"
    (tmp_path / "cell" / "console.raw").write_bytes(b"abd")
    assert verify_manifest(tmp_path / "cell") == ["console.raw"]
