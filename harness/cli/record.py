"""``vmmcheck record``: what a host's tools print, as transcripts for the contract tests."""

from __future__ import annotations

from pathlib import Path

import click

from harness.contract import record_host
from harness.inventory import load_inventory, select_hosts


@click.command()
@click.option("--lab", type=click.Path(path_type=Path), default=Path("labs/emulated.toml"), show_default=True)
@click.option("--host", required=True, metavar="ALIAS", help="The host to record.")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder for the files.")
def record(lab: Path, host: str, out: Path) -> None:
    """Record what FreeBSD's tools print on a host: one file a script, and one guest run.

    The contract tests hold the driver's parsers and the emulated host to such files; replaying them needs no host.
    """
    entry = select_hosts(load_inventory(lab), [host])[host]
    names = record_host(host, entry, out, lambda what: click.echo(f"  {what}", err=True))
    click.echo(f"{len(names)} transcripts of '{host}' are in {out}")
