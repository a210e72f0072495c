"""The SVM half on a correct kernel: guests, their registers, the host's, and the cache model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reference import svm_checks
from tests.reference.svm_kernel import VMCB_CLEAN, Kernel


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    folder: Path = tmp_path_factory.mktemp("svm")
    with Kernel(folder) as kernel:
        kernel.load()
        yield kernel


@pytest.mark.parametrize("check", svm_checks.CHECKS, ids=lambda check: check.__name__)
def test_correct_kernel(kernel: Kernel, check: svm_checks.Check) -> None:
    check(kernel)
    assert not kernel.is_dead()


@pytest.mark.parametrize(("tunable", "effective"), [("0", 0), ("0x1", 1), ("0x3bf", 0x3BF), ("0xffffffff", 0x3FF)])
def test_tunable_restricts_the_clean_bits(kernel: Kernel, tunable: str, effective: int) -> None:
    kernel.unload()
    kernel.load(tunables=[f"hw.vmm.svm.vmcb_clean={tunable}"])
    try:
        assert int(kernel.sysctl("hw.vmm.svm.vmcb_clean")) == effective
        with svm_checks.guest(kernel):
            kernel.state(b"axwx")
            assert kernel.vmcb(VMCB_CLEAN) == effective
        svm_checks.guest_keeps_its_debug_registers(kernel)
    finally:
        kernel.unload()
        kernel.load()
