"""Commands that only look: hosts of a lab, the evidence of a cell."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from harness.inventory import load_inventory
from harness.lab import platform_of
from harness.results.evidence import verify_manifest
from harness.results.story import find_cell, story


@click.command()
@click.option("--lab", type=click.Path(path_type=Path), default=Path("labs/emulated.toml"), show_default=True)
def hosts(lab: Path) -> None:
    """List the hosts of a lab and what each can show."""
    table = Table("alias", "kind", "column", "capabilities", title=f"{lab}")
    for alias, host in load_inventory(lab).host.items():
        platform = platform_of(alias, host)
        table.add_row(alias, platform.kind, platform.heading, ", ".join(sorted(platform.capabilities)))
    Console().print(table)


@click.command()
@click.argument("cell")
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True,
              help="Where the newest run is taken from when CELL is no folder.")  # fmt: skip
def evidence(cell: str, runs: Path) -> None:
    """Print the story of one cell: what was run, what was expected and observed, and how to run it again.

    CELL is its evidence folder, as the summary of a run names it, or a cell of the newest run: its name in results.json
    or a part of it, with @HOST behind it where several hosts have it.

    Exit status: 0 all files are as they were written, 10 one is not.
    """
    folder = find_cell(cell, runs)
    try:
        changed = verify_manifest(folder)
        trouble = f"These files differ from the manifest: {', '.join(changed)}." if changed else ""
    except (OSError, ValueError) as error:
        trouble = f"The manifest cannot be read: {error}."
    try:
        for line in story(folder):
            click.echo(line)
    except (ValueError, KeyError, TypeError) as error:
        trouble = trouble or f"It cannot be read on ({type(error).__name__}: {error})."
    if trouble:
        click.echo(f"The evidence in '{folder}' is damaged. {trouble} Nothing in it can be believed.", err=True)
        raise SystemExit(10)
    click.echo("\nAll files are as they were written.")
