"""Seeded defects of the vendor-neutral code: each has its switch and its entry in the catalogue."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

REFERENCE = Path(__file__).resolve().parents[2] / "kernel" / "reference"


def test_every_switch_is_described_and_used() -> None:
    text = (REFERENCE / "include" / "defects_core.def").read_text(encoding="ascii")
    switches = re.findall(r"^DEFECT\((\w+)\)", text, re.MULTILINE)
    described = tomllib.loads((REFERENCE / "defects.toml").read_text(encoding="utf-8"))["defect"]
    assert {entry["id"] for entry in described if entry["id"].startswith("core-")} == {
        switch.lower().replace("_", "-") for switch in switches
    }
    code = "".join(path.read_text(encoding="ascii") for path in REFERENCE.rglob("*.c"))
    for switch in switches:
        assert code.count(f"DEFECT_{switch})") == 1, f"{switch} is in one place"
