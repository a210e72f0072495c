"""``vmmcheck bench``."""

from __future__ import annotations

import itertools

import click

from harness.bench import BenchFailed, measure, measure_run


@click.command()
@click.option("--count", default=20, show_default=True, help="Guest boots behind each rate.")
@click.option("--variants", default=4, show_default=True, help="Variants of every test in the run that is measured.")
def bench(count: int, variants: int) -> None:
    """Measure guest boots, SSH round trips, and how busy a run keeps the emulators of this machine.

    Nothing is asserted: run it before and after a change and compare.
    """
    try:
        for line in itertools.chain(measure(count), measure_run(variants)):
            click.echo(f"{line.value:10.2f} {line.unit:4} {line.what}")
    except BenchFailed as error:
        raise click.ClickException(str(error)) from None
