"""Seeding FreeBSD's vmm: on made-up sources that have the layouts of the releases."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cases import REQUIREMENTS
from harness.cli import cli
from harness.errors import ConfigError
from harness.seeding import apply_defect, find_vmm, load_defects, version_of
from tests.seeding.made_up import LAYOUTS, tree

DEFECTS = load_defects()
SVM = "sys/amd64/vmm/amd/svm.c"
CHANGES = [
    pytest.param(id, number, id=f"{id}-{number}")
    for id, defect in DEFECTS.items()
    for number in range(len(defect.changes))
]


def test_the_catalogue_speaks_of_known_requirements_and_vendors() -> None:
    for defect in DEFECTS.values():
        assert defect.requirement in REQUIREMENTS, defect.id
        assert defect.vendor in ("intel", "amd"), defect.id
        assert defect.changes, defect.id
        assert defect.caught_by, defect.id
    for requirement in ("S1.2", "S1.3", "S1.4", "S1.5", "S1.6", "S1.7", "S2.1", "S3.1", "S3.3", "S4.1", "S4.2"):
        assert any(defect.requirement == requirement for defect in DEFECTS.values()), requirement


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_defect_fits_each_layout_and_only_what_it_names_is_changed(tmp_path: Path, layout: str) -> None:
    source = tree(tmp_path / "src", layout)
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    for id, defect in DEFECTS.items():
        seeded = apply_defect(defect, source, tmp_path / id)
        assert {change.file for change in defect.changes} <= set(seeded.files), id
        for path in (source / "sys/amd64/vmm").rglob("*"):
            name = str(path.relative_to(source / "sys/amd64/vmm"))
            if path.is_file():
                same = (seeded.folder / name).read_bytes() == path.read_bytes()
                assert same == (name not in seeded.files), (id, name)
        for change in defect.changes:
            # What is left of it is gone, or is what was put in its place.
            text = (seeded.folder / change.file).read_text()
            assert text != before[source / "sys/amd64/vmm" / change.file].decode(), (id, change.file)
        marked = (seeded.folder / ("amd/svm.c" if defect.vendor == "amd" else "intel/vmx.c")).read_text()
        assert f'vmmcheck_defect, CTLFLAG_RD, "{id}"' in marked
        assert json.loads((tmp_path / id / "defect.json").read_text())["requirement"] == defect.requirement
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_patch_makes_the_same_of_the_tree(tmp_path: Path, layout: str) -> None:
    for id in ("svm-gsbase-by-caller", "vmx-debug-controls-not-saved"):
        source = tree(tmp_path / id / "src", layout)
        seeded = apply_defect(DEFECTS[id], source, tmp_path / id / "out")
        subprocess.run(["patch", "-p1", "-s", "-i", str(seeded.patch)], cwd=source, check=True)
        for name in seeded.files:
            assert (source / "sys/amd64/vmm" / name).read_text() == (seeded.folder / name).read_text()


@pytest.mark.parametrize(("id", "number"), CHANGES)
def test_a_place_that_is_there_once_too_often_or_not_at_all_is_refused(tmp_path: Path, id: str, number: int) -> None:
    change = DEFECTS[id].changes[number]
    for what in ("missing", "twice"):
        source = tree(tmp_path / what, "15")
        path = source / "sys/amd64/vmm" / change.file
        text = path.read_text()
        # Elsewhere in a file there may be the like of it: what counts is behind the first mention of the place.
        start = min(at for name in change.within if (at := text.find(name)) >= 0)
        match = change.pattern.search(text, start)
        assert match is not None
        text = text[: match.start()] + ("" if what == "missing" else f"{match[0]} {match[0]}") + text[match.end() :]
        path.write_text(text)
        with pytest.raises(ConfigError, match=rf"'{id}' does not fit these sources: .*(was expected|has none of)"):
            apply_defect(DEFECTS[id], source, tmp_path / f"{what}-out")
        assert not (tmp_path / f"{what}-out").exists()


def test_a_function_that_is_not_there_is_named(tmp_path: Path) -> None:
    source = tree(tmp_path / "src", "13.2")
    file = source / SVM
    file.write_text(file.read_text().replace("svm_dr_enter_guest(struct", "svm_enter_guest(struct"))
    with pytest.raises(ConfigError, match=r"amd/svm\.c has none of svm_dr_enter_guest"):
        apply_defect(DEFECTS["svm-guest-dr-not-loaded"], source, tmp_path / "out")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    source = tree(tmp_path / "src", "15")
    (source / "sys/amd64/vmm/amd/vmcb.c").unlink()
    with pytest.raises(ConfigError, match=r"changes amd/vmcb\.c, which these sources do not have"):
        apply_defect(DEFECTS["svm-clean-dr"], source, tmp_path / "out")


def test_a_folder_that_is_no_source_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no vmm sources"):
        find_vmm(tmp_path)


def test_what_is_there_already_is_not_overwritten(tmp_path: Path) -> None:
    source = tree(tmp_path / "src", "13.2")
    defect = DEFECTS["svm-host-dr6-not-restored"]
    apply_defect(defect, source, tmp_path / "out")
    with pytest.raises(ConfigError, match="exists already"):
        apply_defect(defect, source, tmp_path / "out")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fits_tells_the_version_and_every_defect(tmp_path: Path, layout: str) -> None:
    source = tree(tmp_path / "src", layout)
    assert version_of(source) == LAYOUTS[layout].version
    done = CliRunner().invoke(cli, ["kernel", "fits", "--src", str(source)])
    assert done.exit_code == 0
    assert f"__FreeBSD_version {LAYOUTS[layout].version}" in done.output
    assert f"{len(DEFECTS)} of {len(DEFECTS)} defects fit" in done.output
    file = source / SVM
    file.write_text(file.read_text().replace("load_dr6(gctx->host_dr6);", ""))
    done = CliRunner().invoke(cli, ["kernel", "fits", "--src", str(source)])
    assert done.exit_code == 10
    assert "not      svm-host-dr6-not-restored: 'svm-host-dr6-not-restored' does not fit" in done.output
    assert f"{len(DEFECTS) - 1} of {len(DEFECTS)} defects fit" in done.output


def test_a_part_of_a_tree_has_no_version(tmp_path: Path) -> None:
    source = tree(tmp_path / "src", "15")
    assert version_of(find_vmm(source)) is None
