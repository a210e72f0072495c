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
from harness.results.replay import How, check_run


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--host", multiple=True, metavar="ALIAS", help="Only cells of this host (repeatable).")
def replay(run: Path, host: tuple[str, ...]) -> None:
    """Judge a finished run again from what it stored, without its hosts.

    Each case runs over the records of its guests and the answers of its host in the evidence: its program must have
    the hash of the one that ran, each command the text of the one that was answered. What has no stored answer is
    named; there the stored judgements are held against the stored observations. Every file is held against the
    checksums in its manifest.

    Exit status: 0 all verdicts are the same, 1 one is not, 10 evidence is damaged or a verdict could not be had again.
    """
    if not (run / "results.json").is_file():
        raise ConfigError(f"'{run}' is not a finished run: it has no results.json.")
    run = run.resolve()
    with tempfile.TemporaryDirectory(prefix="vmmcheck-replay-") as work:
        recipe = json.loads((run / "run.json").read_text(encoding="utf-8"))
        cells = json.loads((run / "results.json").read_text(encoding="utf-8"))["cells"]
        cells = [cell for cell in cells if cell["evidence"] and (not host or cell["host"] in host)]
        words = [
            *sorted({cell["nodeid"].partition("::")[0] for cell in cells}),
            *("-q", "-p", "no:hypothesispytest", "-p", "no:cacheprovider"),
            *(f"--case={case}" for case in sorted({cell["case"] for cell in cells})),
            *(f"--{name}={recipe[name]}" for name in ("seed", "stress") if name in recipe),
            f"--replay={run}",
            f"--run-dir={work}",
            *(f"--host={alias}" for alias in host),
        ]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *words],
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
            kind = "DAMAGED" if entry.how is How.DAMAGED else "DIFFERS"
            click.echo(f"{kind}  {entry.host}  {entry.test}\n         {entry.problem}")
        elif entry.why:
            click.echo(f"NOT JUDGED AGAIN  {entry.host}  {entry.test}\n         {entry.why}")
    sound = Counter(entry.how for entry in checked if not entry.problem)
    damaged = sum(entry.how is How.DAMAGED for entry in checked)
    different = sum(bool(entry.problem) for entry in checked) - damaged
    click.echo(
        f"{sound[How.RECORDS]} cells judged again from their records: same verdict; {different} differ; {damaged} are"
        f" damaged; {sound[How.JUDGEMENTS]} could not be judged again, their judgements hold;"
        f" {sound[How.UNANSWERED]} never had a verdict about the product"
    )
    raise SystemExit(1 if different else 10 if damaged or sound[How.JUDGEMENTS] else 0)
