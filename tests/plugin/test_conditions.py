"""Predictions that hold for some machines only: ranges against measured facts, and what an unknown fact leaves open."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape

from harness.cases import Expected
from harness.catalogue import load_gaps
from harness.conditions import Conditions
from harness.errors import ConfigError
from harness.plugin.predictions import decide
from harness.report.html import write_html
from harness.results import CellPlan, judge, read_run
from harness.results.cells import Outcome
from harness.verdicts import Verdict

ROOT = Path(__file__).resolve().parents[2]
FACTS = {
    "release": "13.2-RELEASE-p4", "cpu_family": "25", "cpu_model": "33", "cpu_stepping": "2",
    "microcode": "0x0a201210", "vmm": "hw.vmm.svm.features: 5199\nhw.vmm.vmx.cap.virtual_interrupt_delivery: 0",
}  # fmt: skip


@pytest.mark.parametrize(
    ("conditions", "holds"),
    [
        (Conditions(), True),
        (Conditions(releases=">=13.0,<14"), True),
        (Conditions(releases=">=14"), False),
        (Conditions(family="0x17, 0x19..0x1a"), True),
        (Conditions(family="0x17"), False),
        (Conditions(model="33", stepping="..1"), False),
        (Conditions(microcode="..0x0a20120f"), False),
        (Conditions(microcode="..0x0a201210"), True),
        (Conditions(microcode="0x0a201211.."), False),
        (Conditions(sysctl={"hw.vmm.vmx.cap.virtual_interrupt_delivery": "0"}), True),
        (Conditions(sysctl={"hw.vmm.vmx.cap.virtual_interrupt_delivery": "1"}), False),
        (Conditions(sysctl={"hw.vmm.no.such": "0"}), None),
        # What is known to be false decides, whatever else is unknown.
        (Conditions(family="0x17", sysctl={"hw.vmm.no.such": "0"}), False),
    ],
)
def test_ranges_are_held_against_facts(conditions: Conditions, holds: bool | None) -> None:
    assert conditions.judge(FACTS).holds is holds


@pytest.mark.parametrize("fact", ["release", "cpu_family", "microcode"])
def test_a_fact_that_is_not_known_decides_nothing(fact: str) -> None:
    conditions = Conditions(releases=">=13", family="0x19", microcode="..0x0a201210")
    assert conditions.judge(FACTS).holds is True
    holds, why = conditions.judge({**FACTS, fact: ""})
    assert holds is None
    assert "is not known" in why


def test_only_freebsd_is_asked_for_its_release() -> None:
    entry = Expected("G-99", "PRODUCT-HIT-MISMATCH", "said", when=(Conditions(releases=">=14"),))
    assert entry.holds("bochs", FACTS).holds is False
    assert entry.holds("emulated", FACTS).holds is True


def plan() -> CellPlan:
    return CellPlan("n", "t", "DAT-01", "rule", "host", "heading", "amd", "freebsd")


def failed(code: str = "PRODUCT-HIT-MISMATCH") -> Outcome:
    return Outcome(Verdict.FAIL, code, "It did not fire.")


def test_the_decision_makes_the_verdict_and_is_told() -> None:
    entry = Expected("ERRATUM-X", "PRODUCT-HIT-MISMATCH", "said", when=(Conditions(microcode="..0x0a201210"),))
    for microcode, verdict, said in (
        ("0x0a201210", Verdict.XFAIL, "ERRATUM-X PRODUCT-HIT-MISMATCH holds: microcode 0x0a201210 is in"),
        ("0x0a201213", Verdict.FAIL, "does not hold"),
        ("", Verdict.FAIL, "not decided: microcode of the host is not known"),
    ):
        predictions = decide([entry], "freebsd", {**FACTS, "microcode": microcode})
        cell = predictions.note(judge(predictions.narrow(plan()), [failed()], started=0, duration=0, evidence=""))
        assert cell.verdict is verdict
        assert said in predictions.told[0]
        assert ("ERRATUM-X may predict it" in cell.message) is (microcode == "")
    # A fixed microcode makes a pass what it should be; where nobody knows, nothing unexpected is claimed.
    for microcode, verdict in (("0x0a201210", Verdict.XPASS), ("0x0a201213", Verdict.PASS), ("", Verdict.PASS)):
        predictions = decide([entry], "freebsd", {**FACTS, "microcode": microcode})
        passed = judge(predictions.narrow(plan()), [Outcome(Verdict.PASS)], started=0, duration=0, evidence="")
        assert passed.verdict is verdict


def test_an_entry_that_holds_by_one_of_its_places_holds() -> None:
    old, new = (
        Expected("G-99", "PRODUCT-HIT-MISMATCH", "said", when=(Conditions(family=family),))
        for family in ("0x17", "0x19")
    )
    assert [id for id, _, _ in decide([old, new], "freebsd", FACTS).expected] == ["G-99"]


GAP = """
[[gap]]
id = "ERRATUM-TEST"
vendors = ["intel"]
source = "x.c"
reason = "predicted"
cases = ["DAT-05"]
cpus = "some"
review = {review}
when = {when}
[[gap.shows]]
case = "DAT-05"
code = "PRODUCT-REGISTER-MISMATCH"
evidence = "measured"
"""
SUITE = """
from harness.cases import case
from harness.expect import expect_register
from harness.guest import Program


@case("DAT-05", rule="is wrong")
def test_wrong(subject):
    subject.run(Program("x"))
    expect_register("dr7", 1, 2)
"""


def pytest_in(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "harness.plugin", "test_suite.py", *arguments],
        cwd=tmp_path, env={**inherited, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


def run(tmp_path: Path, when: str, *more: str, review: str = "2999-01-01") -> tuple[dict[str, Any], str, int]:
    """One run of a failing case on an emulated host: its results, what it printed, its exit status."""
    (tmp_path / "gaps.toml").write_text(GAP.format(when=when, review=review), encoding="utf-8")
    (tmp_path / "test_suite.py").write_text(SUITE, encoding="utf-8")
    done = pytest_in(tmp_path, "--lab", str(ROOT / "labs/emulated.toml"), "--host", "emuintel", *more)
    found = max((tmp_path / "runs").glob("*/results.json"), default=None, key=lambda path: path.stat().st_mtime)
    results = json.loads(found.read_text(encoding="utf-8")) if found else {}
    if found:
        results["folder"] = str(found.parent)
    return results, done.stdout + done.stderr, done.returncode


def test_a_run_holds_ranges_against_what_it_measured(tmp_path: Path) -> None:
    facts, _, _ = run(tmp_path, '{ family = "6" }')
    (cell,) = facts["cells"]
    assert cell["verdict"] == "XFAIL"
    assert facts["hosts"]["emuintel"]["cpu_family"] == "6"
    assert cell["predictions"] == ["ERRATUM-TEST PRODUCT-REGISTER-MISMATCH holds: family 6 is in '6'"]
    verdict = json.loads((Path(facts["folder"]) / cell["evidence"] / "verdict.json").read_text(encoding="utf-8"))
    assert verdict["predictions"] == ["ERRATUM-TEST PRODUCT-REGISTER-MISMATCH holds: family 6 is in '6'"]
    results, said, status = run(tmp_path, '{ family = "0x19" }')
    (cell,) = results["cells"]
    assert (cell["verdict"], cell["expected"], status) == ("FAIL", [], 1), said
    told = "ERRATUM-TEST PRODUCT-REGISTER-MISMATCH does not hold: family 6 is not in '0x19'"
    assert cell["predictions"] == [told]
    assert str(escape(told)) in (Path(results["folder"]) / "report.html").read_text(encoding="utf-8")


def test_an_overdue_review_is_told_at_the_end_of_a_run(tmp_path: Path) -> None:
    yesterday = (date.today() - timedelta(days=1)).isoformat()
    results, said, _ = run(tmp_path, '{ family = "6" }', review=yesterday)
    line = f"ERRATUM-TEST was to be looked at again by {yesterday}"
    assert f"review: {line}" in said
    folder = Path(results["folder"])
    page = (folder / "report.html").read_bytes()
    assert line in page.decode()
    assert results["reviews"][0].startswith(line)
    # Written again from results.json, whatever day it is then.
    write_html(read_run(folder))
    assert (folder / "report.html").read_bytes() == page
    results, said, _ = run(tmp_path, '{ family = "6" }')
    assert "review:" not in said
    assert "reviews" not in results
    assert "to look at again" not in (Path(results["folder"]) / "report.html").read_text(encoding="utf-8")


def test_mistakes_in_ranges_are_told_at_once(tmp_path: Path) -> None:
    when = '{ family = "zen", model = "9..1", releases = "all", colour = "red" }'
    (tmp_path / "gaps.toml").write_text(GAP.format(when=when, review="2999-01-01"), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_gaps(tmp_path)
    for part in ("range 'zen' for 'family'", "range '9..1'", "releases 'all'", "unknown condition 'colour'"):
        assert part in caught.value.message


def test_skips_beyond_a_budget_are_no_green_run(tmp_path: Path) -> None:
    skips = SUITE.replace("1, 2)", "1, 1)") + """

@case("DAT-06", rule="cannot be seen here", needs=("a-crystal-ball",))
def test_skipped(subject):
    raise AssertionError
"""
    (tmp_path / "test_suite.py").write_text(skips, encoding="utf-8")
    lab = 'schema = 1\nlab = "test"\n[host.one]\nkind = "bare"\nvendor = "intel"\n'
    for budget, more, expected in (
        ("40", (), 10), ("50", (), 0), ("40", ("--case", "DAT-*"), 0), ("50", ("--skip-budget", "0"), 10),
    ):  # fmt: skip
        (tmp_path / "lab.toml").write_text(f"{lab}skip_budget = {budget}\n", encoding="utf-8")
        done = pytest_in(tmp_path, "--lab", "lab.toml", *more)
        assert done.returncode == expected, done.stdout
        assert ("skip budget of one exceeded: 1 of 2 cells (50.0 %) were skipped" in done.stdout) is (expected == 10)
    results = max((tmp_path / "runs").glob("*/results.json"), key=lambda path: path.stat().st_mtime)
    data = json.loads(results.read_text(encoding="utf-8"))
    assert data["skips"] == {"one": {"skipped": 1, "planned": 2, "allowed_percent": 0, "over": True}}
    assert data["exit_code"] == 10
    page = (results.parent / "report.html").read_text(encoding="utf-8")
    assert re.search(r'class="part FAIL">one: 1 of 2 \(0 % allowed: exceeded\)', page)
    assert "<b>1</b> needs capability &#39;a-crystal-ball&#39;" in page


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("[[gap]]", "[[gaps]]"), "unknown heading 'gaps'"),
        (("[[gap]]", "[gap]"), "'gap' is no list of tables"),
        (("review = 2999-01-01", "review = 2999-01-01T12:00:00"), "'review' that is no date"),
        (('family = "6"', 'family = "06"'), "range '06' for 'family'"),
    ],
)
def test_a_mistake_never_takes_predictions_away_in_silence(tmp_path: Path, wrong: tuple[str, str], said: str) -> None:
    text = GAP.format(when='{ family = "6" }', review="2999-01-01")
    (tmp_path / "gaps.toml").write_text(text.replace(*wrong).replace(
        "[[gap.shows]]", "[[gaps.shows]]" if wrong[1] == "[[gaps]]" else "[[gap.shows]]"), encoding="utf-8")
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_gaps(tmp_path)
