"""Every seeded defect of the VT-x half changes what its scenario observes."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reference import vmx_scenarios as s
from tests.reference.vmx_lab import Lab

REFERENCE = Path(__file__).resolve().parents[2] / "kernel" / "reference"

CAUGHT_BY: dict[str, s.Scenario] = {
    "vmx-debug-controls-not-loaded": s.through_cpuid,
    "vmx-debug-controls-not-saved": s.through_cpuid,
    "vmx-extint-disarms": s.through_busy,
    "vmx-getreg-dr-stale": s.set_and_get,
    "vmx-guest-dr-not-loaded": s.keeps_registers,
    "vmx-guest-dr-not-saved": s.keeps_registers,
    "vmx-guest-dr-per-cpu": s.migrates,
    "vmx-guest-dr-swapped": s.keeps_registers,
    "vmx-guest-dr6-not-loaded": s.keeps_registers,
    "vmx-guest-dr6-not-saved": s.keeps_registers,
    "vmx-guest-dr6-reset": s.keeps_registers,
    "vmx-host-dr-not-restored": s.host_keeps,
    "vmx-host-dr6-not-restored": s.host_keeps,
    "vmx-host-debugctl-not-restored": s.host_keeps,
    "vmx-host-dr7-early": s.dr7_restored_last,
    "vmx-host-dr7-not-restored": s.host_keeps,
    "vmx-host-dr7-read-late": s.host_keeps,
    "vmx-msr-exit-disarms": s.through_rdmsr,
    "vmx-setreg-dr-not-loaded": s.set_and_get,
    "vmx-setreg-dr-unchecked": s.bad_values,
    "vmx-tf-cleared-late": s.stepped,
    "vmx-tf-not-cleared": s.stepped,
    "vmx-tf-not-restored": s.stepped,
    "vmx-vcpu-init-keeps-dr": s.new_guest,
}

#: Defects of some exits, exceptions or host states only: the suites have the cases for those.
ELSEWHERE = {
    "vmx-cpuid-loses-local",
    "vmx-extint-loses-dr",
    "vmx-frame-missing",
    "vmx-host-gets-guest-dr",
    "vmx-host-gsbase-once",
    "vmx-mov-dr-exiting",
    "vmx-pending-dbg-dropped",
    "vmx-reflected-as-step",
    "vmx-reflected-past-int3",
    "vmx-reflected-without-rf",
    "vmx-shadow-stays",
    "vmx-host-dr-lazy",
    "vmx-host-dr6-ored",
    "vmx-wrmsr-debugctl-ignored",
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("vmx")) as lab:
        yield lab


def test_all_are_listed() -> None:
    """The switches, their description and the table above are of one mind."""
    switches = (REFERENCE / "include" / "defects_vmx.def").read_text().split()
    names = {line.removeprefix("DEFECT(").removesuffix(")").lower().replace("_", "-") for line in switches}
    described = tomllib.loads((REFERENCE / "defects.toml").read_text())["defect"]
    assert names == {*CAUGHT_BY, *ELSEWHERE}
    assert names == {entry["id"] for entry in described if entry["id"].startswith("vmx-")}
    for entry in described:
        if entry["id"].startswith("vmx-"):
            assert entry["vendors"] == ["intel"]


@pytest.mark.parametrize("defect", CAUGHT_BY)
def test_defect_shows(lab: Lab, defect: str) -> None:
    scenario = CAUGHT_BY[defect]
    lab.load(defect)
    try:
        assert scenario(lab) != s.EXPECTED[scenario]
    finally:
        if lab.panics or not lab.machine.is_on:
            lab.machine.power_off()
            lab.power_on()
