"""``vmmcheck matrix``: what was observed on which class of CPU."""

from __future__ import annotations

import json
from pathlib import Path

import click

from harness.catalogue import load_catalogue
from harness.matrix import Matrix, changes, load_matrix, matrix_of_runs, merge, write_matrix
from harness.matrix.model import Row


@click.group()
def matrix() -> None:
    """Requirements and cases by class of CPU, folded from finished runs.

    \b
    vmmcheck matrix make runs/* --out matrix
    vmmcheck matrix merge yours/matrix.json theirs/matrix.json --out both
    vmmcheck matrix diff before/matrix.json after/matrix.json
    """


@matrix.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path), default=Path("matrix"), show_default=True)
def make(runs: tuple[Path, ...], out: Path) -> None:
    """Make a matrix of run folders: JSON, one HTML page, Markdown and CSV.

    Of two runs on one host the later one counts, case by case. Cases that no run has show as holes.
    """
    listed = load_catalogue()
    rows = {
        id: Row(case=id, rule=entry.rule, requirements=tuple(entry.requirements), priority=entry.priority)
        for id, entry in listed.items()
    }
    _write(matrix_of_runs([run.resolve() for run in runs], out.resolve(), rows, planned=rows), out)


@matrix.command(name="merge")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path), default=Path("matrix"), show_default=True)
def merge_command(files: tuple[Path, ...], out: Path) -> None:
    """Put several matrix.json together; of two entries of one host the one of the later run counts."""
    loaded = [(load_matrix(path), path.resolve().parent) for path in files]
    _write(merge(loaded, out.resolve()), out)


@matrix.command()
@click.argument("before", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("after", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def diff(before: Path, after: Path) -> None:
    """What became of each case on each class of CPU; exit status 1 when something got worse."""
    found = changes(load_matrix(before), load_matrix(after))
    for change in found:
        arrow = f"{change.before or 'not planned'} -> {change.after or 'not planned'}"
        click.echo(f"{'worse ' if change.worse else 'better'}  {change.case}  {change.column}  {arrow}")
    worse = sum(change.worse for change in found)
    click.echo(f"{worse} worse, {len(found) - worse} better or new")
    raise SystemExit(1 if worse else 0)


@matrix.command()
def schema() -> None:
    """Print the JSON schema of matrix.json."""
    click.echo(json.dumps(Matrix.model_json_schema(), indent=1))


def _write(made: Matrix, out: Path) -> None:
    for path in write_matrix(made, out):
        click.echo(str(path))
    hosts = sum(len(column.hosts) for column in made.columns)
    click.echo(f"{len(made.rows)} cases, {len(made.columns)} classes of CPU, {hosts} hosts, {len(made.runs)} runs")
