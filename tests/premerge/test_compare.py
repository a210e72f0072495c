"""Two runs set against each other: exactly the right cells are worse, and the other way round they are fixed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness.cli import cli
from harness.errors import ConfigError
from harness.inventory.load import load_inventory
from harness.inventory.module import seeded_defect, with_module
from harness.premerge import Side, Step, compare_runs, describe, markdown, may_alternate, order_of

ROOT = Path(__file__).resolve().parents[2]


def cell(test: str, raw: str, *, verdict: str = "", code: str = "", host: str = "one") -> dict[str, Any]:
    code = code or {"FAIL": "PRODUCT-REGISTER-MISMATCH", "PANIC": "PRODUCT-PANIC", "INFRA": "INFRA-SSH-LOST"}.get(
        raw, ""
    )
    return {
        "host": host, "test": f"suites/test_x.py::{test}", "nodeid": test, "case": "DAT-01", "raw": raw,
        "verdict": verdict or raw, "code": code, "message": f"{test} said {raw}", "evidence": f"cells/{test}/{host}",
    }  # fmt: skip


def run(parent: Path, name: str, *cells: dict[str, Any]) -> Path:
    folder = parent / name
    folder.mkdir()
    hosts = {"one": {"vmm_sha256": name[0] * 64}}
    (folder / "results.json").write_text(json.dumps({"cells": cells, "hosts": hosts}))
    return folder


PAIRS = [
    (cell("t", "PASS"), cell("t", "FAIL"), Side.WORSE),
    (cell("t", "FAIL"), cell("t", "PASS"), Side.FIXED),
    (cell("t", "FAIL"), cell("t", "PANIC"), Side.WORSE),
    (cell("t", "PASS"), cell("t", "PASS"), Side.UNCHANGED),
    (cell("t", "SKIP"), cell("t", "SKIP"), Side.UNCHANGED),
    (cell("t", "FAIL"), cell("t", "FAIL"), Side.UNCHANGED),
    (cell("t", "FAIL"), cell("t", "FAIL", code="PRODUCT-HIT-MISMATCH"), Side.WORSE),
    # A predicted failure that a patch removes is red in its own run, and fixed here.
    (cell("t", "FAIL", verdict="XFAIL"), cell("t", "PASS", verdict="XPASS"), Side.FIXED),
    (cell("t", "PASS"), cell("t", "FAIL", verdict="XFAIL"), Side.WORSE),
    (cell("t", "PASS"), cell("t", "INFRA"), Side.NOT_COMPARABLE),
    (cell("t", "NOT_RUN"), cell("t", "FAIL"), Side.NOT_COMPARABLE),
    (cell("t", "PASS"), cell("t", "SKIP"), Side.NOT_COMPARABLE),
    (cell("t", "PASS"), cell("u", "PASS"), Side.NOT_COMPARABLE),
]


@pytest.mark.parametrize(("before", "after", "side"), PAIRS)
def test_each_pair_of_verdicts_has_its_side(
    tmp_path: Path, before: dict[str, Any], after: dict[str, Any], side: Side
) -> None:
    comparison = compare_runs(run(tmp_path, "b", before), run(tmp_path, "c", after))
    assert {entry.side for entry in comparison.differences} == {side}


def test_exit_codes_say_what_matters_most(tmp_path: Path) -> None:
    good, bad, lost = cell("a", "PASS"), cell("a", "FAIL"), cell("b", "INFRA")
    base = run(tmp_path, "base", good, cell("b", "PASS"))
    assert compare_runs(base, run(tmp_path, "same", good, cell("b", "PASS"))).exit_code == 0
    assert compare_runs(base, run(tmp_path, "worse", bad, lost)).exit_code == 1
    assert compare_runs(base, run(tmp_path, "lost", good, lost)).exit_code == 10


def test_a_difference_that_does_not_show_again_is_unstable(tmp_path: Path) -> None:
    base, candidate = run(tmp_path, "b", cell("t", "PASS")), run(tmp_path, "c", cell("t", "FAIL"))
    again = run(tmp_path, "b2", cell("t", "PASS")), run(tmp_path, "c2", cell("t", "FAIL"))
    once = run(tmp_path, "b3", cell("t", "PASS")), run(tmp_path, "c3", cell("t", "PASS"))
    confirmed = compare_runs(base, candidate, [again])
    assert confirmed.of(Side.WORSE)[0].attempts == ("PASS", "FAIL")
    assert confirmed.exit_code == 1
    shaky = compare_runs(base, candidate, [again, once])
    assert shaky.of(Side.UNSTABLE)[0].attempts == ("PASS", "FAIL", "PASS", "PASS")
    assert shaky.exit_code == 10


def test_the_comment_names_the_cells(tmp_path: Path) -> None:
    comparison = compare_runs(run(tmp_path, "b", cell("t[x|y]", "PASS")), run(tmp_path, "c", cell("t[x|y]", "FAIL")))
    text = markdown(comparison, base="stock", candidate="patch:fix.diff")
    assert "**1 cells are worse**" in text
    assert "| one | DAT-01 | `t[x|y]` | PRODUCT-REGISTER-MISMATCH: t[x\\|y] said FAIL |" in text
    assert f"- one: vmm.ko `{'b' * 16}` against `{'c' * 16}` (SHA-256)" in text


def test_runs_that_share_the_cells_are_one_side(tmp_path: Path) -> None:
    bases = [run(tmp_path, "b1", cell("t", "PASS")), run(tmp_path, "b2", cell("u", "FAIL"))]
    candidates = [run(tmp_path, "c1", cell("t", "FAIL")), run(tmp_path, "c2", cell("u", "PASS"))]
    comparison = compare_runs(bases, candidates)
    assert [entry.test[-1] for entry in comparison.of(Side.WORSE)] == ["t"]
    assert [entry.test[-1] for entry in comparison.of(Side.FIXED)] == ["u"]
    assert comparison.modules == {"one": ("b" * 64, "c" * 64)}


def test_the_same_module_on_both_sides_is_told(tmp_path: Path) -> None:
    comparison = compare_runs(run(tmp_path, "x1", cell("t", "PASS")), run(tmp_path, "x2", cell("t", "PASS")))
    assert comparison.same_module == ("one",)
    assert "Both sides ran the same vmm.ko on 'one'" in markdown(comparison, base="stock", candidate="ko:a")


def test_modules_alternate_where_that_is_cheap() -> None:
    emulated = load_inventory(ROOT / "labs" / "emulated.toml").host
    example = load_inventory(ROOT / "labs" / "example.toml").host
    real = {alias: host for alias, host in example.items() if host.kind == "freebsd"}
    assert real
    assert may_alternate(real, ("stock", "ko:vmm.ko"), asked=None)[0]
    assert may_alternate(real, ("ref:main", "stock"), asked=None) == (False, "'ref:main' is built for every run")
    assert may_alternate(emulated, ("stock", "stock"), asked=None) == (False, "'emuintel' is booted for every run")
    assert may_alternate(emulated, ("stock", "stock"), asked=True)[0]
    steps = order_of(["m", "n"], alternate=True)
    assert [(step.side[0], step.group) for step in steps] == [("b", "m"), ("c", "m"), ("c", "n"), ("b", "n")]
    assert "each of 2 suite modules" in describe(steps, alternate=True, why="x")
    assert order_of([], alternate=False) == [Step("baseline"), Step("candidate")]


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    good = run(tmp_path, "good", cell("t", "PASS"))
    with pytest.raises(ConfigError, match="not a finished run"):
        compare_runs(tmp_path, good)
    with pytest.raises(ConfigError, match="nothing to compare"):
        compare_runs(run(tmp_path, "empty"), good)
    done = CliRunner().invoke(cli, ["compare", str(good), str(tmp_path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 4


def test_modules_are_named_on_the_command_line(tmp_path: Path) -> None:
    lab = load_inventory(ROOT / "labs" / "emulated.toml")
    emulated = lab.host["emuamd"]
    assert with_module("emuamd", emulated, "stock") == emulated
    assert with_module("emuamd", emulated, "defect:svm-clean-cr") == emulated
    assert (seeded_defect("defect:svm-clean-cr"), seeded_defect("stock")) == ("svm-clean-cr", "")
    module = tmp_path / "vmm.ko"
    module.write_bytes(b"x")
    for wrong, said in (
        (f"ko:{module}", "emulated host"), ("ko:/none/vmm.ko", "does not exist"), ("nonsense", "names no module"),
        ("ref:", "names no module"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            with_module("emuamd", emulated, wrong)


@pytest.mark.parametrize("word", ["--run-dir=elsewhere", "--module=stock", "--defect"])
def test_what_premerge_decides_itself_cannot_be_handed_on(word: str) -> None:
    command = [sys.executable, "-m", "harness.cli", "premerge", f"--lab={ROOT / 'labs/emulated.toml'}"]
    done = subprocess.run([*command, "--candidate=stock", word], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "premerge decides itself where its runs are" in done.stderr


def test_a_seeded_defect_on_an_emulated_host(tmp_path: Path) -> None:
    words = ["--host=emuamd", "--case=ISO-04", "--base=stock", "--candidate=defect:svm-host-dr6-not-restored"]
    command = [sys.executable, "-m", "harness.cli", "premerge", f"--lab={ROOT / 'labs/emulated.toml'}", *words]
    done = subprocess.run(
        [*command, f"--out={tmp_path / 'out'}"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "= FAILURES =" not in done.stdout, "our own summary says it already"
    data = json.loads((tmp_path / "out" / "comparison.json").read_text())
    worse = [entry for entry in data["cells"] if entry["side"] == "worse"]
    assert worse
    assert {entry["case"] for entry in worse} == {"ISO-04"}
    assert all("dr6" in entry["why"] for entry in worse)
    assert all(
        (tmp_path / "out" / folder / "manifest.json").exists() for entry in worse for folder in entry["evidence"]
    )
    assert "One whole run with each module, the baseline first ('emuamd' is booted for every run)." in done.stdout
    assert data["order"] == [
        {"side": side, "suite": "", "run": run.name}
        for side, run in zip(("baseline", "candidate"), sorted((tmp_path / "out" / "runs").iterdir()), strict=True)
    ]
    assert len(set(data["modules"]["emuamd"])) == 2

    # The other way round, in turn, with cells of another suite module that nothing changes.
    words = ["--case=ISO-04", "--case=RST-01", "--base=defect:svm-host-dr6-not-restored", "--candidate=stock"]
    command = [*command[:5], "--host=emuamd", *words, "--interleave", f"--out={tmp_path / 'reverse'}"]
    back = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert back.returncode == 0, back.stdout + back.stderr
    reverse = json.loads((tmp_path / "reverse" / "comparison.json").read_text())
    assert {(entry["side"], entry["host"], entry["test"]) for entry in reverse["cells"]} == {
        ("fixed", entry["host"], entry["test"]) for entry in worse
    }
    assert [entry["side"] for entry in reverse["order"]] == ["baseline", "candidate", "candidate", "baseline"]
    assert reverse["totals"]["unchanged"] > 0
    assert reverse["runs"]["baseline"] == [reverse["order"][0]["run"], reverse["order"][3]["run"]]
    assert f"#### Fixed ({len(worse)})" in (tmp_path / "reverse" / "comparison.md").read_text()
