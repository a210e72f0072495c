"""What counts as a catch, what is a survivor, and what the catalogue must say of every defect."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cases import REQUIREMENTS
from harness.errors import ConfigError
from harness.sensitivity import Defect, Finding, Matrix, State, TaskResult, load_catalogue, missing_defects, write_views
from harness.sensitivity.catalogue import APPLIES, CATALOGUE, load_unobservable
from harness.sensitivity.matrix import CaseRow
from harness.sensitivity.sample import Effort, covering
from harness.sensitivity.worker import Task, why_stop
from harness.verdicts import Verdict

DEFECT = Defect("svm-x", "S1.3", ("amd",), "Summary.", "do", "undoing", (r"\bdr3\b",))


def finding(name: str, verdict: Verdict, code: str = "", what: str = "", requirement: str = "S1.3") -> Finding:
    return Finding(f"{name}[emuamd]", f"suites/{name}", name, (requirement,), verdict, code, what, "message", 0.1)


MISMATCH = finding("ISO-06", Verdict.FAIL, "PRODUCT-REGISTER-MISMATCH", "dr3")


def matrix(*found: Finding, clean: Verdict = Verdict.PASS, planned: int = 0, seconds: float = 0.1) -> Matrix:
    result = TaskResult("svm-x", "amd", found, planned or len(found), 1.0)
    correct = {
        ("amd", one.nodeid): replace(one, verdict=clean, code="", what="", seconds=seconds) for one in found
    }
    cases = {"amd": [CaseRow(one.case, "A rule.", one.requirements) for one in found]}
    return Matrix((DEFECT,), ("amd",), True, (), cases, {("svm-x", "amd"): result}, correct)


@pytest.mark.parametrize(
    ("found", "state"),
    [
        ((MISMATCH,), State.CAUGHT),
        ((finding("ISO-06", Verdict.PANIC, "PRODUCT-RESET-UNEXPLAINED", "dr3"),), State.CAUGHT),
        ((finding("ISO-06", Verdict.PASS),), State.SURVIVED),
        ((finding("ISO-06", Verdict.SKIP),), State.SURVIVED),
        ((finding("ISO-06", Verdict.FAIL, "PRODUCT-REGISTER-MISMATCH", "dr0"),), State.REASON),
        ((finding("ISO-06", Verdict.FAIL, "PRODUCT-REGISTER-MISMATCH", "dr3", "S1.4"),), State.OTHERS),
        ((finding("ISO-06", Verdict.INFRA, "INFRA-SSH-LOST", "dr3"),), State.UNDECIDED),
        ((finding("ISO-06", Verdict.ERROR, "TEST-DEFECT", "dr3"),), State.UNDECIDED),
        ((finding("ISO-06", Verdict.XPASS, "PRODUCT-UNEXPECTED-PASS", "dr3"),), State.SURVIVED),
        ((), State.UNDECIDED),
    ],
)
def test_only_a_product_failure_of_the_requirement_is_a_catch(found: tuple[Finding, ...], state: State) -> None:
    assert matrix(*found).row(DEFECT, "amd").state is state


def test_a_cell_that_the_correct_hypervisor_fails_as_well_says_nothing() -> None:
    for verdict in set(Verdict) - {Verdict.PASS, Verdict.XFAIL}:
        assert matrix(MISMATCH, clean=verdict).row(DEFECT, "amd").state is not State.CAUGHT
    unknown = matrix(MISMATCH)
    unknown.clean.clear()
    assert unknown.row(DEFECT, "amd").state is not State.CAUGHT


def test_a_cell_that_fails_otherwise_than_predicted_is_a_catch() -> None:
    assert matrix(MISMATCH, clean=Verdict.XFAIL).row(DEFECT, "amd").state is State.CAUGHT
    # With the failure that was predicted the cell accuses nobody, defect or not.
    predicted = replace(MISMATCH, verdict=Verdict.XFAIL)
    assert matrix(predicted, clean=Verdict.XFAIL).row(DEFECT, "amd").state is State.SURVIVED


def test_a_slow_guest_is_not_taken_for_a_hanging_one() -> None:
    hang = finding("STP-08", Verdict.FAIL, "PRODUCT-GUEST-HANG", "dr3")
    assert matrix(hang, seconds=0.2).row(DEFECT, "amd").state is State.CAUGHT
    assert matrix(hang, seconds=20).row(DEFECT, "amd").state is not State.CAUGHT


def test_a_defect_of_which_cells_were_left_out_did_not_survive() -> None:
    assert matrix(finding("ISO-06", Verdict.PASS), planned=2).row(DEFECT, "amd").state is State.UNDECIDED


def test_exit_codes() -> None:
    assert matrix(MISMATCH).exit_code() == 0
    assert matrix(finding("ISO-06", Verdict.PASS)).exit_code() == 1
    assert matrix(finding("ISO-06", Verdict.INFRA, "INFRA-SSH-LOST")).exit_code() == 10
    lacking = matrix(MISMATCH)
    lacking.missing = (("S4.1", "amd"),)
    assert lacking.exit_code() == 1
    failing = matrix(MISMATCH)
    failing.clean["amd", "other"] = finding("REG-01", Verdict.FAIL, "PRODUCT-REGISTER-MISMATCH")
    assert failing.exit_code() == 1


def test_cases_that_nothing_made_fail_are_named() -> None:
    found = matrix(MISMATCH, finding("REG-01", Verdict.PASS), finding("REG-02", Verdict.SKIP))
    assert found.unproven() == [("REG-01", "amd")]


def test_the_views_tell_of_survivors_first(tmp_path: Path) -> None:
    found = matrix(MISMATCH)
    found.defects = (DEFECT, replace(DEFECT, id="svm-<y>"))
    found.results["svm-<y>", "amd"] = TaskResult("svm-<y>", "amd", (finding("ISO-06", Verdict.PASS),), 1, 1.0)
    found.facts = {"run": "r", "at": "now", "jobs": 1, "cores": 1, "wall_seconds": 1.0, "cpu_seconds": 1.0,
                   "cells": {"defects": 2, "clean": 1}, "workers_lost": []}  # fmt: skip
    write_views(found, tmp_path)
    page, text = ((tmp_path / f"sensitivity.{ending}").read_text(encoding="utf-8") for ending in ("html", "md"))
    assert "1 of 2 defects caught" in page
    assert "svm-&lt;y&gt;" in page
    assert page.index("svm-&lt;y&gt;") < page.index("svm-x")
    assert text.index("svm-<y>") < text.index("svm-x")
    assert not re.search(r"(?:src|href)=[\"'](?!runs|defects)[a-z]+:", page)
    data = json.loads((tmp_path / "sensitivity.json").read_text(encoding="utf-8"))
    assert [row["state"] for row in data["defects"]] == ["survived", "caught"]
    assert data["exit_code"] == 1


def test_stopping() -> None:
    early = Task(DEFECT, "amd", Effort(1, 1), True)
    other = finding("X", Verdict.FAIL, "PRODUCT-MISMATCH", "dr3", "S1.4")
    wrong = finding("X", Verdict.FAIL, "PRODUCT-MISMATCH", "dr1")
    hang = finding("X", Verdict.FAIL, "PRODUCT-GUEST-HANG")
    assert why_stop(early, [MISMATCH])
    assert why_stop(early, [other])
    assert not why_stop(early, [wrong])
    assert not why_stop(replace(early, early=False), [MISMATCH])
    assert why_stop(replace(early, early=False), [hang, hang, hang])
    assert not why_stop(replace(early, defect=None), [hang, hang, hang])


# --- sample ------------------------------------------------------------------------------------------------------


def test_the_sample_takes_the_last_variant_and_then_what_is_new() -> None:
    variants = [[a, b] for a in ("dr0", "dr1", "dr2") for b in ("none", "cpuid")]
    first = [variants[index] for index in covering(variants)][:3]
    assert first == [["dr2", "cpuid"], ["dr1", "none"], ["dr0", "cpuid"]]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("xyz")), min_size=1, max_size=16, unique=True))
def test_the_sample_repeats_nothing_and_covers_every_value(variants: list[tuple[str, str]]) -> None:
    order = covering(variants)
    assert sorted(order) == list(range(len(variants)))
    values = {(axis, value) for variant in variants for axis, value in enumerate(variant)}
    first = {(axis, value) for index in order[:7] for axis, value in enumerate(variants[index])}
    assert first == values


# --- catalogue ---------------------------------------------------------------------------------------------------


def test_the_catalogue_has_a_defect_for_every_requirement() -> None:
    defects = load_catalogue()
    assert len(defects) >= 40
    assert missing_defects(defects, ("intel", "amd")) == []
    assert set(APPLIES) == set(REQUIREMENTS)


def test_every_switch_of_the_reference_hypervisor_is_in_the_catalogue() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (CATALOGUE.parent / "include").glob("defects_*.def"))
    switches = {name.lower().replace("_", "-") for name in re.findall(r"^DEFECT\((\w+)\)", text, re.MULTILINE)}
    assert switches == {defect.id for defect in load_catalogue()}


def test_a_requirement_without_a_defect_is_named() -> None:
    assert ("S2.1", "amd") in missing_defects([DEFECT], ("amd",))
    assert ("S1.3", "amd") not in missing_defects([DEFECT], ("amd",))


def test_what_cannot_be_observed_is_told_in_every_view(tmp_path: Path) -> None:
    known = load_unobservable()
    assert known
    found = matrix(MISMATCH)
    found.facts = {"run": "r", "at": "now", "jobs": 1, "cores": 1, "wall_seconds": 1.0, "cpu_seconds": 1.0,
                   "cells": {"defects": 1, "clean": 1}, "workers_lost": []}  # fmt: skip
    write_views(found, tmp_path)
    data = json.loads((tmp_path / "sensitivity.json").read_text(encoding="utf-8"))
    assert [entry["change"] for entry in data["unobservable"]] == [one.change for one in known if "amd" in one.vendors]
    for ending in ("md", "html"):
        assert known[0].why[:40] in (tmp_path / f"sensitivity.{ending}").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "entry",
    [
        'requirement = "S1.4"\nvendors = ["amd"]\nchange = "c"',
        'requirement = "S1.5"\nvendors = ["amd"]\nchange = "c"\nwhy = "w"',
        'requirement = "S1.4"\nvendors = []\nchange = "c"\nwhy = "w"',
    ],
)
def test_what_cannot_be_observed_needs_a_reason_and_its_vendors(tmp_path: Path, entry: str) -> None:
    path = tmp_path / "defects.toml"
    path.write_text(f"[[unobservable]]\n{entry}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="unobservable"):
        load_unobservable(path)


def test_the_intel_half_may_have_defects_of_what_it_has_the_counterpart_of() -> None:
    names = {defect.requirement for defect in load_catalogue() if "intel" in defect.vendors}
    assert names >= {"S2.1", "S3.3"}
    # They are additions: no defect is missing where a requirement does not speak of the vendor.
    assert all("intel" in APPLIES[requirement] for requirement, _ in missing_defects([], ("intel",)))


def test_mistakes_of_a_catalogue_are_all_told(tmp_path: Path) -> None:
    path = tmp_path / "defects.toml"
    path.write_text(
        """
[[defect]]
id = "one"
requirement = "S9.9"
vendors = ["amd"]
summary = "s"
real = "r"
[[defect]]
id = "two"
requirement = "S1.5"
vendors = ["amd"]
summary = "s"
real = "r"
fixed_by = "f"
symptoms = ["("]
colour = "red"
""",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError) as raised:
        load_catalogue(path)
    for mistake in ("one lacks fixed_by", "S9.9", "two is for amd; S1.5 is for intel", "colour", "regular expression"):
        assert mistake in raised.value.message
