"""Allure's results say what the run's own do, with evidence; and pages that are written again come out the same."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.catalogue import load_catalogue
from harness.report.allure import categories, links_of
from harness.results import Cell, CellPlan
from harness.verdicts import Verdict

ROOT = Path(__file__).resolve().parents[2]


def vmmcheck(*words: str, path: str = "") -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PATH": path or os.environ["PATH"]}
    command = [sys.executable, "-m", "harness.cli", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with passed, skipped and predicted cells of an emulated host."""
    parent = tmp_path_factory.mktemp("runs")
    done = vmmcheck("run", "--host=emuamd", "--host=bareamd", "--case=API-06", "--case=API-03", f"--run-dir={parent}")
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = parent.iterdir()
    return folder


def results(run: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in (run / "allure-results").glob("*-result.json")]
    assert len({one["fullName"] for one in found}) == len(found)
    return {one["fullName"]: one for one in found}


def test_every_cell_has_a_result_in_the_category_of_its_code(run: Path) -> None:
    cells = json.loads((run / "results.json").read_text())["cells"]
    shown = results(run)
    assert shown.keys() == {cell["nodeid"] for cell in cells}
    assert {cell["verdict"] for cell in cells} == {"PASS", "SKIP", "XFAIL"}
    page = (run / "report.html").read_text()
    known = categories()
    assert json.loads((run / "allure-results" / "categories.json").read_text()) == known
    for cell in cells:
        one = shown[cell["nodeid"]]
        labels = {(label["name"], label["value"]) for label in one["labels"]}
        wanted = {("verdict", cell["verdict"]), ("feature", cell["case"]), ("host", cell["host"])}
        assert wanted <= labels
        links = {link["name"]: link["url"] for link in one["links"]}
        assert links[f"{cell['case']} on all hosts"] == f"../report.html#{cell['case']}"
        assert f'<tr id="{cell["case"]}"' in page
        assert ("evidence" in links) == bool(cell["evidence"])
        if cell["evidence"]:
            assert (run / "allure-results" / links["evidence"]).is_file()
        if cell["verdict"] == "PASS":
            assert one["status"] == "passed"
            continue
        message = one["statusDetails"]["message"]
        matching = [
            entry["name"] for entry in known
            if one["status"] in entry["matchedStatuses"] and re.fullmatch(entry["messageRegex"], message, re.DOTALL)
        ]  # fmt: skip
        expected = {"SKIP": "Not applicable here", "XFAIL": "Predicted gap or erratum, seen as declared"}
        assert matching == [expected[cell["verdict"]]]


def test_references_lead_to_their_manuals() -> None:
    references = ("SDM3 17.2.5", "APM2 13.1.1.4?", "unknown 3")
    plan = CellPlan("n", "t", "DAT-01", "rule", "one", "Bare", "amd", "bare", references=references)
    links = {link.name: link.url for link in links_of(Cell(plan, Verdict.PASS, Verdict.PASS))}
    assert list(links) == [
        "DAT-01 on all hosts", "Intel SDM vol. 3, 17.2.5", "AMD APM vol. 2, 13.1.1.4 (section unverified)",
    ]  # fmt: skip
    assert links["Intel SDM vol. 3, 17.2.5"].startswith("https://www.intel.com/")


def test_every_reference_of_the_case_list_names_a_manual() -> None:
    for id, entry in load_catalogue(ROOT / "suites").items():
        for reference in entry.refs:
            plan = CellPlan("n", "t", id, "rule", "one", "Bare", "amd", "bare", references=(reference,))
            assert len(list(links_of(Cell(plan, Verdict.PASS, Verdict.PASS)))) == 2, f"{id}: {reference}"


def test_what_did_not_pass_brings_its_evidence_and_its_commands(run: Path) -> None:
    cells = json.loads((run / "results.json").read_text())["cells"]
    predicted = [cell for cell in cells if cell["verdict"] == "XFAIL"]
    assert predicted
    for cell in predicted:
        one, evidence = results(run)[cell["nodeid"]], run / cell["evidence"]
        names = {entry["name"]: entry["source"] for entry in one["attachments"]}
        assert names.keys() == {path.name for path in evidence.iterdir()}
        assert {"commands.jsonl", "program.txt", "verdict.json"} <= names.keys()
        for name, source in names.items():
            assert (run / "allure-results" / source).read_bytes() == (evidence / name).read_bytes()
        told = [json.loads(line)["command"] for line in (evidence / "commands.jsonl").read_text().splitlines()]
        assert [step["name"] for step in one["steps"]] == [command[:160] for command in told]
        assert any("--set-dr7" in step["name"] for step in one["steps"])


def test_pages_written_again_are_the_same(run: Path) -> None:
    def pages() -> dict[str, bytes]:
        views = [run / "junit.xml", run / "ctrf.json", run / "report.html", *(run / "allure-results").iterdir()]
        return {path.name: path.read_bytes() for path in views}

    before = pages()
    done = vmmcheck("report", str(run), "--no-allure")
    assert done.returncode == 0, done.stderr
    assert pages() == before


def test_a_missing_program_and_a_missing_run_are_one_sentence(run: Path, tmp_path: Path) -> None:
    done = vmmcheck("report", str(run), path=str(tmp_path))
    assert done.returncode == 4
    assert "the program 'allure' is not on this machine. Install it with: npm install" in done.stderr
    done = vmmcheck("report", str(run), "--previous", str(tmp_path))
    assert done.returncode == 4
    assert f"'{tmp_path}' is no Allure report: it has no folder 'history'." in done.stderr
    done = vmmcheck("report", str(tmp_path))
    assert done.returncode == 4
    assert "is not the folder of a finished run" in done.stderr
    assert "Traceback" not in done.stderr
