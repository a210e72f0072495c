"""JSON with a line for every member."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.jsontext import listed

CELLS = {"name": "run", "totals": {"PASS": 1}, "cells": [{"test": "a[1]", "why": "ä \n \""}, {"test": "b"}], "none": []}


@pytest.mark.parametrize("data", [{}, [], {"a": None}, CELLS, [{"a": [1, 2]}, {"b": {"c": "d"}}], ["x", 1.5, True]])
def test_it_is_json(data: Any) -> None:
    assert json.loads(listed(data)) == data


def test_flat_objects_are_as_json_indents_them() -> None:
    """Manifests are held to their very form, those of older runs as well."""
    flat = {"commands.jsonl": "00ff", "verdict.json": "12ab"}
    assert listed(flat) == json.dumps(flat, indent=1) + "\n"


def test_every_member_of_a_list_of_objects_has_a_line() -> None:
    assert sum("\"test\"" in line for line in listed(CELLS).splitlines()) == 2
