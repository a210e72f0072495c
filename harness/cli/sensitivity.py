"""``vmmcheck sensitivity``: the suites against every seeded defect of the reference hypervisor."""

from __future__ import annotations

import fnmatch
from pathlib import Path

import click

from harness.sensitivity import Defect, Matrix, Sensitivity, Settings, State, load_catalogue, write_views

_SHOWN = (State.SURVIVED, State.OTHERS, State.REASON, State.UNDECIDED)


@click.command()
@click.option("--full", is_flag=True, help="Run the whole sample on every defect; without it each stops once caught.")
@click.option("--vendor", type=click.Choice(["intel", "amd"]), help="Only this vendor's emulated host.")
@click.option("--defect", multiple=True, metavar="GLOB", help="Only these defects, such as 'svm-clean-*' (repeatable).")
@click.option("--requirement", multiple=True, metavar="ID", help="Only defects of this requirement (repeatable).")
@click.option("--case", multiple=True, metavar="GLOB", help="Only cases such as 'DAT-*' (repeatable).")
@click.option("--own", type=click.IntRange(1, 16),
              help="Variants of each test of the defect's requirement (default: 4, with --full 3).")  # fmt: skip
@click.option("--others", default=1, show_default=True, type=click.IntRange(0, 16),
              help="Variants of each test of other requirements.")  # fmt: skip
@click.option("--jobs", default=0, type=click.IntRange(0, 64), metavar="N",
              help="Emulated hosts at a time (default: one per core).")  # fmt: skip
@click.option("--run-dir", default="runs", show_default=True, type=click.Path(path_type=Path),
              help="Where the folder of the measurement is made.")  # fmt: skip
@click.option("--list", "list_", is_flag=True, help="List the defects and run nothing.")
def sensitivity(
    full: bool,
    vendor: str | None,
    defect: tuple[str, ...],
    requirement: tuple[str, ...],
    case: tuple[str, ...],
    own: int | None,
    others: int,
    jobs: int,
    run_dir: Path,
    list_: bool,
) -> None:
    """Show that the suites can fail: run them against every seeded defect.

    Each defect is one deliberate violation of one requirement in the reference hypervisor. It is caught when a case
    of that requirement fails on it, in the way the defect shows itself, and passes without it.

    \b
    Exit status: 0 every defect is caught, 1 one is not (or the correct hypervisor fails, or a requirement has no
    defect), 2 interrupted, 4 usage or configuration, 10 something has no answer (lab or harness).
    """
    chosen = _choose(load_catalogue(), defect, requirement)
    if list_:
        for one in chosen:
            click.echo(f"{one.id:32} {one.requirement}  {'/'.join(one.vendors):9}  {one.summary}")
        return
    words = ("suites", *(f"--case={pattern}" for pattern in case))
    vendors = (vendor,) if vendor else ("intel", "amd")
    variants = own or (3 if full else 4)
    measured = Sensitivity(
        Settings(chosen, vendors, full, variants, others, jobs, words, run_dir), lambda text: click.echo(text, err=True)
    )
    interrupted = False
    try:
        measured.measure()
    except KeyboardInterrupt:
        interrupted = True
    write_views(measured.matrix, measured.folder)
    _summarize(measured.matrix, measured.folder)
    raise SystemExit(2 if interrupted else measured.matrix.exit_code())


def _choose(defects: tuple[Defect, ...], globs: tuple[str, ...], requirements: tuple[str, ...]) -> tuple[Defect, ...]:
    return tuple(
        defect
        for defect in defects
        if (not globs or any(fnmatch.fnmatchcase(defect.id, glob) for glob in globs))
        and (not requirements or defect.requirement in requirements)
    )


def _summarize(matrix: Matrix, folder: Path) -> None:
    rows = matrix.rows()
    for row in rows:
        if row.state in _SHOWN:
            why = row.failure or next(iter(row.unanswered), None)
            detail = f": {why.case} {why.reason}" if why is not None else f": {row.stopped}" if row.stopped else ""
            click.echo(f"{row.state.value.upper()} {row.defect.id} ({row.vendor}, {row.defect.requirement}){detail}")
    for vendor, finding in matrix.dirty():
        click.echo(f"CLEAN HYPERVISOR {finding.verdict} {vendor} {finding.test}: {finding.reason}")
    for requirement, vendor in matrix.missing:
        click.echo(f"NO DEFECT for {requirement} on {vendor} in the catalogue")
    if matrix.full and matrix.unproven():
        click.echo("nothing made fail: " + ", ".join(f"{case} ({vendor})" for case, vendor in matrix.unproven()))
    totals = matrix.totals()
    facts = matrix.facts
    click.echo(
        f"{totals[State.CAUGHT]} of {len(rows)} defects caught ("
        + ", ".join(f"{totals[state]} {state.value}" for state in _SHOWN)
        + f"); {facts['cells']['defects']} cells with defects, {facts['cells']['clean']} without, in"
        f" {facts['wall_seconds']} s with {facts['jobs']} hosts at a time, {facts['cpu_seconds']} s of CPU"
    )
    click.echo(f"report: {folder / 'sensitivity.html'}")
