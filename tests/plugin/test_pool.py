"""Alike hosts share the cells of a run; each cell still runs once, and always on the same one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import ConfigError
from harness.inventory import load_inventory

ROOT = Path(__file__).resolve().parents[2]
LAB = """
schema = 1
lab = "pool"

[host.first]
kind = "bare"
vendor = "intel"
pool = "intel"

[host.second]
kind = "bare"
vendor = "{vendor}"
pool = "intel"
"""


def cells(tmp_path: Path, *words: str) -> dict[str, str]:
    """test -> host of a run of REG-01 in the pool."""
    (tmp_path / "lab.toml").write_text(LAB.format(vendor="intel"), encoding="utf-8")
    command = [sys.executable, "-m", "harness.cli", "run", f"--lab={tmp_path / 'lab.toml'}", f"--run-dir={tmp_path}"]
    done = subprocess.run([*command, "--case=REG-01", *words], cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    newest = max(tmp_path.glob("*/results.json"), key=lambda path: path.stat().st_mtime_ns)
    found = json.loads(newest.read_text(encoding="utf-8"))["cells"]
    hosts = {cell["test"]: cell["host"] for cell in found if cell["verdict"] == "PASS"}
    assert len(hosts) == len(found)
    return hosts


def test_a_pool_shares_the_cells(tmp_path: Path) -> None:
    both = cells(tmp_path)
    assert set(both.values()) == {"first", "second"}
    alone = cells(tmp_path, "--host=second")
    assert alone.keys() == both.keys()
    assert set(alone.values()) == {"second"}
    # A selection moves no cell to another host.
    chosen = next(test for test, host in both.items() if host == "second")
    words = chosen.partition("[")[2].removesuffix("]").split("-")
    some = cells(tmp_path, "-k", " and ".join(words) or chosen.rpartition(":")[2])
    assert some[chosen] == "second"
    assert all(both[test] == host for test, host in some.items())


def test_hosts_that_differ_cannot_share(tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_text(LAB.format(vendor="amd"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"host\.second shares pool 'intel' with host\.first, but is of another kind"):
        load_inventory(tmp_path / "lab.toml")
