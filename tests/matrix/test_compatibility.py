"""The matrix: worst verdicts, realms apart, disagreement and holes visible, the same bytes twice."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness.catalogue import load_catalogue
from harness.cli import cli
from harness.errors import ConfigError
from harness.matrix import changes, load_matrix, matrix_of_runs, merge, write_matrix
from harness.matrix.model import Realm, Row
from harness.verdicts import Verdict

ROWS = {
    name: Row(case=name, rule=f"rule of {name}", requirements=("S1.1",), priority=1) for name in ("DAT-01", "ISO-01")
}


def cell(
    case: str, host: str, verdict: str, *, variant: str = "a", kind: str = "freebsd", **more: Any
) -> dict[str, Any]:
    """One entry of results.json."""
    return {
        "case": case,
        "test": f"suites/test_x.py::test_{case.lower().replace('-', '_')}[{variant}]",
        "host": host,
        "platform": f"zen4 ({host})" if kind == "freebsd" else "EMULATED amd (ryzen)",
        "vendor": "amd",
        "kind": kind,
        "requirements": ["S1.1"],
        "verdict": verdict,
        "code": "PRODUCT-REGISTER-MISMATCH" if verdict == "FAIL" else "",
        "evidence": f"cells/{case}-{variant}/{host}",
        **more,
    }


def run_folder(parent: Path, name: str, cells: list[dict[str, Any]], *, started: float = 1000.0) -> Path:
    folder = parent / name
    for entry in cells:
        (folder / entry["evidence"]).mkdir(parents=True, exist_ok=True)
    hosts = {entry["host"]: {"release": "15.0-RELEASE", "vmm_sha256": "ab" * 32} for entry in cells}
    (folder / "results.json").write_text(json.dumps({"run": name, "hosts": hosts, "cells": cells}))
    (folder / "run.json").write_text(json.dumps({"started": started}))
    return folder


def test_the_worst_variant_of_the_worst_host_counts(tmp_path: Path) -> None:
    cells = [
        cell("DAT-01", "one", "PASS"), cell("DAT-01", "one", "FAIL", variant="b"), cell("DAT-01", "two", "PASS"),
        cell("DAT-01", "two", "PASS", variant="b"),
    ]  # fmt: skip
    made = matrix_of_runs([run_folder(tmp_path, "r1", cells)], tmp_path / "out", ROWS, planned=ROWS)
    (column,) = made.columns
    assert (column.title, column.realm, column.hosts) == ("zen4", Realm.HARDWARE, ("one", "two"))
    entry = made.entry("DAT-01", column.id)
    assert entry is not None
    assert entry.verdict is Verdict.FAIL
    assert [name.rpartition("::")[2] for name in entry.disagree] == ["test_dat_01[b]"]
    assert (tmp_path / "out" / entry.evidence).resolve() == tmp_path / "r1" / "cells/DAT-01-b/one"
    # Planned, and in no run: a row with a hole.
    assert [row.case for row in made.rows] == ["DAT-01", "ISO-01"]
    assert made.entry("ISO-01", column.id) is None


def test_realms_are_never_one_column(tmp_path: Path) -> None:
    cells = [cell("DAT-01", "real", "PASS"), cell("DAT-01", "emu", "FAIL", kind="emulated")]
    made = matrix_of_runs([run_folder(tmp_path, "r", cells)], tmp_path, ROWS)
    assert [(column.realm, column.hosts) for column in made.columns] == [
        (Realm.HARDWARE, ("real",)),
        (Realm.EMULATED, ("emu",)),
    ]
    text = write_matrix(made, tmp_path / "out")[2].read_text()
    assert "no statement about hardware" in text


def test_what_was_not_answered_is_seen_and_is_no_disagreement(tmp_path: Path) -> None:
    cells = [cell("DAT-01", "one", "PASS"), cell("DAT-01", "two", "INFRA", code="INFRA-SSH-LOST")]
    made = matrix_of_runs([run_folder(tmp_path, "r", cells)], tmp_path, ROWS)
    (entry,) = made.entries
    assert entry.verdict is Verdict.INFRA
    assert entry.disagree == ()


def test_a_later_run_of_a_host_counts(tmp_path: Path) -> None:
    old = run_folder(tmp_path, "old", [cell("DAT-01", "one", "FAIL"), cell("ISO-01", "one", "FAIL")], started=1.0)
    new = run_folder(tmp_path, "new", [cell("DAT-01", "one", "PASS")], started=2.0)
    for order in ([old, new], [new, old]):
        made = matrix_of_runs(order, tmp_path, ROWS)
        assert {entry.case: entry.verdict for entry in made.entries} == {
            "DAT-01": Verdict.PASS,
            "ISO-01": Verdict.FAIL,
        }


def test_two_renderings_are_the_same_bytes(tmp_path: Path) -> None:
    folders = [run_folder(tmp_path, f"r{n}", [cell("DAT-01", f"h{n}", "PASS")], started=n) for n in range(3)]
    written = []
    for name, order in (("a", folders), ("b", folders[::-1])):
        paths = write_matrix(matrix_of_runs(order, tmp_path / "out", ROWS), tmp_path / name)
        written.append([path.read_bytes() for path in paths])
    assert written[0] == written[1]


def test_json_comes_back_whole_and_merges_with_its_evidence(tmp_path: Path) -> None:
    one = matrix_of_runs([run_folder(tmp_path, "r1", [cell("DAT-01", "one", "PASS")])], tmp_path / "a", ROWS)
    two = matrix_of_runs([run_folder(tmp_path, "r2", [cell("DAT-01", "two", "FAIL")])], tmp_path / "b/c", ROWS)
    write_matrix(one, tmp_path / "a")
    write_matrix(two, tmp_path / "b/c")
    loaded = [(load_matrix(tmp_path / name / "matrix.json"), tmp_path / name) for name in ("a", "b/c")]
    assert [matrix for matrix, _ in loaded] == [one, two]
    both = merge(loaded, tmp_path / "d")
    (entry,) = both.entries
    assert [host.host for host in entry.hosts] == ["one", "two"]
    assert entry.disagree
    assert all((tmp_path / "d" / host.evidence).resolve().is_dir() for host in entry.hosts)


def test_diff_tells_worse_from_better(tmp_path: Path) -> None:
    before = [cell("DAT-01", "one", "PASS"), cell("ISO-01", "one", "FAIL")]
    after = [cell("DAT-01", "one", "FAIL"), cell("ISO-01", "one", "PASS")]
    made = [
        matrix_of_runs([run_folder(tmp_path, name, cells)], tmp_path, ROWS)
        for name, cells in (("b", before), ("a", after))
    ]
    assert [(change.case, change.worse) for change in changes(*made)] == [("DAT-01", True), ("ISO-01", False)]
    assert changes(made[0], made[0]) == []
    for name, matrix in zip("xy", made, strict=True):
        write_matrix(matrix, tmp_path / name)
    runner = CliRunner()
    paths = [str(tmp_path / name / "matrix.json") for name in "xy"]
    worse = runner.invoke(cli, ["matrix", "diff", *paths])
    assert (worse.exit_code, "worse   DAT-01" in worse.output) == (1, True)
    assert runner.invoke(cli, ["matrix", "diff", paths[0], paths[0]]).exit_code == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "is no matrix"), ('{"schema_version": 1}', "at runs"), ("[]", "is no matrix")],
)
def test_a_file_that_is_no_matrix_is_told(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "matrix.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_matrix(path)


def test_a_folder_that_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a finished run"):
        matrix_of_runs([tmp_path], tmp_path, ROWS)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ConfigError, match="it has no cells"):
        matrix_of_runs([tmp_path], tmp_path, ROWS)


def test_the_csv_has_a_line_for_each_host_and_case(tmp_path: Path) -> None:
    cells = [cell("DAT-01", "one", "PASS"), cell("DAT-01", "two", "FAIL"), cell("ISO-01", "one", "SKIP")]
    made = matrix_of_runs([run_folder(tmp_path, "r", cells)], tmp_path, ROWS)
    lines = list(csv.DictReader(write_matrix(made, tmp_path / "out")[3].read_text().splitlines()))
    assert [(line["case"], line["host"], line["verdict"]) for line in lines] == [
        ("DAT-01", "one", "PASS"),
        ("DAT-01", "two", "FAIL"),
        ("ISO-01", "one", "SKIP"),
    ]


def large_run(parent: Path, hosts: int = 24) -> Path:
    """Every listed case on many hosts, three of a class, with all kinds of verdicts."""
    verdicts = ["PASS"] * 17 + ["FAIL", "SKIP", "XFAIL"]
    cells = []
    for number, case in enumerate(load_catalogue()):
        for host in range(hosts):
            verdict = verdicts[(number * 7 + host // 3 * 5) % len(verdicts)]
            verdict = "INFRA" if (number, host) == (3, 5) else "PASS" if (number, host) == (11, 1) else verdict
            platform = f"class{host // 3} (host{host})"
            cells.append(cell(case, f"host{host}", verdict, platform=platform))
    return run_folder(parent, "large", cells)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium (apt-get install chromium)")
def test_the_page_filters_in_a_real_browser(tmp_path: Path) -> None:
    listed = load_catalogue()
    rows = {id: Row(case=id, rule=e.rule, requirements=tuple(e.requirements), priority=1) for id, e in listed.items()}
    page = write_matrix(matrix_of_runs([large_run(tmp_path)], tmp_path / "out", rows), tmp_path / "out")[1]

    def shown(query: str) -> set[str]:
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        done = subprocess.run(
            [*command, "--dump-dom", f"{page.as_uri()}#{query}"], capture_output=True, text=True, timeout=60, check=True
        )
        found = re.findall(r'<tr class="case"([^>]*)>\s*<th scope="row">([A-Z]{3}-\d\d)', done.stdout)
        assert len(found) == len(listed)
        return {case for attributes, case in found if 'hidden=""' not in attributes}

    assert shown("") == set(listed)
    assert shown("q=ssb-0") == {id for id in listed if id.startswith("SSB-0")}
    assert shown("q=nothing+like+this") == set()
    assert shown("verdict=INFRA") == {list(listed)[3]}
    assert list(listed)[11] in shown("disagree=1")
