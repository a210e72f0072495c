"""How long an item may take, by the host it runs on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from harness.inventory import BareHost, BochsHost, FreebsdHost
from harness.plugin.collection import ITEM_LIMIT, item_limit

ROOT = Path(__file__).resolve().parents[2]
KEY = "SHA256:" + "A" * 43
COMMON = {"identity": {"agent": True}, "host_keys": (KEY,)}


def test_a_slow_machine_is_given_its_time_and_that_of_its_boot() -> None:
    bochs = BochsHost.model_validate({"kind": "bochs", "vendor": "amd", "image": "x.img", **COMMON})
    assert item_limit(bochs) == ITEM_LIMIT * 10 + 900
    cpu = {"vendor": "AuthenticAMD", "family": 25, "model": 17, "stepping": 1, "class": "zen4"}
    real = FreebsdHost.model_validate({"kind": "freebsd", "address": "a", "cpu": cpu, **COMMON})
    assert item_limit(real) == ITEM_LIMIT
    assert item_limit(BareHost.model_validate({"kind": "bare", "vendor": "amd"})) == ITEM_LIMIT


def test_the_limit_reaches_the_items(tmp_path: Path) -> None:
    """By what pytest-timeout is told, for a lab of one host that nobody boots."""
    lab = tmp_path / "lab.toml"
    lab.write_text(
        'schema = 1\nlab = "x"\n[host.slow]\nkind = "bochs"\nvendor = "amd"\nimage = "x.img"\n'
        f'identity = {{ agent = true }}\nhost_keys = ["{KEY}"]\n'
    )
    spy = tmp_path / "spy.py"
    spy.write_text(
        "def pytest_collection_finish(session):\n"
        "    limits = {item.get_closest_marker('timeout').args for item in session.items}\n"
        "    print('LIMITS', *sorted(limits))\n"
    )
    command = [sys.executable, "-m", "pytest", "suites/test_reset.py", f"--lab={lab}", "--collect-only", "-qq", "-s"]
    command += [f"--run-dir={tmp_path / 'runs'}", "-p", "spy", "-n", "0"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert f"LIMITS ({ITEM_LIMIT * 10.0 + 900},)" in done.stdout, done.stdout + done.stderr
