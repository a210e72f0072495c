"""Both sides of the control channel have the same numbers."""

from __future__ import annotations

import re
from pathlib import Path

from harness.emulated.ctl import Code, Event

HEADER = Path(__file__).resolve().parents[2] / "kernel" / "reference" / "include" / "ctl.h"


def test_codes_agree_with_the_kernels_header() -> None:
    text = HEADER.read_text(encoding="utf-8")
    defined = {name: int(value, 16) for name, value in re.findall(r"#define\s+CTL_(\w+)\s+(0x[0-9a-f]+)", text)}
    for code in Code:
        assert defined[code.name] == code, code.name
    for event in Event:
        assert defined[f"EV_{event.name}"] == event, event.name
