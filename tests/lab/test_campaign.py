"""A few trials of the campaign of faults (``python -m harness.trouble`` runs them all), and what it calls wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.trouble.campaign import Campaign, Trial
from harness.trouble.faults import FAULTS, MOMENTS
from harness.trouble.invariants import complete, explained, read_cells, same_everywhere, untouched


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    started = Campaign(tmp_path_factory.mktemp("campaign"), ("RST-04", "MIG-05"))
    try:
        started.establish()
        yield started
    finally:
        started.close()


@pytest.mark.parametrize(
    ("fault", "host", "moment", "nth"),
    [
        ("controller-killed", "fbamd", "running", 1),
        ("worker-killed", "fbintel", "loading", 1),
        ("module-loaded", "fbamd", "", 0),
    ],
)
def test_a_trial_of_each_kind_is_in_order(campaign: Campaign, fault: str, host: str, moment: str, nth: int) -> None:
    trial = campaign.run(Trial(list(FAULTS).index(fault), fault, host, moment, nth))
    assert trial.wrong == []
    assert trial.hit == bool(moment)


def test_the_same_seed_draws_the_same_trials(campaign: Campaign) -> None:
    first, again = ([campaign.draw(number, 7, list(FAULTS)) for number in range(40)] for _ in range(2))
    assert first == again
    assert {trial.fault for trial in first} == set(FAULTS)
    assert {trial.host for trial in first} == {"fbamd", "fbintel"}
    assert all(1 <= trial.nth <= MOMENTS[trial.moment].most for trial in first if trial.moment)


def change(folder: Path, **values: Any) -> None:
    """Another content of the first cell of fbamd."""
    path = folder / "results.json"
    results = json.loads(path.read_text(encoding="utf-8"))
    next(cell for cell in results["cells"] if cell["host"] == "fbamd").update(values)
    path.write_text(json.dumps(results), encoding="utf-8")


def test_what_should_not_be_is_called_wrong(campaign: Campaign, tmp_path: Path) -> None:
    made = next((campaign.folder / "reference").glob("*/results.json")).parent
    folder = tmp_path / "run"
    shutil.copytree(made, folder)
    reference = read_cells(made)
    assert complete(folder, 0) + same_everywhere(folder) == []
    change(folder, verdict="FAIL", code="PRODUCT-MISMATCH", message="so")
    cells = read_cells(folder)
    assert len(untouched(cells, reference, "fbamd")) == 1
    assert untouched(cells, reference, "fbintel") == []
    assert "is FAIL PRODUCT-MISMATCH instead of PASS: so" in explained(cells, reference, "fbamd", 1, ("X",))[0]
    told = " ".join(complete(folder, 0))
    assert "results.json has totals" in told
    assert "exit status 0, 0 in results.json, 1 by its cells" in told
    assert {sentence.partition(" ")[0] for sentence in same_everywhere(folder)} == {
        "junit.xml", "ctrf.json", "allure-results",
    }  # fmt: skip
    change(folder, verdict="PANIC", code="PRODUCT-HOST-PANIC")
    assert explained(read_cells(folder), reference, "fbamd", 1, ("PRODUCT-HOST-PANIC",)) == []
    assert explained(read_cells(folder), reference, "fbamd", 0, ())
    change(folder, verdict="INFRA", code="", message="")
    assert explained(read_cells(folder), reference, "fbamd", 0, ()) == []
    assert "says neither code nor message" in " ".join(complete(folder, 10))
