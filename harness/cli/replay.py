"""``vmmcheck replay``: the verdicts of a finished run, judged again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import click

from harness.build.toolchain import ROOT
from harness.errors import ConfigError
from harness.results.replay import check_run


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--host", multiple=True, metavar="ALIAS", help="Only cells of this host (repeatable).")
def replay(run: Path, host: tuple[str, ...]) -> None:
    """Judge the stored records of a finished run again, without its hosts.

    Each case builds its program anew - it must have the hash of the one that ran - and judges the records in the
    evidence. Where a case asked the host itself, its stored judgements are held against the stored observations.
    Every file is held against the checksums in its manifest.

    Exit status: 0 all verdicts are the same, 1 one is not, 10 evidence is damaged.
    """
    if not (run / "results.json").is_file():
        raise ConfigError(f"'{run}' is not a finished run: it has no results.json.")
    run = run.resolve()
    with tempfile.TemporaryDirectory(prefix="vmmcheck-replay-") as work:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "suites",
            "-q",
            "-p",
            "no:hypothesispytest",
            "-p",
            "no:cacheprovider",
        ]
        cells = json.loads((run / "results.json").read_text(encoding="utf-8"))["cells"]
        cases = sorted({cell["case"] for cell in cells if cell["evidence"]})
        words = [
            *(f"--case={case}" for case in cases),
            f"--replay={run}",
            f"--run-dir={work}",
            *(f"--host={alias}" for alias in host),
        ]
        done = subprocess.run(
            [*command, *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env={**os.environ, "NO_COLOR": "1"},
            check=False,
        )
        results = sorted(Path(work).glob("*/results.json"))
        if not results:
            raise ConfigError(f"Nothing could be judged again: {(done.stderr or done.stdout).strip()[-600:]}")
        again = {(cell["host"], cell["test"]): cell for cell in json.loads(results[-1].read_text())["cells"]}
    checked = [entry for entry in check_run(run, again) if not host or entry.host in host]
    for entry in checked:
        if entry.problem:
            kind = "DAMAGED" if entry.how == "damaged" else "DIFFERS"
            click.echo(f"{kind}  {entry.host}  {entry.test}\n         {entry.problem}")
    counts = Counter("damaged" if e.how == "damaged" else "different" if e.problem else e.how for e in checked)
    click.echo(
        f"{counts['records']} cells judged again from their records: same verdict; {counts['judgements']} asked their"
        f" host as well: their judgements hold; {counts['different']} differ; {counts['damaged']} are damaged"
    )
    raise SystemExit(1 if counts["different"] else 10 if counts["damaged"] else 0)
