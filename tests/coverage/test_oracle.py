"""The oracle asks QEMU and Bochs the same programs, and judges nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.errors import GuestHang, TestDefect, ToolMissing
from harness.guest import Program
from harness.oracle import Compared, Opinion, QemuSubject
from harness.oracle.qemu import BINARY, qemu_version
from harness.verdicts import Verdict

ROOT = Path(__file__).resolve().parents[2]
needs_qemu = pytest.mark.skipif(shutil.which(BINARY) is None, reason=f"{BINARY} is not installed")


def oracle(out: Path, *words: str, path: str = "") -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", "oracle", f"--out={out}", *words], cwd=ROOT,
        env=inherited | ({"PATH": path} if path else {}), capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    return done, json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}


@needs_qemu
@pytest.mark.parametrize("vendor", ["intel", "amd"])
def test_the_rom_runs_in_qemu(vendor: str) -> None:
    program = Program("watch")
    watched = program.watched(value=1)
    program.arm(dr=2, address=watched, type="write", length=8)
    program.exit("out80")
    store = program.store(watched)
    (hit,) = QemuSubject(vendor).run(program).exceptions_of(store)
    assert (hit.rip, hit.dr6 & 0xF, hit.value) == (hit.next, 4, 0x5A)


@needs_qemu
def test_a_guest_that_hangs_is_ended() -> None:
    program = Program("waits for nobody")
    program.sync(1)
    with pytest.raises(GuestHang, match="did not end within 2 s in QEMU"):
        QemuSubject("amd").run(program, seconds=2)
    with pytest.raises(TestDefect, match="no opinion"), QemuSubject("amd").start(program):
        pass


@needs_qemu
def test_a_difference_is_told_and_is_no_failure(tmp_path: Path) -> None:
    """QEMU 7.2 does not implement DR7.GD; a QEMU that does makes both agree, which is as good."""
    done, data = oracle(tmp_path / "o.json", "--case=REG-04", "--case=REG-08", "--vendor=amd")
    assert done.returncode == 0, done.stdout + done.stderr
    opinions = {one["case"]: one for one in data["opinions"]}
    assert set(opinions) == {"REG-04", "REG-08"}
    assert opinions["REG-04"]["opinion"] == "agrees"
    assert opinions["REG-08"]["bochs"] == "PASS"
    assert opinions["REG-08"]["opinion"] in ("agrees", "differs")
    assert "2 variants asked" in done.stdout
    assert " passed" not in done.stdout, "pytest's own summary speaks of passes and failures, which these are not"


@needs_qemu
def test_a_declared_error_of_bochs_is_named(tmp_path: Path) -> None:
    _, data = oracle(tmp_path / "o.json", "--case=REG-06", "--vendor=intel", "--variants=0")
    (bit,) = [one for one in data["opinions"] if one["test"].endswith("test_dr7_rtm_bit")]
    assert bit["bochs"] == "FAIL"
    assert bit["declared_error_of_bochs"] is True
    assert bit["opinion"] in ("supports the rule", "breaks the rule as well")
    assert len(data["opinions"]) > 2


@needs_qemu
def test_cases_that_need_a_hypervisor_are_not_asked(tmp_path: Path) -> None:
    done, data = oracle(tmp_path / "o.json", "--case=API-01")
    assert done.returncode == 5
    assert data["opinions"] == []


def test_without_qemu_one_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, data = oracle(tmp_path / "o.json", path=str(tmp_path))
    assert done.returncode == 4
    assert done.stderr.strip().endswith("apt-get install qemu-system-x86")
    assert data == {}
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing):
        qemu_version()


@pytest.mark.parametrize(
    ("bochs", "qemu", "opinion"),
    [
        (Verdict.PASS, Verdict.PASS, Opinion.AGREES),
        (Verdict.PASS, Verdict.FAIL, Opinion.DIFFERS),
        (Verdict.FAIL, Verdict.PASS, Opinion.SUPPORTS),
        (Verdict.FAIL, Verdict.FAIL, Opinion.SHARES),
        (Verdict.PASS, Verdict.INFRA, Opinion.NONE),
        (Verdict.PASS, Verdict.ERROR, Opinion.NONE),
        (Verdict.ERROR, Verdict.PASS, Opinion.NONE),
    ],
)
def test_opinions(bochs: Verdict, qemu: Verdict, opinion: Opinion) -> None:
    assert Compared("DAT-01", "t", "amd", bochs, False, qemu, "", "").opinion is opinion
