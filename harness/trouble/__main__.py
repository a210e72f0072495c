"""``python -m harness.trouble``: a campaign of faults, one line a trial; status 1 when anything was wrong."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import click

from harness.trouble.campaign import Campaign
from harness.trouble.faults import FAULTS, MOMENTS


@click.command()
@click.option("--trials", type=click.IntRange(1), default=len(FAULTS), show_default=True, help="How many.")
@click.option("--seed", type=int, default=1, show_default=True, help="Which hosts and moments are drawn.")
@click.option("--fault", multiple=True, type=click.Choice(list(FAULTS)), help="Only this fault (repeatable).")
@click.option("--moment", type=click.Choice(list(MOMENTS)), default=None, help="Only at this moment.")
@click.option("--first", type=int, default=0, help="Number of the first trial, to repeat a single one.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for runs (default: a new one).")
def main(
    trials: int, seed: int, fault: tuple[str, ...], moment: str | None, first: int, out: Path | None
) -> None:
    """Break something in each of many runs, and hold verdicts, reports and hosts against what has to be so.

    Faults take turns; host and moment are drawn from the seed and the trial's number, so that '--first N --trials 1'
    with the same seed and faults repeats trial N.
    """
    folder = (out or Path(tempfile.mkdtemp(prefix="vmmcheck-trouble-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    click.echo(f"runs and logs: {folder}")
    campaign = Campaign(folder / time.strftime("%H%M%S"))
    bad = 0
    try:
        campaign.establish()
        click.echo(f"without a fault: {len(campaign.reference)} cells")
        for number in range(first, first + trials):
            trial = campaign.run(campaign.draw(number, seed, fault or tuple(FAULTS), moment or ""))
            click.echo(trial.line())
            for sentence in trial.wrong:
                click.echo(f"        {sentence}")
            bad += bool(trial.wrong)
            with (folder / "trials.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"seed": seed, **asdict(trial)}, default=str) + "\n")
    finally:
        campaign.close()
    click.echo(f"{trials - bad} of {trials} trials in order")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
