"""``vmmcheck coverage``: what is covered, from the case list, the suites, and what runs have answered."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from harness.catalogue import load_catalogue, load_gaps
from harness.coverage import build, collect, latest_answers, latest_sensitivity, listing, read_sensitivity, write_views
from harness.errors import ConfigError


@click.command()
@click.option("--lab", type=click.Path(path_type=Path), default=Path("labs/emulated.toml"), show_default=True,
              help="Whose columns are shown.")  # fmt: skip
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True,
              help="Run folders that the latest verdicts are taken from.")  # fmt: skip
@click.option("--sensitivity", "measured", type=click.Path(path_type=Path), default=None, metavar="FILE",
              help="A sensitivity.json (default: the newest in --runs).")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/coverage"), show_default=True,
              help="Where coverage.html, .md and .json are written.")  # fmt: skip
def coverage(lab: Path, runs: Path, measured: Path | None, out: Path) -> None:
    """Write the coverage page: each rule with its cases and their latest verdict on every column, each requirement
    with the seeded defects that make its cases fail, and the holes of both.

    Nothing is run. Runs with a seeded defect do not count.
    """
    collected = collect(lab)
    columns = {alias: platform.heading for alias, platform in collected.columns.items()}
    source = measured or latest_sensitivity(runs)
    try:
        sensitivity = read_sensitivity(source) if source is not None else None
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"'{source}' is no sensitivity.json: {type(error).__name__} {error}.",
            help="Name one that 'vmmcheck sensitivity' wrote, or leave --sensitivity out.",
        ) from None
    answers = latest_answers(runs, columns)
    made = build(listing(load_catalogue(), collected), collected, answers, sensitivity, load_gaps())
    write_views(made, out)
    for kind, count in Counter(hole.kind for hole in made.holes).items():
        click.echo(f"{count:4} x {kind}")
    click.echo(f"coverage of {len(made.cases)} cases on {len(columns)} columns: {out / 'coverage.html'}")
