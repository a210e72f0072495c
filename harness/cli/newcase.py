"""``vmmcheck new-case``: a skeleton that is collected like any other case, and cannot pass before it is written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import click

from harness.cases import REQUIREMENTS
from harness.catalogue import CATALOGUE, VENDORS, Entry, load_catalogue
from harness.errors import ConfigError

_MODULE = '''"""{title}"""

from __future__ import annotations

from harness.cases import axis, case
from harness.errors import TestDefect
from harness.expect import expect_exceptions, expect_silence
from harness.guest import Program
from harness.subjects import Subject
from suites.guestlib import force
'''

_FUNCTION = '''

@case(
    "{id}",
    rule="{rule}",
    requirement={requirement},
    refs={refs},
    priority={priority},{needs}{vendors}
)
@axis("exit_kind", ("none", "cpuid"))
def {name}(subject: Subject, exit_kind: str) -> None:
    program = Program("{id}")
    # What the guest does: prepare, leave (or not), then the stimulus that must fire ...
    force(program, exit_kind)
    fires = program.execute("int3")
    # ... and beside it the one that must not.
    silent = program.execute("nop")
    result = subject.run(program)
    # The rule, as expectations with their manual section; put yours in place of these and take the last line away.
    expect_exceptions("what must fire", result.exceptions_of(fires), "#BP")
    expect_silence("what must not fire", result.exceptions_of(silent))
    raise TestDefect("{id} is a skeleton: it does not ask its rule yet.", help="Write the case, see it fail once.")
'''


@dataclass(frozen=True, slots=True)
class Written:
    """What was changed, for the closing sentence."""

    module: Path
    test: str
    listed: bool


@click.command("new-case")
@click.argument("id", metavar="CASE")
@click.option("--rule", default="", help="One sentence: what must hold. Needed for a case that the list does not have.")
@click.option("--requirement", multiple=True, metavar="ID", help="What it is evidence for, such as S1.1 (repeatable).")
@click.option("--ref", multiple=True, metavar="SECTION", help="Manual section, such as 'SDM3 17.2.4' (repeatable).")
@click.option("--priority", type=click.IntRange(1, 3), default=2, show_default=True, help="For a case new to the list.")
@click.option("--vendor", type=click.Choice(VENDORS), default=None, help="Only this vendor's processors.")
@click.option("--need", multiple=True, metavar="CAPABILITY", help="What the host must offer, such as bhyvectl.")
@click.option("--into", type=click.Path(dir_okay=False, path_type=Path), default=None, metavar="FILE",
              help="Append to this module of the suites (default: a module of its own).")  # fmt: skip
@click.option("--suites", type=click.Path(file_okay=False, path_type=Path), default=Path("suites"), show_default=True,
              help="Folder of the suites and their list.")  # fmt: skip
def new_case(
    id: str,
    rule: str,
    requirement: tuple[str, ...],
    ref: tuple[str, ...],
    priority: int,
    vendor: str | None,
    need: tuple[str, ...],
    into: Path | None,
    suites: Path,
) -> None:
    """Write the skeleton of CASE: an id of the list that has no test yet, or the next free number of a group.

    The skeleton is collected, planned and run like any other case, and ends as ERROR until it is written.
    """
    entries = load_catalogue(suites)
    known = entries.get(id)
    if known is None:
        vendors = (vendor,) if vendor else VENDORS
        made = _new_entry(id, rule, requirement, ref, priority, vendors, entries)
    elif rule or requirement or ref:
        raise ConfigError(
            f"{id} is in the list already: '{known.rule}'", help="Leave --rule, --requirement and --ref out."
        )
    else:
        made = known
    written = _write(made, known is None, need, into, suites)
    click.echo(f"{written.module}: {written.test} is a skeleton and ends as ERROR until it is written")
    if written.listed:
        click.echo(f"{suites / CATALOGUE}: {id} was added")
    click.echo(f"try it: vmmcheck run --case {id} --host bareamd")


def _new_entry(
    id: str,
    rule: str,
    requirements: tuple[str, ...],
    refs: tuple[str, ...],
    priority: int,
    vendors: tuple[str, ...],
    entries: dict[str, Entry],
) -> Entry:
    match = re.fullmatch(r"([A-Z]{3})-(\d\d)", id)
    numbers = [int(other[4:]) for other in entries if match is not None and other.startswith(match[1])]
    if match is None or not numbers:
        groups = ", ".join(dict.fromkeys(other[:3] for other in entries))
        raise ConfigError(f"'{id}' is no case id such as DAT-16.", help=f"Groups are {groups}.")
    if int(match[2]) != max(numbers) + 1:
        raise ConfigError(
            f"The next free number of group {match[1]} is {max(numbers) + 1:02d}, not {match[2]}.",
            help=f"Use {match[1]}-{max(numbers) + 1:02d}; ids are never reused or left out.",
        )
    if not rule or not requirements:
        raise ConfigError(
            f"{id} is new to the list: it needs its rule and at least one requirement.",
            help=f"Add --rule 'One sentence' --requirement with one of {', '.join(REQUIREMENTS)}.",
        )
    unknown = [name for name in requirements if name not in REQUIREMENTS]
    if unknown:
        raise ConfigError(f"There is no requirement {unknown[0]}.", help=f"There are {', '.join(REQUIREMENTS)}.")
    return Entry(id, rule, vendors, requirements, refs, priority, "G")


def _write(entry: Entry, new: bool, needs: tuple[str, ...], into: Path | None, suites: Path) -> Written:
    name = f"test_{entry.id.lower().replace('-', '_')}_is_written"
    module = into or suites / f"test_{entry.id.lower().replace('-', '_')}.py"
    text = module.read_text(encoding="utf-8") if module.is_file() else ""
    if into is None and text:
        raise ConfigError(f"'{module}' exists already.", help="Edit it, or name another module with --into.")
    if into is not None and not text:
        raise ConfigError(f"There is no module '{module}' to append to.", help="Leave --into out for a new module.")
    if into is not None:
        lacking = [line for line in _MODULE.splitlines()[4:] if line.startswith("from") and not _imports(text, line)]
        if lacking:
            # Where to put imports into somebody's module is theirs to say.
            raise ConfigError(
                f"'{module}' lacks what the skeleton imports: {'; '.join(lacking)}.",
                help="Add it there, or leave --into out.",
            )
    else:
        text = _MODULE.format(title=_string(f"{entry.id}: {entry.rule}", room=112))
    module.write_text(text.rstrip("\n") + "\n" + _function(entry, name, needs), encoding="utf-8")
    _list(entry, new, suites / CATALOGUE)
    return Written(module, name, new)


def _imports(text: str, line: str) -> bool:
    source, _, names = line.removeprefix("from ").partition(" import ")
    found = re.search(rf"^from {re.escape(source)} import (\([^)]*\)|[^\n]*)", text, re.MULTILINE)
    return found is not None and all(re.search(rf"\b{name}\b", found[1]) for name in names.split(", "))


def _function(entry: Entry, name: str, needs: tuple[str, ...]) -> str:
    return _FUNCTION.format(
        id=entry.id,
        name=name,
        rule=_string(entry.rule, room=107),
        requirement=_tuple(entry.requirements),
        refs=_tuple(tuple(ref.rstrip("?") for ref in entry.refs)),
        priority=entry.priority,
        needs=f"\n    needs={_tuple(needs)}," if needs else "",
        vendors="" if set(entry.vendors) == set(VENDORS) else f"\n    vendors={_tuple(entry.vendors)},",
    )


def _tuple(names: tuple[str, ...]) -> str:
    inside = ", ".join(f'"{name}"' for name in names)
    return f"({inside},)" if len(names) == 1 else f"({inside})"


def _string(text: str, *, room: int) -> str:
    """Fit for a double-quoted string on one line: the rule of the list may be longer than a line of a suite."""
    plain = text.replace("\\", "").replace('"', "'")
    return plain if len(plain) <= room else plain[: room - 4].rsplit(" ", 1)[0] + " ..."


def _list(entry: Entry, new: bool, path: Path) -> None:
    """Add the case to the list, behind the last of its group, or take away why it had no test."""
    head, *tables = re.split(r"(?m)^(?=\[[A-Z]{3}-\d\d\]$)", path.read_text(encoding="utf-8"))
    tables = [table.rstrip("\n") for table in tables]
    if new:
        last = max(at for at, table in enumerate(tables) if table[1:4] == entry.group)
        lists = {"vendors": entry.vendors, "requirements": entry.requirements, "refs": entry.refs}
        lines = [f"[{entry.id}]", f"rule = {_toml(entry.rule)}"]
        lines += [f"{key} = [{', '.join(map(_toml, values))}]" for key, values in lists.items()]
        lines += [f"priority = {entry.priority}", f'observe = "{entry.observe}"']
        tables.insert(last + 1, "\n".join(lines))
    else:
        tables = [
            re.sub(r"(?m)^open = .*\n?", "", table).rstrip("\n") if table.startswith(f"[{entry.id}]") else table
            for table in tables
        ]
    path.write_text(head + "\n\n".join(tables) + "\n", encoding="utf-8")


def _toml(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
