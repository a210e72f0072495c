"""A finished run judged again: the same verdicts, and no byte of evidence can be changed unnoticed."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def vmmcheck(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness.cli", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two cases on bare CPU models: one passes, the other has predicted failures."""
    parent = tmp_path_factory.mktemp("runs")
    lab = ROOT / "labs" / "emulated.toml"
    done = vmmcheck("run", f"--lab={lab}", "--host=bareintel", "--case=REG-06", "--case=INT-01", f"--run-dir={parent}")
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = parent.iterdir()
    return folder


@pytest.fixture
def stored(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / original.name))


def folders(stored: Path) -> list[Path]:
    return sorted(path.parent for path in stored.glob("cells/*/*/manifest.json"))


def test_the_same_verdicts(stored: Path) -> None:
    done = vmmcheck("replay", str(stored))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(folders(stored))} cells judged again from their records: same verdict" in done.stdout


def test_a_flipped_byte_is_detected(stored: Path) -> None:
    folder = folders(stored)[0]
    raw = bytearray((folder / "console.raw").read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / "console.raw").write_bytes(raw)
    done = vmmcheck("replay", str(stored))
    assert done.returncode != 0
    assert "console.raw" in done.stdout
    assert "DAMAGED" in done.stdout


def test_a_verdict_that_was_changed_everywhere_is_judged_otherwise(stored: Path) -> None:
    """Results, verdict and checksums agree with each other, and not with the records."""
    folder = next(
        folder for folder in folders(stored) if json.loads((folder / "verdict.json").read_text())["raw"] == "PASS"
    )
    evidence = str(folder.relative_to(stored))
    lie = {"verdict": "FAIL", "raw": "FAIL", "code": "PRODUCT-REGISTER-MISMATCH"}
    results = json.loads((stored / "results.json").read_text())
    for cell in results["cells"]:
        if cell["evidence"] == evidence:
            cell.update(lie)
    (stored / "results.json").write_text(json.dumps(results))
    verdict = json.loads((folder / "verdict.json").read_text()) | lie
    (folder / "verdict.json").write_text(json.dumps(verdict))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["verdict.json"] = hashlib.sha256((folder / "verdict.json").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    done = vmmcheck("replay", str(stored))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "judged again it is PASS" in done.stdout


def test_what_cannot_be_judged_again_is_named(stored: Path) -> None:
    folder = folders(stored)[0]
    (folder / "rom.json").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["rom.json"]
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    done = vmmcheck("replay", str(stored))
    assert done.returncode == 10, done.stdout + done.stderr
    test = json.loads((folder / "verdict.json").read_text())["test"]
    assert f"NOT JUDGED AGAIN  bareintel  {test}\n" in done.stdout
    assert "The evidence has no program 1 of this case" in done.stdout
    assert "1 could not be judged again, their judgements hold" in done.stdout


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    done = vmmcheck("replay", str(tmp_path))
    assert done.returncode == 4
    assert "is not a finished run" in done.stderr
