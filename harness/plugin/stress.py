"""Chance for stress cases, such that whatever it found can be had again: the seed is printed and can be given."""

from __future__ import annotations

import random
import secrets
from typing import Any

import pytest

from harness.cases import Stress
from harness.plugin.collection import PLAN


def add_options(parser: pytest.Parser) -> None:
    group = parser.getgroup("vmmcheck")
    group.addoption("--seed", type=int, metavar="N", help="seed of the stress cases, to repeat what a run printed")
    group.addoption("--stress", type=int, default=1, metavar="N", help="stress cases do N times as much (default: 1)")


def choose_seed(config: pytest.Config) -> None:
    """Make up the run's seed where none was given; workers, who read the words only, are told the controller's."""
    given = getattr(config, "workerinput", {}).get("vmmcheck_seed")
    if given is not None:
        config.option.seed = given
    if config.option.seed is None:
        config.option.seed = secrets.randbits(32)
    if config.option.stress < 1:
        raise pytest.UsageError(f"--stress={config.option.stress}: stress cases do at least 1 times as much.")


@pytest.fixture
def stress(request: pytest.FixtureRequest) -> Stress:
    """Seeded chance; the evidence of the cell says how to have it again."""
    option: Any = request.config.option
    plan = request.node.stash.get(PLAN, None)
    name = plan.test.rpartition("::")[2] if plan is not None else request.node.name
    # Any fixture order will do: 'subject' opens the recorder.
    recorder = request.getfixturevalue("subject").recorder
    recorder.add_note(f"Chance comes from seed {option.seed}; have it again with --seed={option.seed}"
                      f" --stress={option.stress}.")  # fmt: skip
    return Stress(option.seed, option.stress, random.Random(f"{option.seed}:{name}"))


class StressSummary:
    """Registered in the process that the user started: tells workers the seed, prints it if a stress case was run."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._used = False

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["vmmcheck_seed"] = self._config.option.seed

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._used |= "stress" in report.keywords

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._used:
            option = self._config.option
            terminalreporter.write_line(f"stress cases: repeat them with --seed={option.seed} --stress={option.stress}")
