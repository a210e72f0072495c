"""A new case is collected and agrees with the list at once, and cannot pass before it is written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.catalogue import load_catalogue

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def suites(tmp_path: Path) -> Path:
    """A copy of the suites with two modules, the list and the gaps, in a tree of its own."""
    folder = tmp_path / "suites"
    folder.mkdir()
    data = ("catalogue.toml", "gaps.toml")
    for name in ("__init__.py", "guestlib.py", "vocabulary.py", *data, "test_register_access.py"):
        shutil.copy(ROOT / "suites" / name, folder)
    # As if nobody had asked EXE-05 yet.
    path = folder / "catalogue.toml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("[EXE-05]\n", '[EXE-05]\nopen = "No suite asks it yet."\n'), encoding="utf-8")
    return folder


def call(suites: Path, *words: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=suites.parent, env={**inherited, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def new_case(suites: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return call(suites, "harness.cli", "new-case", *words, f"--suites={suites}")


def listed(suites: Path, case: str) -> dict[str, object]:
    lab = ROOT / "labs" / "emulated.toml"
    done = call(suites, "harness.cli", "cases", case, "--json", f"--suites={suites}", f"--lab={lab}")
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_a_case_of_the_list_gets_a_skeleton_that_fails(suites: Path) -> None:
    done = new_case(suites, "EXE-05")
    assert done.returncode == 0, done.stdout + done.stderr
    assert load_catalogue(suites)["EXE-05"].open == ""
    case = listed(suites, "EXE-05")
    assert case["tests"] == ["suites/test_exe_05.py::test_exe_05_is_written"]
    assert case["requirements"] == ["S1.1"]
    ours = 'lint.isort.known-first-party = ["harness", "suites"]'
    config = f"--config={ROOT / 'pyproject.toml'}"
    checked = call(suites, "ruff", "check", config, "--config", ours, "suites/test_exe_05.py")
    assert checked.returncode == 0, checked.stdout
    words = ("-p", "harness.plugin", "suites/test_exe_05.py", f"--lab={ROOT / 'labs' / 'emulated.toml'}")
    ran = call(suites, "pytest", *words, "--host=bareamd")
    assert ran.returncode == 10, ran.stdout
    assert "EXE-05 is a skeleton" in ran.stdout
    results = json.loads(next((suites.parent / "runs").glob("*/results.json")).read_text(encoding="utf-8"))
    assert results["totals"] == {"ERROR": 2}


def test_a_new_case_is_added_to_the_list(suites: Path) -> None:
    before = load_catalogue(suites)
    rule = 'A rule with "quotes" and a \\ in it, long enough that it does not fit into one line of a suite' + " at all"
    done = new_case(
        suites, "DAT-16", f"--rule={rule}", "--requirement=S1.1", "--requirement=S1.3", "--ref=SDM3 17.2.4",
        "--need=bhyvectl", "--vendor=amd", "--priority=3",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    after = load_catalogue(suites)
    assert set(after) - set(before) == {"DAT-16"}
    assert list(after).index("DAT-16") == list(after).index("DAT-15") + 1
    assert (after["DAT-16"].rule, after["DAT-16"].vendors, after["DAT-16"].priority) == (rule, ("amd",), 3)
    assert {id: entry for id, entry in after.items() if id != "DAT-16"} == before
    case = listed(suites, "DAT-16")
    assert case["needs"] == ["bhyvectl"]
    columns = case["columns"]
    assert isinstance(columns, dict)
    assert [columns[alias]["cells"] for alias in ("emuintel", "emuamd", "bareintel", "bareamd")] == [0, 2, 0, 0]


def test_it_can_be_appended_to_a_module_that_has_the_imports(suites: Path) -> None:
    module = suites / "test_register_access.py"
    refused = new_case(suites, "EXE-05", f"--into={module}")
    assert refused.returncode == 4
    assert "lacks what the skeleton imports: from harness.errors import TestDefect" in refused.stderr
    text = module.read_text(encoding="utf-8")
    added = "from harness.errors import TestDefect\nfrom harness.expect"
    module.write_text(text.replace("from harness.expect", added, 1), encoding="utf-8")
    assert new_case(suites, "EXE-05", f"--into={module}").returncode == 0
    assert listed(suites, "EXE-05")["tests"] == ["suites/test_register_access.py::test_exe_05_is_written"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("DAT-18", "--rule=x", "--requirement=S1.1"), "The next free number of group DAT is 16, not 18"),
        (("XYZ-01", "--rule=x"), "no case id such as DAT-16. Groups are RST, REG"),
        (("DAT-16",), "it needs its rule and at least one requirement"),
        (("DAT-16", "--rule=x", "--requirement=S9.9"), "There is no requirement S9.9"),
        (("EXE-05", "--rule=another"), "EXE-05 is in the list already"),
        (("EXE-05", "--into=suites/nowhere.py"), "There is no module 'suites/nowhere.py'"),
    ],
)
def test_bad_input_gets_one_sentence(suites: Path, words: tuple[str, ...], said: str) -> None:
    before = {path.name: path.read_bytes() for path in suites.iterdir() if path.is_file()}
    done = new_case(suites, *words)
    assert done.returncode == 4
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert {path.name: path.read_bytes() for path in suites.iterdir() if path.is_file()} == before
