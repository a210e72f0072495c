"""``vmmcheck bench``."""

from __future__ import annotations

import click

from harness.bench import measure


@click.command()
@click.option("--count", default=20, show_default=True, help="Guest boots behind each rate.")
def bench(count: int) -> None:
    """Measure guest boots and SSH round trips on this machine.

    Nothing is asserted: run it before and after a change and compare.
    """
    for line in measure(count):
        click.echo(f"{line.value:10.2f} {line.unit:4} {line.what}")
