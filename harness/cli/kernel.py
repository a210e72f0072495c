"""``vmmcheck kernel``: FreeBSD's vmm sources with a seeded defect."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from harness.errors import ConfigError
from harness.seeding import apply_defect, find_vmm, load_defects, version_of
from harness.seeding.apply import MARKER


@click.group()
def kernel() -> None:
    """Seed defects into FreeBSD's vmm sources, to see the suite fail on a real vmm.ko."""


@kernel.command("list")
def list_defects() -> None:
    """List the defects that can be seeded."""
    table = Table("defect", "requirement", "vendor", "what it does", "caught by")
    for defect in load_defects().values():
        said = defect.summary + (f" (hazard: {defect.hazard})" if defect.hazard else "")
        table.add_row(defect.id, defect.requirement, defect.vendor, said, " ".join(defect.caught_by))
    Console().print(table)


@kernel.command()
@click.argument("id")
@click.option("--src", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="FreeBSD's source tree, or its sys/amd64/vmm.")  # fmt: skip
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path),
              help="New folder for the changed copy and the patch.")  # fmt: skip
def defect(id: str, src: Path, out: Path) -> None:
    """Write a copy of sys/amd64/vmm with the defect ID, and a patch for the tree; --src is only read."""
    known = load_defects()
    if id not in known:
        raise ConfigError(f"There is no defect '{id}'.", help="'vmmcheck kernel list' names them.")
    seeded = apply_defect(known[id], src, out)
    click.echo(f"{known[id].requirement}: {known[id].summary}")
    click.echo(f"sources  {seeded.folder} ({', '.join(seeded.files)} changed)")
    click.echo(f"patch    {seeded.patch}")
    click.echo(f"marker   sysctl -n {MARKER} says '{id}' on a host that runs it")


@kernel.command()
@click.option("--src", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="FreeBSD's source tree, or its sys/amd64/vmm; only read.")  # fmt: skip
def fits(src: Path) -> None:
    """Tell which defects fit a source tree, and what does not. Exit status 0 when all do, 10 otherwise."""
    folder, version = find_vmm(src), version_of(src)
    click.echo(f"sources  {folder}" + (f", __FreeBSD_version {version}" if version is not None else ""))
    known = load_defects()
    refused = 0
    with tempfile.TemporaryDirectory(prefix="vmmcheck-kernel-") as work:
        for name, entry in known.items():
            try:
                apply_defect(entry, src, Path(work) / name)
                click.echo(f"fits     {name}")
            except ConfigError as error:
                refused += 1
                click.echo(f"not      {name}: {error.message}")
    click.echo(f"{len(known) - refused} of {len(known)} defects fit")
    raise SystemExit(10 if refused else 0)
