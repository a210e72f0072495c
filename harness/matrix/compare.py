"""Matrices put together, and set against each other."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.matrix.model import SCHEMA, Column, Entry, HostEntry, Matrix, Realm
from harness.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class Change:
    """One case on one class of CPU whose verdict differs; ``None`` where a matrix does not have it."""

    case: str
    column: str
    before: Verdict | None
    after: Verdict | None

    @property
    def worse(self) -> bool:
        """Whether it is news that somebody has to act on."""
        if self.after is None:
            return self.before is not None and not self.before.is_unanswered and self.before is not Verdict.SKIP
        if self.before is None:
            return self.after.is_product_failure
        return self.after.severity < self.before.severity


def changes(before: Matrix, after: Matrix) -> list[Change]:
    """What differs, by case and class, the worse first."""
    old = {(entry.case, entry.column): entry.verdict for entry in before.entries}
    new = {(entry.case, entry.column): entry.verdict for entry in after.entries}
    found = [
        Change(case, column, old.get((case, column)), new.get((case, column)))
        for case, column in sorted({*old, *new})
        if old.get((case, column)) is not new.get((case, column))
    ]
    return sorted(found, key=lambda change: not change.worse)


def merge(matrices: Sequence[tuple[Matrix, Path]], out: Path) -> Matrix:
    """One matrix of several, each with the folder that its evidence paths are relative to, for the folder ``out``.

    Of two entries for one host and case the one of the later run counts.
    """
    columns: dict[str, Column] = {}
    rows = {row.case: row for matrix, _ in matrices for row in matrix.rows if row.rule or row.case}
    for matrix, _ in matrices:
        rows.update({row.case: row for row in matrix.rows if row.rule})
        for column in matrix.columns:
            known = columns.get(column.id, column)
            columns[column.id] = column.model_copy(
                update={
                    "hosts": tuple(sorted({*known.hosts, *column.hosts})),
                    "facts": tuple(dict.fromkeys((*known.facts, *column.facts))),
                }
            )
    entries: dict[tuple[str, str], dict[str, HostEntry]] = {}
    for matrix, folder in matrices:
        for entry in matrix.entries:
            for host in entry.hosts:
                evidence = os.path.relpath(folder / host.evidence, out).replace(os.sep, "/") if host.evidence else ""
                moved = host.model_copy(update={"evidence": evidence})
                hosts = entries.setdefault((entry.case, entry.column), {})
                known_host = hosts.get(host.host)
                if known_host is None or (known_host.started, known_host.run) <= (host.started, host.run):
                    hosts[host.host] = moved
    order = list(Realm)
    return Matrix(
        schema_version=SCHEMA,
        runs=tuple(sorted({run for matrix, _ in matrices for run in matrix.runs})),
        columns=tuple(
            sorted(columns.values(), key=lambda column: (order.index(column.realm), column.vendor, column.id))
        ),
        rows=tuple(rows[case] for case in sorted(rows)),
        entries=tuple(
            Entry(case=case, column=id, hosts=tuple(hosts[name] for name in sorted(hosts)))
            for (case, id), hosts in sorted(entries.items())
        ),
    )
