"""Each seeded defect of the SVM half makes a statement false that holds on the correct kernel."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import EmulatorFailed
from tests.reference import svm_checks as checks
from tests.reference.svm_kernel import HERE, VMCB_CLEAN, GuestGone, Kernel, defects

#: Defects that leave the host alive, with the statement that each breaks.
BROKEN_BY = {
    "svm-clean-cr": checks.set_control_registers_reach_the_guest,
    "svm-clean-cr2": checks.set_cr2_reaches_the_guest,
    "svm-clean-dr": checks.set_debug_registers_reach_the_guest,
    "svm-clean-dt": checks.set_tables_reach_the_guest,
    "svm-clean-i": checks.time_stamp_counter_can_be_set,
    "svm-clean-seg": checks.set_segment_reaches_the_guest,
    "svm-clean-tpr": checks.task_priority_reaches_cr8,
    "svm-ctx-overlap": checks.host_keeps_its_debug_registers,
    "svm-dr-intercept": checks.guest_keeps_its_debug_registers,
    "svm-efer-unmarked": checks.efer_can_be_changed,
    "svm-frame-missing": checks.world_switch_can_be_traced,
    "svm-first-run-clean": checks.new_guest_starts_fresh,
    "svm-getreg-dr-stale": checks.guests_debug_registers_can_be_read,
    "svm-guest-dr-not-loaded": checks.guest_keeps_its_debug_registers,
    "svm-guest-dr-not-saved": checks.guest_keeps_its_debug_registers,
    "svm-guest-dr-per-cpu": checks.guests_on_one_cpu_do_not_mix,
    "svm-guest-dr-swapped": checks.guest_keeps_its_debug_registers,
    "svm-guest-dr6-reset": checks.guest_keeps_its_debug_registers,
    "svm-guest-dr7-reset": checks.guest_keeps_its_debug_registers,
    "svm-host-dr-not-restored": checks.host_keeps_its_debug_registers,
    "svm-host-dr6-not-restored": checks.host_keeps_its_debug_registers,
    "svm-host-dr7-not-restored": checks.host_keeps_its_debug_registers,
    "svm-host-dr7-read-late": checks.host_keeps_its_debug_registers,
    "svm-migration-clean": checks.guest_state_follows_the_guest_between_cpus,
    "svm-setdesc-unmarked": checks.set_segment_reaches_the_guest,
    "svm-setreg-dr-not-loaded": checks.set_debug_registers_reach_the_guest,
    "svm-vcpu-init-keeps-dr": checks.new_guest_starts_fresh,
}
#: Defects that take the host down, at once or by what they spoil; each gets a kernel of its own.
FATAL = {
    "svm-callee-saved-lost": checks.guest_keeps_its_debug_registers,
    "svm-gsbase-by-caller": checks.world_switch_can_be_traced,
    "svm-host-ctx-shared": checks.guests_on_two_cpus_run_side_by_side,
    "svm-rbp-lost": checks.guest_keeps_its_debug_registers,
    "svm-selectors-reloaded": checks.guest_keeps_its_debug_registers,
}
#: Defects that other tests are about: of this file, and of the suites, which see the ASID by a probe on the entry and
#: have the cases for what only some exits, moves or registers show.
ELSEWHERE = {
    "svm-host-debugctl-not-restored", "svm-bpt-exit-stays", "svm-step-in-pushf",
    "svm-clean-asid", "svm-cr4-unmarked", "svm-dr6-unmarked", "svm-guest-dr-lazy-save", "svm-guest-dr6-bt-lost",
    "svm-hlt-disarms-dr3", "svm-host-dr-lazy", "svm-idtr-unmarked", "svm-intr-loses-dr", "svm-io-clean",
    "svm-migration-dirty-once", "svm-tunable-ignored", "svm-tunable-inverted",
    "svm-clean-avic", "svm-clean-iopm", "svm-clean-lbr", "svm-clean-np", "svm-cpuid-clean", "svm-host-gets-guest-dr",
}  # fmt: skip


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    with Kernel(tmp_path_factory.mktemp("svm")) as kernel:
        yield kernel


def test_every_defect_is_tested_and_described() -> None:
    described = tomllib.loads((HERE.parents[1] / "kernel/reference/defects.toml").read_text(encoding="utf-8"))
    names = {entry["id"] for entry in described["defect"] if entry["id"].startswith("svm-")}
    assert set(defects()) == {*BROKEN_BY, *FATAL, *ELSEWHERE} == names


@pytest.mark.parametrize("name", BROKEN_BY)
def test_defect_shows(kernel: Kernel, name: str) -> None:
    kernel.load(name)
    try:
        with pytest.raises((AssertionError, GuestGone)):
            BROKEN_BY[name](kernel)
        assert not kernel.is_dead()
    finally:
        kernel.unload()
    kernel.load()
    try:
        BROKEN_BY[name](kernel)
    finally:
        kernel.unload()


@pytest.mark.parametrize(("name", "clean"), [("svm-tunable-ignored", 0x3FF), ("svm-tunable-inverted", 0x3DF)])
def test_defect_of_the_tunable_shows(kernel: Kernel, name: str, clean: int) -> None:
    kernel.load(name, tunables=["hw.vmm.svm.vmcb_clean=0x20"])
    try:
        with checks.guest(kernel):
            kernel.state(b"x")
            assert kernel.vmcb(VMCB_CLEAN) == clean
    finally:
        kernel.unload()


@pytest.mark.parametrize("name", FATAL)
def test_fatal_defect_shows(tmp_path: Path, name: str) -> None:
    with Kernel(tmp_path) as kernel:
        kernel.load(name)
        with pytest.raises((AssertionError, GuestGone, EmulatorFailed)):
            FATAL[name](kernel)
