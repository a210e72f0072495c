"""``vmmcheck run``: plain pytest with the suites of this tree, the same code path as ``pytest suites --lab``."""

from __future__ import annotations

import os
from pathlib import Path

import click
import pytest

from harness.cli.launch import absolute_module

ROOT = Path(__file__).resolve().parents[2]


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--lab", type=click.Path(path_type=Path), default=Path("labs/emulated.toml"), show_default=True,
              help="Inventory of the hosts.")  # fmt: skip
@click.option("--host", multiple=True, metavar="ALIAS", help="Only this host, or hosts such as 'emu*' (repeatable).")
@click.option("--hosts", default="", metavar="EXPR", help="Only hosts for which this holds: 'vendor == amd'.")
@click.option("--case", multiple=True, metavar="GLOB", help="Only cases such as DAT-01 or 'DAT-*' (repeatable).")
@click.option("--priority", type=int, default=0, metavar="N", help="Only cases of priority 1 to N.")
@click.option("--sample", type=click.IntRange(0), default=0, metavar="N", help="Only N variants of every test.")
@click.option("--sample-seed", type=int, default=1, show_default=True, help="Which variants --sample draws.")
@click.option("--module", default="", metavar="MODULE",
              help="vmm.ko under test: stock, ko:FILE, ref:REF, patch:FILE or (emulated) defect:ID.")  # fmt: skip
@click.option("--defect", multiple=True, metavar="ID", help="Seed a defect into the vmm.ko of emulated hosts.")
@click.option("--hazards", is_flag=True, help="Also run cases that may take a host down.")
@click.option("--seed", type=int, default=None, metavar="N", help="Seed of the stress cases, as a run printed it.")
@click.option("--stress", type=int, default=1, metavar="N", help="Stress cases do N times as much.")
@click.option("--run-dir", default="runs", show_default=True, help="Where run folders are made.")
@click.argument("pytest_args", nargs=-1, type=click.UNPROCESSED)
def run(
    lab: Path,
    host: tuple[str, ...],
    hosts: str,
    case: tuple[str, ...],
    priority: int,
    sample: int,
    sample_seed: int,
    module: str,
    defect: tuple[str, ...],
    hazards: bool,
    seed: int | None,
    stress: int,
    run_dir: str,
    pytest_args: tuple[str, ...],
) -> None:
    """Run the suites against the hosts of a lab.

    Further words go to pytest: '-k write_watch', '-x', '--pdb' (with one --host), a module such as
    suites/test_reset.py.

    \b
    Exit status: 0 all answered as expected, 1 product failure, 2 interrupted, 4 usage or configuration,
    5 nothing ran or all skipped, 10 unanswered cells (lab or harness), 11 only flaky cells.
    """
    words = [f"--lab={lab.resolve()}", f"--run-dir={Path(run_dir).resolve()}", f"--priority={priority}"]
    words += [f"--host={alias}" for alias in host] + [f"--case={pattern}" for pattern in case]
    words += [f"--sample={sample}", f"--sample-seed={sample_seed}"] if sample else []
    words += [f"--hosts={hosts}"] if hosts else []
    words += [f"--module={absolute_module(module)}"] if module else []
    words += [f"--defect={one}" for one in defect] + ["--hazards"] * hazards
    words += [f"--stress={stress}"] if stress != 1 else []
    words += [f"--seed={seed}"] if seed is not None else []
    has_target = any(word.startswith("suites") for word in pytest_args)
    os.chdir(ROOT)
    # Hypothesis serves the project's own tests; its plugin alone would import all of it in each worker.
    words += ["-p", "no:hypothesispytest"]
    # Nothing here is found by collecting garbage five times at the end of every process.
    words += ["-p", "no:unraisableexception"]
    # What a suite logs or prints is no evidence; what xdist's looponfail and Allure's adapter do, nothing here uses.
    words += ["-p", "no:logging", "-p", "no:allure_pytest", "-p", "no:xdist.looponfail", "--capture=sys"]
    # This command has imported the plugin already; its assertions are no test's.
    words += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    raise SystemExit(pytest.main([*([] if has_target else ["suites"]), "-q", *words, *pytest_args]))
