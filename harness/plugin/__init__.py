"""The pytest plugin: hosts as the first parameter, one worker per host, a verdict for every planned cell."""

from __future__ import annotations

import pytest

from harness.catalogue import expectations
from harness.errors import VmmcheckError
from harness.plugin import budget, hazards, sampling, stress, wanted
from harness.plugin.collection import apply_metadata, parametrize_subject
from harness.plugin.items import ItemRunner
from harness.plugin.options import LAB, LabConfig, add_options, read_lab


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)
    stress.add_options(parser)
    sampling.add_options(parser)
    budget.add_options(parser)
    hazards.add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Before xdist reads its options: one worker per host, by itself."""
    lab = _lab_or_usage_error(config)
    if lab is None or hasattr(config, "workerinput"):
        return
    _read_suites(config)
    sampling.check_options(config)
    budget.check_options(config)
    option = config.option
    if option.usepdb or len(lab.hosts) == 1 or lab.replay is not None:
        if option.usepdb and len(lab.hosts) > 1:
            raise pytest.UsageError("--pdb works on one host at a time: choose it with --host ALIAS.")
        option.numprocesses = None
        return
    if option.numprocesses not in (None, len(lab.hosts)) or option.dist not in ("no", "load"):
        raise pytest.UsageError(
            f"One worker drives one host: leave -n and --dist out, or use -n {len(lab.hosts)} for these hosts."
        )
    # xdist turns the number into these by a hook of the same name, which may have run before this one.
    option.numprocesses = len(lab.hosts)
    option.tx = ["popen"] * len(lab.hosts)
    option.dist = "load"


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "case(metadata): the conformance case that a test is evidence for")
    config.addinivalue_line("markers", "needs(*capabilities): what the host must offer for this variant")
    lab = config.stash.get(LAB, None)
    if lab is None:
        return
    stress.choose_seed(config)
    config.pluginmanager.register(stress, "vmmcheck-stress")
    if hasattr(config, "workerinput") or config.option.collectonly or not config.option.numprocesses:
        config.pluginmanager.register(ItemRunner(config), "vmmcheck-items")
    if not hasattr(config, "workerinput") and not config.option.collectonly:
        # Workers have no use for what makes the reports.
        from harness.plugin.controller import Controller

        config.pluginmanager.register(Controller(config), "vmmcheck-controller")
        config.pluginmanager.register(stress.StressSummary(config), "vmmcheck-stress-summary")


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "subject" not in metafunc.fixturenames:
        return
    parametrize_subject(metafunc, metafunc.config.stash.get(LAB, None))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    lab = config.stash.get(LAB, None)
    if lab is not None:
        apply_metadata(config, items, lab)


def _read_suites(config: pytest.Config) -> None:
    """Read what stands beside the suites before hosts are started: a mistake in it is told in one sentence, and so is
    a case that is asked for and is not there."""
    try:
        folders = wanted.folders_of(config)
        for folder in folders:
            expectations(folder)
        wanted.require_known(config.option.case, folders)
    except VmmcheckError as error:
        raise pytest.UsageError(str(error)) from None


def _lab_or_usage_error(config: pytest.Config) -> LabConfig | None:
    try:
        lab = read_lab(config)
    except VmmcheckError as error:
        raise pytest.UsageError(str(error)) from None
    if lab is not None:
        config.stash[LAB] = lab
    return lab
