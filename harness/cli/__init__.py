"""The ``vmmcheck`` command."""

from __future__ import annotations

import click

from harness import __version__
from harness.cli.bench import bench
from harness.cli.bisect import bisect
from harness.cli.cases import cases
from harness.cli.coverage import coverage
from harness.cli.doctor import doctor, guests
from harness.cli.image import image
from harness.cli.inspect import evidence, hosts
from harness.cli.kernel import kernel
from harness.cli.matrix import matrix
from harness.cli.newcase import new_case
from harness.cli.nightly import history, nightly
from harness.cli.oracle import oracle
from harness.cli.premerge import compare, premerge
from harness.cli.probe import probe
from harness.cli.record import record
from harness.cli.replay import replay
from harness.cli.report import report
from harness.cli.run import run
from harness.cli.sensitivity import sensitivity
from harness.errors import VmmcheckError


class _Group(click.Group):
    """Prints our errors as the one sentence they are, without a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except VmmcheckError as error:
            click.echo(str(error), err=True)
            ctx.exit(4)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vmmcheck")
def cli() -> None:
    """Hardware conformance tests for FreeBSD's bhyve: debug registers, host context, VMCB caching.

    Start with 'vmmcheck run --lab labs/emulated.toml': it needs no hardware and no FreeBSD.

    For machines of your own: 'vmmcheck probe ADDRESS' prints what an inventory says of one (labs/example.toml explains
    the rest), 'vmmcheck doctor --lab FILE' boots a guest on each, 'vmmcheck run --lab FILE' runs the suites there.
    """


for command in (
    run, hosts, cases, coverage, new_case, oracle, evidence, matrix, compare, premerge, sensitivity, bench, doctor,
    probe, guests, image, kernel, report, replay, record, nightly, history, bisect,
):  # fmt: skip
    cli.add_command(command)


def main() -> None:
    """Entry point of the installed command."""
    cli(prog_name="vmmcheck")


if __name__ == "__main__":
    main()
