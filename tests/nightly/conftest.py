"""Finished runs, written by the project's own code as a run writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.nightly import Night, night_of_run
from harness.results import Cell, CellPlan, Run
from harness.verdicts import Verdict

MakeRun = Callable[..., Path]
MakeNight = Callable[..., Night]

_CODES = {Verdict.FAIL: "PRODUCT-REGISTER-MISMATCH", Verdict.PANIC: "PRODUCT-HOST-PANIC",
          Verdict.XFAIL: "PRODUCT-REGISTER-MISMATCH", Verdict.INFRA: "INFRA-SSH-LOST",
          Verdict.NOT_RUN: "INFRA-NOT-STARTED", Verdict.ERROR: "TEST-DEFECT"}  # fmt: skip


def _cell(key: str, told: str, kind: str, platform: str) -> Cell:
    """``key`` is ``host/variant``, ``told`` a verdict with a code behind it where another one than usual is meant."""
    host, _, variant = key.partition("/")
    word, _, code = told.partition(" ")
    verdict = Verdict(word)
    raw = {Verdict.XFAIL: Verdict.FAIL, Verdict.XPASS: Verdict.PASS}.get(verdict, verdict)
    test = f"suites/test_x.py::test_rule[{variant}]"
    plan = CellPlan(f"{test}@{host}", test, "DAT-01", "a rule", host, platform, "amd", kind)
    code = code or _CODES.get(verdict, "")
    return Cell(plan, verdict, raw, code, f"{variant} said {word}", evidence=f"cells/{variant}/{host}")


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """``make_run({"zen/a": "PASS"}, day=1, module="aa")``: a finished run folder of that day."""

    def make(
        cells: dict[str, str], *, day: int = 1, module: str = "aa", kind: str = "freebsd", title: str = "",
        lab: str = "lab", revision: str = "rev1", **facts: Any,
    ) -> Path:  # fmt: skip
        run = Run.create(tmp_path / "runs", lab=lab, arguments=[], hosts={})
        recipe = json.loads((run.folder / "run.json").read_text())
        recipe["started"] = 1_700_000_000 + day * 86400
        recipe["controller"]["revision"] = revision
        (run.folder / "run.json").write_text(json.dumps(recipe))
        made = [_cell(key, told, kind, title or f"zen4 ({key.partition('/')[0]})") for key, told in cells.items()]
        run.add_plan(cell.plan for cell in made)
        for cell in made:
            run.add(cell)
        for host in {cell.plan.host for cell in made}:
            run.hosts[host] = {"vmm_sha256": module * 32, "release": "15.0-RELEASE", **facts}
        run.finish(0)
        return run.folder

    return make


@pytest.fixture
def make_night(make_run: MakeRun, tmp_path: Path) -> MakeNight:
    return lambda *args, **words: night_of_run(make_run(*args, **words), tmp_path / "history")
