"""``vmmcheck nightly`` and ``vmmcheck history``: night after night."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.launch import finished_folder, launch_run
from harness.nightly import History, night_of_run, reports, terminal, write_history

_HISTORY = click.option("--history", "folder", type=click.Path(path_type=Path, file_okay=False),
                        default=Path("runs/history"), show_default=True, metavar="DIR",
                        help="The history: one for each purpose, do not mix nights with other runs.")  # fmt: skip


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--lab", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              default=Path("labs/emulated.toml"), show_default=True, help="Inventory of the hosts.")  # fmt: skip
@_HISTORY
@click.option("--run-dir", type=click.Path(path_type=Path, file_okay=False), default=Path("runs"), show_default=True,
              help="Where run folders are made.")  # fmt: skip
@click.option("--add", "added", type=click.Path(path_type=Path, exists=True, file_okay=False), multiple=True,
              metavar="RUN", help="Run nothing: add this finished run (repeatable).")  # fmt: skip
@click.argument("run_args", nargs=-1, type=click.UNPROCESSED)
def nightly(lab: Path, folder: Path, run_dir: Path, added: tuple[Path, ...], run_args: tuple[str, ...]) -> None:
    """Run a lab, add the run to a history, and tell what is new since the night before.

    \b
    vmmcheck nightly --lab lab.toml --history nights
    vmmcheck nightly --history nights --add runs/20260101-010203-ab12

    Further words go to 'vmmcheck run'. nightly.html and nightly.md are written into the history.

    Exit status: that of the run (see 'vmmcheck run --help'); with --add 0, or 4 for what is no finished run.
    """
    history = History(folder)
    if added:
        if run_args:
            raise click.UsageError(f"--add runs nothing: '{run_args[0]}' has no meaning with it.")
        for path in added:
            _append(history, finished_folder(path))
        _show(history, history.folder)
        return
    mark = history.begin(lab.name, str(run_dir))
    done = launch_run(lab, run_dir, run_args)
    # A run that ended without results has told why itself, on the terminal.
    history.ended(mark, f"exit status {done.status}, {done.folder.name if done.folder else 'no results'}")
    if done.folder is None:
        click.echo(f"The run ended with status {done.status} and left no results: nothing is added to the history.")
    else:
        _append(history, done.folder)
        _show(history, history.folder)
    raise SystemExit(done.status)


@click.command()
@_HISTORY
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=None,
              help="Where nightly.html and nightly.md are written.  [default: the history]")  # fmt: skip
@click.option("--nights", type=click.IntRange(1), default=90, show_default=True, help="Only the last N runs of a lab.")
def history(folder: Path, out: Path | None, nights: int) -> None:
    """Show a history: what is new, what is red since when, what comes and goes, and the trend.

    Exit status: 0 shown, 4 there is no history, 10 a record is damaged or a run of it was killed.
    """
    store = History(folder)
    raise SystemExit(10 if _show(store, out or store.folder, nights) else 0)


def _append(history: History, run: Path) -> None:
    night = night_of_run(run, history.folder)
    word = "added to" if history.append(night) else "already in"
    click.echo(f"{night.run}: {word} {history.folder}")


def _show(history: History, out: Path, nights: int = 90) -> bool:
    """Print and write; whether something is wrong with the history itself."""
    loaded = history.load().last(nights)
    click.echo(terminal(reports(loaded.nights), loaded), nl=False)
    for path in write_history(loaded, history.folder, out):
        click.echo(str(path))
    return bool(loaded.warnings)
