"""The case list and the suites agree: no case without metadata, no id reused, nothing predicted that cannot show."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from harness.cases import Expected
from harness.catalogue import SUITES, load_catalogue, load_gaps
from harness.coverage import Collected, Listed, collect, listing
from harness.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
#: How many cases each group had when the list was made: no id may disappear, new ones get the next number.
GROUPS = {
    "RST": 7, "REG": 14, "EXE": 9, "DAT": 15, "IOB": 4, "STR": 4, "SSB": 10, "INT": 6, "STP": 9, "CTL": 7, "TSK": 2,
    "MOD": 4, "ISO": 10, "MIG": 6, "API": 9, "SNP": 4, "VCB": 13, "HST": 10, "TRP": 5, "HAZ": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def collected() -> Collected:
    return collect(ROOT / "labs" / "emulated.toml")


@pytest.fixture(scope="module")
def listed(collected: Collected) -> list[Listed]:
    return listing(load_catalogue(), collected)


def test_the_list_is_whole() -> None:
    entries = load_catalogue()
    assert sum(GROUPS.values()) == 150
    assert {entry.group for entry in entries.values()} == set(GROUPS)
    for group, count in GROUPS.items():
        numbers = [int(id[4:]) for id in entries if id.startswith(group)]
        assert numbers == list(range(1, len(numbers) + 1)), f"{group} is not numbered in order: {numbers}"
        assert len(numbers) >= count, f"{group} has lost {count - len(numbers)} of its cases"


def test_no_rule_is_there_twice() -> None:
    rules = Counter(entry.rule for entry in load_catalogue().values())
    assert [rule for rule, count in rules.items() if count > 1] == []


def test_a_case_without_a_test_says_why(listed: list[Listed]) -> None:
    silent = [one.entry.id for one in listed if not one.asked and not one.entry.open]
    assert silent == [], f"neither a test in suites/ nor a reason ('open') in suites/catalogue.toml: {silent}"


def test_suites_and_list_say_the_same_of_a_case(collected: Collected) -> None:
    entries = load_catalogue()
    differ = []
    for cell in collected.cells:
        entry, case = entries[cell.case.id], cell.case
        if not set(case.vendors) <= set(entry.vendors):
            differ.append(f"{case.id} is for {entry.vendors}, {cell.plan.test} for {case.vendors}")
        if case.priority != entry.priority:
            differ.append(f"{case.id} has priority {entry.priority}, {cell.plan.test} {case.priority}")
        if not case.rule:
            differ.append(f"{cell.plan.test} has no rule")
    assert sorted(set(differ)) == []


def test_every_test_of_the_suites_belongs_to_a_case(collected: Collected) -> None:
    with_case = {cell.plan.nodeid.partition("[")[0] for cell in collected.cells}
    functions = {
        f"suites/{path.name}::{node.name}"
        for path in SUITES.glob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    assert functions == with_case


def test_gaps_and_list_name_each_other() -> None:
    entries, gaps = load_catalogue(), [gap for gap in load_gaps() if gap.id.startswith("G-")]
    assert [gap.id for gap in gaps] == [f"G-{number:02d}" for number in range(1, 16)]
    of_gaps = {(gap.id, case) for gap in gaps for case in gap.cases}
    assert of_gaps == {(gap, entry.id) for entry in entries.values() for gap in entry.gaps}


def test_what_is_predicted_of_a_case_with_tests_can_show(collected: Collected) -> None:
    """A selector that matches no cell of any host would never turn red, whatever the hypervisor did."""
    dead = []
    for gap in load_gaps():
        for case, expected in gap.expectations():
            cells = collected.of(case)
            if cells and not any(_concerns(expected, cell.plan.test) for cell in cells):
                dead.append(f"{gap.id} {case} {expected.test} {expected.variant}")
    assert dead == []


def _concerns(expected: Expected, test: str) -> bool:
    """Whether kinds and vendors apart (a lab of FreeBSD machines has them all) the selectors match."""
    match = re.fullmatch(r".*::(\w+)(?:\[(.*)\])?", test)
    assert match is not None
    kind, vendor = (*expected.kinds, "")[0], (*expected.vendors, "")[0]
    return expected.matches(kind, vendor, (match[2] or "").split("-"), match[1])


def test_what_is_predicted_stands_in_the_one_file(collected: Collected) -> None:
    """Reason, processors and day of review are where somebody looks through them, not spread over the suites."""
    inline = {f"{cell.case.id}: {expected.id}" for cell in collected.cells for expected in cell.case.expected}
    assert inline == set()


def test_a_case_of_the_suites_that_the_list_lacks_is_named(collected: Collected) -> None:
    entries = load_catalogue()
    del entries["DAT-01"]
    with pytest.raises(ConfigError, match=r"DAT-01.*catalogue\.toml"):
        listing(entries, collected)


def test_mistakes_of_the_list_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "catalogue.toml").write_text('[DAT-1]\nrule = "x"\n[DAT-02]\nrul = 1\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"DAT-1 is no case id.*DAT-1 lacks 'vendors'.*DAT-02 has the unknown key"):
        load_catalogue(tmp_path)
    (tmp_path / "catalogue.toml").write_text("[DAT-01]\n[DAT-01]\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="no valid TOML"):
        load_catalogue(tmp_path)


def test_the_listing_is_json_and_nothing_else() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", "cases", "--json"], cwd=ROOT, capture_output=True, text=True, timeout=120,
        check=True,
    )  # fmt: skip
    data = json.loads(done.stdout)
    assert len(data) == len({one["id"] for one in data}) == len(load_catalogue())
    by_id = {one["id"]: one for one in data}
    watch = by_id["DAT-01"]
    assert watch["tests"] == ["suites/test_data_watchpoints.py::test_write_watch_fires_once_per_store"]
    shared = sum(watch["columns"][alias]["cells"] for alias in ("emuamd", "emuamd2"))
    assert watch["columns"]["bareamd"]["cells"] < shared
    assert watch["columns"]["bareamd"]["reasons"] == [
        "needs capability 'migration', which a host of kind 'bare' does not offer"
    ]
    assert by_id["VCB-01"]["columns"]["emuintel"]["reasons"] == ["not applicable to intel: the rule speaks of amd"]


def test_a_prediction_can_leave_out_a_kind_that_its_kinds_include() -> None:
    everywhere = Expected("G-99", "PRODUCT-HIT-MISMATCH", "predicted", kinds=("freebsd",))
    assert everywhere.matches("freebsd", "amd", ())
    assert everywhere.matches("bochs", "amd", ())
    hardware = replace(everywhere, not_kinds=("bochs",))
    assert hardware.matches("freebsd", "amd", ())
    assert hardware.matches("qemu", "amd", ())
    assert not hardware.matches("bochs", "amd", ())
