"""``vmmcheck bisect``: one step of ``git bisect run``."""

from __future__ import annotations

import subprocess
import traceback
from pathlib import Path
from typing import Any, NoReturn

import click

from harness.bisect import Answer, Judgement, judge_confirmed, judge_run
from harness.cli.launch import launch_run
from harness.errors import VmmcheckError
from harness.matrix.build import load_results

#: Statuses of a run after which its results are judged (see 'vmmcheck run --help').
_JUDGED = (0, 1, 5, 10, 11)
_WORD = {
    Answer.GOOD: "good", Answer.BAD: "bad", Answer.SKIP: "cannot be judged", Answer.ABORT: "stop",
    Answer.INTERRUPTED: "interrupted",
}  # fmt: skip


class _Step(click.Command):
    """Never ends with a status that git takes for good or bad (0, 1 to 124, 126, 127) unless it is meant."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.ClickException as error:
            # git would take click's 2 for a bad commit.
            error.show()
            raise click.exceptions.Exit(Answer.ABORT) from None

    def invoke(self, ctx: click.Context) -> NoReturn:
        try:
            super().invoke(ctx)
        except click.ClickException as error:
            error.show()
        except (KeyboardInterrupt, click.Abort):
            click.echo("bisect: interrupted", err=True)
            raise SystemExit(Answer.INTERRUPTED) from None
        except VmmcheckError as error:
            click.echo(f"bisect: stop: {error}", err=True)
        except Exception:  # noqa: BLE001 - a traceback ends Python with 1, which git takes for a bad commit
            traceback.print_exc()
        raise SystemExit(Answer.ABORT)


@click.command(cls=_Step, context_settings={"ignore_unknown_options": True})
@click.option("--lab", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=True,
              help="Inventory of the hosts.")  # fmt: skip
@click.option("--case", multiple=True, required=True, metavar="GLOB", help="The cases to judge by (repeatable).")
@click.option("--module", default="", metavar="MODULE",
              help="ref:REF, patch:FILE, ko:FILE, stock or defect:ID, as for 'vmmcheck run'.")  # fmt: skip
@click.option("--code", default="", metavar="CODE",
              help="Only a failure with this code is bad; another one cannot be judged.")  # fmt: skip
@click.option("--confirm", type=click.IntRange(0), default=1, show_default=True, metavar="N",
              help="Repeat what looks bad N times: it must show each time.")  # fmt: skip
@click.option("--run-dir", type=click.Path(path_type=Path, file_okay=False), default=Path("runs"), show_default=True,
              help="Where run folders are made.")  # fmt: skip
@click.argument("run_args", nargs=-1, type=click.UNPROCESSED)
def bisect(
    lab: Path, case: tuple[str, ...], module: str, code: str, confirm: int, run_dir: Path, run_args: tuple[str, ...]
) -> None:
    """Judge the commit that git bisect has checked out.

    \b
    cd freebsd-src && git bisect start BAD GOOD
    git bisect run vmmcheck bisect --lab lab.toml --host zen4 --case ISO-04 --module ref:HEAD

    The module is built of the commit by the host's 'builder' in the inventory; HEAD is that of the current folder.
    Further words go to 'vmmcheck run' (--host, -k, --defect).

    \b
    Exit status: 0 good: every cell that applies answered as expected; 1 bad: a product failure, confirmed;
    125 cannot be judged: no module could be built, cells without an answer, all skipped, attempts disagree,
    another failure than --code; 128 stop: no host answers, wrong configuration, trouble in vmmcheck itself;
    130 interrupted.
    """
    words = [f"--case={pattern}" for pattern in case]
    words += [f"--module={_pinned(module)}"] if module else []
    first = _step(lab, run_dir, [*words, *run_args], code)
    again = []
    for _ in range(confirm if first.answer is Answer.BAD else 0):
        hosts = sorted({f"--host={cell['host']}" for cell in first.bad})
        # The same words, with the same hosts' bad cells only.
        kept = [word for word in _without_hosts(run_args) if not word.startswith("suites")]
        names = [str(cell["nodeid"]) for cell in first.bad]
        again.append(_step(lab, run_dir, [*words, *kept, *hosts, *names], code))
        if again[-1].answer is not Answer.BAD:
            break
    _end(judge_confirmed(first, again))


def _step(lab: Path, run_dir: Path, words: list[str], code: str) -> Judgement:
    done = launch_run(lab, run_dir, words)
    if done.status == 2:
        return Judgement(Answer.INTERRUPTED, "the run was interrupted")
    if done.status not in _JUDGED or done.folder is None:
        return Judgement(Answer.ABORT, f"the run ended with status {done.status} and has nothing to judge by")
    results = load_results(done.folder)
    judged = judge_run(results["cells"], code)
    for host, facts in sorted(results["hosts"].items()):
        shown = [str(facts.get(name, ""))[:12] for name in ("vmm_sha256", "release", "microcode")]
        click.echo(f"bisect: {host}: vmm.ko {' '.join(filter(None, shown)) or 'unknown'}; {done.folder}")
    return judged


def _end(judged: Judgement) -> NoReturn:
    click.echo(f"bisect: {_WORD[judged.answer]} ({int(judged.answer)}): {judged.why}")
    raise SystemExit(int(judged.answer))


def _without_hosts(words: tuple[str, ...]) -> list[str]:
    """The words for a run without those that choose hosts or a part of the tests."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in ("--host", "--hosts", "-k"):
            skip = True
        elif not word.startswith(("--host=", "--hosts=")):
            kept.append(word)
    return kept


def _pinned(module: str) -> str:
    """``ref:REF`` as the commit that REF is in the current folder's repository: the sources of 'builder' can be another
    work tree, whose HEAD stays where it is. A REF that is none here is left to the builder."""
    kind, _, ref = module.partition(":")
    if kind != "ref" or not ref:
        return module
    command = ["git", "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"ref:{done.stdout.strip()}" if done.returncode == 0 else module
