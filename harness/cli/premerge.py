"""``vmmcheck compare`` and ``vmmcheck premerge``: what a change does."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import click

from harness.errors import ConfigError
from harness.premerge import Comparison, Side, compare_runs, summary, write_comparison

#: pytest's and our exit codes that leave a finished run behind (see 'vmmcheck run --help').
_FINISHED = (0, 1, 5, 10, 11)


def _tell(comparison: Comparison, out: Path, base: str, candidate: str) -> None:
    for side in (Side.WORSE, Side.UNSTABLE, Side.NOT_COMPARABLE, Side.FIXED):
        entries = comparison.of(side)
        if entries:
            click.echo(f"{side.upper()} ({len(entries)})")
        for entry in entries[:20]:
            click.echo(f"  {entry.host:<10} {entry.case}  {entry.test}\n             {entry.why}")
        if len(entries) > 20:
            click.echo(f"  ... {len(entries) - 20} more in {out / 'comparison.json'}")
    for path in write_comparison(comparison, out, base=base, candidate=candidate):
        click.echo(str(path))
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
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Default: premerge/ and the time.")
@click.argument("run_args", nargs=-1, type=click.UNPROCESSED)
def premerge(lab: Path, base: str, candidate: str, confirm: int, out: Path | None, run_args: tuple[str, ...]) -> None:
    """Run the same cells on the same hosts with two modules, and tell what is worse and what is fixed.

    \b
    A MODULE is: stock (the host's own), ko:FILE (a vmm.ko on this machine), ref:REF or patch:FILE (built by the
    host's 'builder' of the inventory), defect:ID (a seeded defect, on emulated hosts).

    \b
    vmmcheck premerge --lab lab.toml --candidate patch:fix.diff --confirm 2
    vmmcheck premerge --lab labs/emulated.toml --candidate defect:svm-host-dr6-not-restored --host emuamd --case 'ISO-*'

    The two runs follow each other, as a module is loaded for a whole run; cells that differ are repeated in turn.
    Further words go to 'vmmcheck run'. Exit status: as 'vmmcheck compare'.
    """
    folder = (out or Path("premerge") / time.strftime("%Y%m%d-%H%M%S")).resolve()
    pairs = [_pair(lab, base, candidate, folder / "runs", run_args)]
    for _ in range(confirm):
        first = compare_runs(*pairs[0])
        differing = [entry for entry in first.differences if entry.side in (Side.WORSE, Side.FIXED)]
        if not differing:
            break
        names = [str((entry.after or entry.before or {})["nodeid"]) for entry in differing]
        hosts = sorted({f"--host={entry.host}" for entry in differing})
        pairs.append(_pair(lab, base, candidate, folder / "runs", (*hosts, *names)))
    comparison = compare_runs(*pairs[0], confirmations=pairs[1:])
    _tell(comparison, folder, base, candidate)
    raise SystemExit(comparison.exit_code)


def _pair(lab: Path, base: str, candidate: str, parent: Path, arguments: tuple[str, ...]) -> tuple[Path, Path]:
    return _run(lab, base, parent, arguments), _run(lab, candidate, parent, arguments)


def _run(lab: Path, module: str, parent: Path, arguments: tuple[str, ...]) -> Path:
    """One run in a process of its own; its folder. Raises :class:`ConfigError` when it left none behind."""
    before = {path.name for path in parent.iterdir()} if parent.exists() else set()
    click.echo(f"=== {module}")
    command = [sys.executable, "-m", "harness.cli", "run", f"--lab={lab}", f"--run-dir={parent}"]
    done = subprocess.run([*command, f"--module={module}", *arguments], check=False)
    made = sorted(path for path in parent.iterdir() if path.name not in before) if parent.exists() else []
    if done.returncode not in _FINISHED or not made or not (made[-1] / "results.json").exists():
        raise ConfigError(f"The run with module '{module}' ended with status {done.returncode} and gave no results.")
    return made[-1]
