"""``vmmcheck compare`` and ``vmmcheck premerge``: what a change does."""

from __future__ import annotations

import fnmatch
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from harness.catalogue import load_catalogue
from harness.coverage import collect, listing
from harness.errors import ConfigError
from harness.inventory import load_inventory, select_hosts
from harness.inventory.module import with_module
from harness.premerge import (
    Comparison,
    Side,
    Step,
    compare_runs,
    describe,
    may_alternate,
    order_of,
    summary,
    warnings,
    write_comparison,
)

#: pytest's and our exit codes that leave a finished run behind (see 'vmmcheck run --help').
_FINISHED = (0, 1, 5, 10, 11)


def _tell(
    comparison: Comparison, out: Path, base: str, candidate: str, how: str = "", order: Sequence[_Made] = ()
) -> None:
    for side in (Side.WORSE, Side.UNSTABLE, Side.NOT_COMPARABLE, Side.FIXED):
        entries = comparison.of(side)
        if entries:
            click.echo(f"{side.upper()} ({len(entries)})")
        for entry in entries[:20]:
            click.echo(f"  {entry.host:<10} {entry.case}  {entry.test}\n             {entry.why}")
        if len(entries) > 20:
            click.echo(f"  ... {len(entries) - 20} more in {out / 'comparison.json'}")
    made = [(one.step.side, one.step.group, one.run.name) for one in order]
    for path in write_comparison(comparison, out, base=base, candidate=candidate, how=how, order=made):
        click.echo(str(path))
    for line in warnings(comparison):
        click.echo(line)
    click.echo(summary(comparison))


@click.command()
@click.argument("baseline", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("candidate", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path), default=Path("comparison"), show_default=True)
def compare(baseline: Path, candidate: Path, out: Path) -> None:
    """Set two finished runs against each other, cell by cell.

    Exit status: 0 nothing is worse, 1 something is, 5 nothing to compare, 10 some cells could not be compared.
    """
    comparison = compare_runs(baseline.resolve(), candidate.resolve())
    _tell(comparison, out, baseline.name, candidate.name)
    raise SystemExit(comparison.exit_code)


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--lab", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=True)
@click.option("--base", default="stock", show_default=True, metavar="MODULE", help="The module to compare with.")
@click.option("--candidate", required=True, metavar="MODULE", help="The module with the change.")
@click.option("--confirm", default=0, show_default=True, metavar="N", help="Repeat cells that differ N times on each.")
@click.option("--interleave/--no-interleave", default=None,
              help="Alternate both modules for each suite module (default: where no host has to be booted for a run"
              " and nothing to be built).")  # fmt: skip
@click.option("--host", multiple=True, metavar="ALIAS", help="Only this host (repeatable).")
@click.option("--case", multiple=True, metavar="GLOB", help="Only cases such as ISO-04 or 'ISO-*' (repeatable).")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Default: premerge/ and the time.")
@click.argument("run_args", nargs=-1, type=click.UNPROCESSED)
def premerge(
    lab: Path,
    base: str,
    candidate: str,
    confirm: int,
    interleave: bool | None,
    host: tuple[str, ...],
    case: tuple[str, ...],
    out: Path | None,
    run_args: tuple[str, ...],
) -> None:
    """Run the same cells on the same hosts with two modules, and tell what is worse and what is fixed.

    \b
    A MODULE is: stock (the host's own), ko:FILE (a vmm.ko on this machine), ref:REF or patch:FILE (built by the
    host's 'builder' of the inventory), defect:ID (a seeded defect, on emulated hosts).

    \b
    vmmcheck premerge --lab lab.toml --candidate patch:fix.diff --confirm 2
    vmmcheck premerge --lab labs/emulated.toml --candidate defect:svm-host-dr6-not-restored --host emuamd --case 'ISO-*'

    Where another module is loaded within seconds, baseline and candidate alternate, one suite module after the other;
    elsewhere one whole run follows the other. Cells that differ are repeated in turn. The order is in the output.
    Further words go to 'vmmcheck run'. Exit status: as 'vmmcheck compare'.
    """
    if any(word.partition("=")[0] in ("--run-dir", "--module", "--defect") for word in run_args):
        raise ConfigError(
            "premerge decides itself where its runs are and which module each loads: --run-dir, --module and --defect"
            " cannot be handed on.",
            help="Name the folder with --out, and the modules with --base and --candidate.",
        )
    folder = (out or Path("premerge") / time.strftime("%Y%m%d-%H%M%S")).resolve()
    hosts = select_hosts(load_inventory(lab), host)
    for alias, entry in hosts.items():  # what cannot be loaded is told before anything is run
        for module in (base, candidate):
            with_module(alias, entry, module)
    alternate, why = may_alternate(hosts, (base, candidate), asked=interleave)
    targets = [word for word in run_args if word.startswith("suites")]
    groups = (targets or _suite_modules(lab, case)) if alternate else []
    steps = order_of(groups, alternate=alternate)
    how = describe(steps, alternate=alternate, why=why)
    click.echo(how)
    words = (*(f"--host={alias}" for alias in host), *(f"--case={glob}" for glob in case))
    words += tuple(word for word in run_args if word not in groups)
    names = {"baseline": base, "candidate": candidate}

    def make(number: int, step: Step, arguments: tuple[str, ...]) -> _Made:
        click.echo(f"=== {number}: {step.side} {names[step.side]} {step.group}".rstrip())
        return _Made(step, _run(lab, names[step.side], folder / "runs", arguments))

    made = [make(number, step, (*words, *([step.group] if step.group else []))) for number, step in enumerate(steps, 1)]
    bases = [one.run for one in made if one.step.side == "baseline"]
    candidates = [one.run for one in made if one.step.side == "candidate"]
    first = compare_runs(bases, candidates)
    differing = [entry for entry in first.differences if entry.side in (Side.WORSE, Side.FIXED)]
    again: list[tuple[Path, Path]] = []
    nodes = [str((entry.after or entry.before or {})["nodeid"]) for entry in differing]
    only = sorted({f"--host={entry.host}" for entry in differing})
    for round in range(confirm if differing else 0):
        turn = ("baseline", "candidate") if round % 2 else ("candidate", "baseline")
        pair = {side: make(len(made) + at, Step(side, "repeated"), (*only, *nodes)) for at, side in enumerate(turn, 1)}
        made += [pair[side] for side in turn]
        again.append((pair["baseline"].run, pair["candidate"].run))
    comparison = compare_runs(bases, candidates, confirmations=again)
    _tell(comparison, folder, base, candidate, how, made)
    code = comparison.exit_code
    raise SystemExit(10 if code == 0 and base != candidate and comparison.same_module else code)


@dataclass(frozen=True, slots=True)
class _Made:
    """A step and the folder of its run."""

    step: Step
    run: Path


def _suite_modules(lab: Path, case: tuple[str, ...]) -> list[str]:
    """Modules of the suites that have tests of the wanted cases."""
    found = {
        test.partition("::")[0]
        for one in listing(load_catalogue(), collect(lab))
        if not case or any(fnmatch.fnmatchcase(one.entry.id, glob) for glob in case)
        for test in one.tests
    }
    if not found:
        raise ConfigError(f"No suite has a case {', '.join(case)}.", help="'vmmcheck cases' lists all of them.")
    return sorted(found)


def _run(lab: Path, module: str, parent: Path, arguments: tuple[str, ...]) -> Path:
    """One run in a process of its own; its folder. Raises :class:`ConfigError` when it left none behind."""
    before = {path.name for path in parent.iterdir()} if parent.exists() else set()
    command = [sys.executable, "-m", "harness.cli", "run", f"--lab={lab}", f"--run-dir={parent}"]
    done = subprocess.run([*command, f"--module={module}", *arguments], check=False)
    made = sorted(path for path in parent.iterdir() if path.name not in before) if parent.exists() else []
    if done.returncode not in _FINISHED or not made or not (made[-1] / "results.json").exists():
        raise ConfigError(
            f"The run with module '{module}' ended with status {done.returncode} and left no results in '{parent}'.",
            help="See what it said above; words that premerge does not know are handed on to 'vmmcheck run'.",
        )
    return made[-1]
