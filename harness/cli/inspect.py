"""Commands that only look: hosts of a lab, the evidence of a cell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from harness.errors import ConfigError
from harness.inventory import load_inventory
from harness.lab import platform_of
from harness.results.evidence import verify_manifest


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
@click.argument("cell", type=click.Path(exists=True, file_okay=False, path_type=Path))
def evidence(cell: Path) -> None:
    """Print the story of one cell: CELL is its evidence folder, as the summary of a run names it."""
    try:
        verdict: dict[str, Any] = json.loads((cell / "verdict.json").read_text(encoding="utf-8"))
    except OSError:
        raise ConfigError(
            f"'{cell}' is no evidence folder: it has no verdict.json.",
            help="Name the folder that the summary of the run shows behind 'evidence:'.",
        ) from None
    console = Console()
    console.print(f"[bold]{verdict['verdict']}[/] {verdict['case']} on {verdict['host']} ({verdict['platform']})")
    console.print(verdict["rule"], verdict["test"], verdict["message"], sep="\n", markup=False)
    for name in ("program.txt", "rom.json", "registers.json", "commands.jsonl", "notes.txt"):
        if (cell / name).is_file():
            console.rule(name)
            console.print((cell / name).read_text(encoding="utf-8"), markup=False, highlight=False)
    changed = verify_manifest(cell)
    console.rule("manifest")
    console.print(f"changed or missing: {', '.join(changed)}" if changed else "all files are as they were written")
