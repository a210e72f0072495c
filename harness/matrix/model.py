"""What a matrix holds; the JSON of it is this model, and its schema is printed by ``vmmcheck matrix schema``."""

from __future__ import annotations

from enum import StrEnum
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import ConfigError
from harness.verdicts import Verdict, worst

SCHEMA = 1


class Realm(StrEnum):
    """What a column's verdicts are about. Realms are never mixed in one column: an emulator proves no hardware."""

    HARDWARE = "hardware"
    NESTED = "nested"
    EMULATED = "emulated"
    BARE = "bare"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HostEntry(_Model):
    """What one host said about one case: ``variants`` in all, ``others`` those that did not pass, by their name.

    ``evidence`` is the folder of the worst of them, relative to the matrix' own folder; empty without one.
    ``started`` is the run's start in seconds since 1970: of two runs on one host the later one counts.
    """

    host: str
    run: str
    started: float
    variants: int
    others: dict[str, Verdict]
    codes: tuple[str, ...]
    evidence: str

    @property
    def verdict(self) -> Verdict:
        """The worst of its variants."""
        found = list(self.others.values())
        if self.variants > len(found):
            found.append(Verdict.PASS)
        return worst(found)

    @property
    def counts(self) -> dict[Verdict, int]:
        """Verdict -> variants, the worst first."""
        counts = {verdict: sum(other is verdict for other in self.others.values()) for verdict in Verdict}
        counts[Verdict.PASS] += self.variants - len(self.others)
        return {verdict: number for verdict, number in counts.items() if number}


class Entry(_Model):
    """One case on one class of CPU."""

    case: str
    column: str
    hosts: tuple[HostEntry, ...]

    @property
    def verdict(self) -> Verdict:
        return worst(host.verdict for host in self.hosts)

    @property
    def disagree(self) -> tuple[str, ...]:
        """Variants that hosts of this class answered differently; skips and what was not answered say nothing."""
        names = sorted({name for host in self.hosts for name in host.others})
        silent = (Verdict.SKIP, *(verdict for verdict in Verdict if verdict.is_unanswered))
        return tuple(
            name
            for name in names
            if len({host.others.get(name, Verdict.PASS) for host in self.hosts} - set(silent)) > 1
        )

    @property
    def evidence(self) -> str:
        """The folder that shows the verdict."""
        return next((host.evidence for host in self.hosts if host.verdict is self.verdict and host.evidence), "")


class Column(_Model):
    """A class of CPU. ``hosts`` are the aliases seen, ``facts`` what is known of them, each once."""

    id: str
    realm: Realm
    title: str
    vendor: str
    hosts: tuple[str, ...]
    facts: tuple[str, ...]


class Row(_Model):
    """A case: the rule in one sentence, the requirements it is evidence for, its priority."""

    case: str
    rule: str
    requirements: tuple[str, ...]
    priority: int


class Matrix(_Model):
    """Rows by columns. ``runs`` are the names of the runs it was made of."""

    schema_version: int
    runs: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    entries: tuple[Entry, ...]

    def entry(self, case: str, column: str) -> Entry | None:
        return self._index.get((case, column))

    @cached_property
    def _index(self) -> dict[tuple[str, str], Entry]:
        return {(entry.case, entry.column): entry for entry in self.entries}


def load_matrix(path: Path) -> Matrix:
    """Read a matrix' JSON; raises :class:`ConfigError` that names the place and what is wrong there."""
    try:
        matrix = Matrix.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"The matrix '{path}' cannot be read: {error.strerror}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise ConfigError(
            f"'{path}' is no matrix: at {place}, {first['msg']}. Make one with 'vmmcheck matrix make RUN'."
        ) from None
    if matrix.schema_version != SCHEMA:
        raise ConfigError(f"'{path}' has schema {matrix.schema_version}; this program reads {SCHEMA}.")
    return matrix
