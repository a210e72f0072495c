"""``vmmcheck record``: what a host's tools print, as transcripts for the contract tests."""

from __future__ import annotations

from pathlib import Path

import click

from harness.contract import record_host
from harness.errors import NoHosts
from harness.inventory import load_inventory, select_hosts


@click.command()
@click.option("--lab", type=click.Path(path_type=Path), default=Path("labs/emulated.toml"), show_default=True)
@click.option("--host", required=True, metavar="ALIAS", help="The host to record.")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder for the files.")
def record(lab: Path, host: str, out: Path) -> None:
    """Record what FreeBSD's tools print on a host: one file a script, and one guest run.

    The contract tests hold the driver's parsers and the emulated host to such files; replaying them needs no host.
    """
    chosen = select_hosts(load_inventory(lab), [host])
    if len(chosen) > 1:
        raise NoHosts(f"'{host}' is {', '.join(chosen)}; one host is recorded at a time.", help="Name one of them.")
    (alias, entry) = next(iter(chosen.items()))
    names = record_host(alias, entry, out, lambda what: click.echo(f"  {what}", err=True))
    click.echo(f"{len(names)} transcripts of '{alias}' are in {out}")
