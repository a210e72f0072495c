"""``vmmcheck oracle``: what QEMU says of the guest-only cases, beside bare Bochs."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import click

from harness.oracle import Opinion, ask, qemu_version

_SHOWN = (Opinion.DIFFERS, Opinion.SUPPORTS, Opinion.SHARES, Opinion.NONE)


@click.command()
@click.option("--case", multiple=True, metavar="ID", help="Only this case (repeatable).")
@click.option("--vendor", multiple=True, type=click.Choice(["intel", "amd"]), help="Only this vendor's CPU model.")
@click.option("--variants", type=click.IntRange(0), default=1, show_default=True, metavar="N",
              help="Variants of each test; 0 for all.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/oracle.json"), show_default=True,
              help="Where the opinions are written.")  # fmt: skip
def oracle(case: tuple[str, ...], vendor: tuple[str, ...], variants: int, out: Path) -> None:
    """Ask QEMU's software processor (TCG) what bare Bochs is asked: a third opinion, never a judge.

    Where both agree a rule stands better; where they differ somebody should read the manual again. QEMU is known to
    be wrong on single steps over STI and to hang behind MOV SS + ICEBP. No verdict and no run depends on it.

    \b
    Exit status: 0 opinions were given, whatever they are; 4 usage, or QEMU is not installed; 5 nothing was asked.
    """
    version = qemu_version()
    compared = ask(vendor or ("intel", "amd"), case, variants)
    totals = Counter(one.opinion for one in compared)
    out.parent.mkdir(parents=True, exist_ok=True)
    data = {
        "schema": 1,
        "qemu": version,
        "at": round(time.time(), 3),
        "totals": {opinion.value: totals[opinion] for opinion in Opinion},
        "opinions": [one.as_dict() for one in compared],
    }
    out.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for opinion in _SHOWN:
        for one in (one for one in compared if one.opinion is opinion):
            known = " (a declared error of Bochs)" if one.predicted else ""
            click.echo(f"QEMU {opinion.value}{known}: {one.case} {one.vendor} {one.test.rpartition('::')[2]}")
            if one.message:
                click.echo(f"     {one.code} {one.message[:200]}")
    counts = ", ".join(f"{totals[opinion]} {opinion.value}" for opinion in Opinion)
    click.echo(f"{version}: {len(compared)} variants asked; {counts}")
    click.echo(f"opinions: {out}")
    raise SystemExit(0 if compared else 5)
