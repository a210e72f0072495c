"""One booted machine of each vendor for the tests that are not about one vendor's half."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.reference.vmx_lab import Lab


@pytest.fixture(scope="module", params=["intel", "amd"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with the module loaded, no defect, no VM."""
    with Lab(tmp_path_factory.mktemp("core"), request.param) as lab:
        lab.load()
        yield lab
        assert not lab.panics
