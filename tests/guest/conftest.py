"""Bare guests on both CPU models."""

from __future__ import annotations

import pytest

from harness.recording import NullRecorder
from harness.subjects.bare import BareSubject


@pytest.fixture(params=["intel", "amd"])
def bare(request: pytest.FixtureRequest) -> BareSubject:
    return BareSubject(f"bare{request.param}", request.param, NullRecorder())
