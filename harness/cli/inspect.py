"""Commands that only look: hosts of a lab, cases of the suites, the evidence of a cell."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import click
import pytest
from rich.console import Console
from rich.table import Table

from harness.cases import Case
from harness.cli.run import ROOT
from harness.errors import ConfigError
from harness.inventory import load_inventory
from harness.lab import platform_of
from harness.results.evidence import verify_manifest


@click.command()
@click.option("--lab", type=click.Path(path_type=Path), default=Path("labs/emulated.toml"), show_default=True)
def hosts(lab: Path) -> None:
    """List the hosts of a lab and what each can show."""
    table = Table("alias", "kind", "column", "capabilities", title=f"{lab}")
    for alias, host in load_inventory(lab).host.items():
        platform = platform_of(alias, host)
        table.add_row(alias, platform.kind, platform.heading, ", ".join(sorted(platform.capabilities)))
    Console().print(table)


class _Collector:
    """Takes the cases out of a collection."""

    def __init__(self) -> None:
        self.cases: dict[str, list[Case]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            mark = item.get_closest_marker("case")
            if mark is not None:
                self.cases.setdefault(mark.args[0].id, []).append(mark.args[0])


def collect_cases() -> dict[str, list[Case]]:
    """Case id -> metadata of each of its variants, from the suites as they are."""
    collector = _Collector()
    status = pytest.main(
        ["--collect-only", "-qqq", "--rootdir", str(ROOT), str(ROOT / "suites")],
        plugins=[collector],
    )
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise ConfigError("The suites cannot be collected; run 'pytest --collect-only suites' to see why.")
    return collector.cases


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def cases(as_json: bool) -> None:
    """List the cases with their requirements, needs and number of variants."""
    found = collect_cases()
    if as_json:
        data = {
            id: {"rule": all_[0].rule, "requirements": all_[0].requirements, "variants": len(all_)}
            for id, all_ in found.items()
        }
        click.echo(json.dumps(data, indent=1))
        return
    table = Table("case", "variants", "requirements", "needs", "rule")
    for id in sorted(found):
        first = found[id][0]
        requirements = sorted({name for one in found[id] for name in one.requirements})
        table.add_row(id, str(len(found[id])), " ".join(requirements), " ".join(first.needs), first.rule)
    console = Console()
    console.print(table)
    priorities = Counter(variants[0].priority for variants in found.values())
    variants = sum(map(len, found.values()))
    console.print(f"{len(found)} cases, {variants} variants a host; by priority {dict(priorities)}")


@click.command()
@click.argument("cell", type=click.Path(exists=True, file_okay=False, path_type=Path))
def evidence(cell: Path) -> None:
    """Print the story of one cell: CELL is its evidence folder, as the summary of a run names it."""
    try:
        verdict: dict[str, Any] = json.loads((cell / "verdict.json").read_text(encoding="utf-8"))
    except OSError:
        raise ConfigError(
            f"'{cell}' is no evidence folder: it has no verdict.json.",
            help="Name the folder that the summary of the run shows behind 'evidence:'.",
        ) from None
    console = Console()
    console.print(f"[bold]{verdict['verdict']}[/] {verdict['case']} on {verdict['host']} ({verdict['platform']})")
    console.print(verdict["rule"], verdict["test"], verdict["message"], sep="\n", markup=False)
    for name in ("program.txt", "rom.json", "registers.json", "commands.jsonl", "notes.txt"):
        if (cell / name).is_file():
            console.rule(name)
            console.print((cell / name).read_text(encoding="utf-8"), markup=False, highlight=False)
    changed = verify_manifest(cell)
    console.rule("manifest")
    console.print(f"changed or missing: {', '.join(changed)}" if changed else "all files are as they were written")
