"""``vmmcheck report``: the pages of a finished run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import click

from harness.errors import ConfigError, ToolMissing
from harness.report import write_reports
from harness.results import read_run

#: What makes HTML of Allure's results: an npm package that needs a Java runtime.
PACKAGE = "allure-commandline"
_HOW = f"Install it with: npm install --global {PACKAGE} (it needs Java: apt-get install default-jre-headless)."


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--allure/--no-allure", default=True, show_default=True, help="Allure's pages as well as our own.")
@click.option("--previous", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="An earlier Allure report, whose history this one continues.")  # fmt: skip
def report(run: Path, allure: bool, previous: Path | None) -> None:
    """Write the pages of a finished run again, and Allure's report beside them.

    RUN is its folder. Nothing is judged anew: junit.xml, ctrf.json, allure-results/ and report.html are made from
    results.json, and come out byte for byte as before.

    Exit status: 0 written, 4 RUN is no finished run, or the program that makes Allure's pages is missing.
    """
    write_reports(read_run(run))
    click.echo(f"report: {run / 'report.html'}")
    if not allure:
        return
    if previous is not None and not (previous / "history").is_dir():
        why = f"'{previous}' is no Allure report: it has no folder 'history'."
        raise ConfigError(why, help="Name another one with --previous.")
    program = shutil.which("allure")
    if program is None:
        raise ToolMissing("Allure's pages cannot be made: the program 'allure' is not on this machine.", help=_HOW)
    if previous is not None:
        shutil.copytree(previous / "history", run / "allure-results" / "history", dirs_exist_ok=True)
    out = run / "allure-report"
    done = subprocess.run(
        [program, "generate", "--clean", "--output", str(out), str(run / "allure-results")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode or not (out / "index.html").is_file():
        raise click.ClickException(f"'{program} generate' failed: {(done.stderr or done.stdout).strip()[-400:]}")
    click.echo(f"Allure: {out}")
    # Its pages need a server, and what they link to (evidence, our own page) is in the folder above.
    click.echo(f"look at it: python3 -m http.server --bind 127.0.0.1 --directory {run}")
    click.echo(f"            then http://127.0.0.1:8000/{out.name}/")
