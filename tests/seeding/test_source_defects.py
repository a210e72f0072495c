"""Seeding FreeBSD's vmm: on sources of our own that have the layouts of the releases."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from harness.cases import REQUIREMENTS
from harness.errors import ConfigError
from harness.seeding import apply_defect, find_vmm, load_defects

VMM_C = """\
SYSCTL_NODE(_hw, OID_AUTO, vmm, CTLFLAG_RW, NULL,
    NULL);
"""
#: Shapes only: what the edits look for, in functions of the names that 12.1 and 13.2 give them.
SVM_C = """\
static __inline void
svm_dr_leave_guest(struct svm_regctx *gctx)
{{

	gctx->sctx_dr0 = rdr0();
	gctx->sctx_dr1 = rdr1();
	gctx->sctx_dr2 = rdr2();
	gctx->sctx_dr3 = rdr3();
	load_dr6(gctx->host_dr6);
}}

static int
{run}({arguments})
{{
	svm_dr_leave_guest(gctx);
	if (lastcpu != curcpu) {{
		{dirty}
	}}
}}
"""
LAYOUTS = {
    # Arguments that go over two lines.
    "12.1": SVM_C.format(
        run="svm_vmrun", arguments="void *arg,\n    int vcpu", dirty="svm_set_dirty(svm_sc, vcpu, 0xffffffff);"
    ),
    # One structure for each vCPU.
    "13.2": SVM_C.format(
        run="svm_run", arguments="void *vcpui", dirty="svm_set_dirty(vcpu, 0xffffffff);"
    ),
}


def tree(folder: Path, svm: str) -> Path:
    vmm = folder / "sys" / "amd64" / "vmm"
    (vmm / "amd").mkdir(parents=True)
    (vmm / "vmm.c").write_text(VMM_C)
    (vmm / "amd" / "svm.c").write_text(svm)
    return folder


def test_the_catalogue_speaks_of_known_requirements_and_vendors() -> None:
    defects = load_defects()
    for defect in defects.values():
        assert defect.requirement in REQUIREMENTS, defect.id
        assert defect.vendor in ("intel", "amd"), defect.id
        assert defect.changes, defect.id
        assert defect.caught_by, defect.id
    for requirement in ("S1.2", "S1.3", "S1.4", "S1.5", "S1.6", "S1.7", "S2.1", "S3.1", "S3.3", "S4.1", "S4.2"):
        assert any(defect.requirement == requirement for defect in defects.values()), requirement


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_edit_finds_its_function_in_each_layout(tmp_path: Path, layout: str) -> None:
    source = tree(tmp_path / "src", LAYOUTS[layout])
    seeded = apply_defect(load_defects()["svm-migration-clean"], source, tmp_path / "out")
    text = (seeded.folder / "amd" / "svm.c").read_text()
    assert "0xffffffff" not in text
    assert "gctx->sctx_dr3 = rdr3();" in text
    assert "vmmcheck_defect, CTLFLAG_RD, \"svm-migration-clean\"" in (seeded.folder / "vmm.c").read_text()
    assert (source / "sys/amd64/vmm/amd/svm.c").read_text() == LAYOUTS[layout]
    assert json.loads((tmp_path / "out" / "defect.json").read_text())["requirement"] == "S4.1"


def test_the_patch_makes_the_same_of_the_tree(tmp_path: Path) -> None:
    source = tree(tmp_path / "src", LAYOUTS["13.2"])
    seeded = apply_defect(load_defects()["svm-guest-dr-not-saved"], source, tmp_path / "out")
    subprocess.run(["patch", "-p1", "-s", "-i", str(seeded.patch)], cwd=source, check=True)
    for name in seeded.files:
        assert (source / "sys/amd64/vmm" / name).read_text() == (seeded.folder / name).read_text()


def test_a_pattern_that_is_not_there_as_often_as_it_must_be_is_refused(tmp_path: Path) -> None:
    source = tree(tmp_path / "src", LAYOUTS["13.2"].replace("gctx->sctx_dr3 = rdr3();", ""))
    with pytest.raises(ConfigError, match=r"svm_dr_leave_guest: the pattern .* is there 3 times, 4 was expected"):
        apply_defect(load_defects()["svm-guest-dr-not-saved"], source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_function_that_is_not_there_is_named(tmp_path: Path) -> None:
    source = tree(tmp_path / "src", LAYOUTS["13.2"])
    with pytest.raises(ConfigError, match=r"amd/svm\.c has none of svm_dr_enter_guest"):
        apply_defect(load_defects()["svm-guest-dr-not-loaded"], source, tmp_path / "out")


def test_a_folder_that_is_no_source_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no vmm sources"):
        find_vmm(tmp_path)


def test_what_is_there_already_is_not_overwritten(tmp_path: Path) -> None:
    source = tree(tmp_path / "src", LAYOUTS["13.2"])
    defect = load_defects()["svm-host-dr6-not-restored"]
    apply_defect(defect, source, tmp_path / "out")
    with pytest.raises(ConfigError, match="exists already"):
        apply_defect(defect, source, tmp_path / "out")
