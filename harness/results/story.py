"""The story of one cell, out of its evidence alone: what was run, expected and observed, and how to run it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, VmmcheckError
from harness.guest import Record, decode
from harness.hosts.host import FENCED
from harness.hosts.messages import DELTA
from harness.results.evidence import console_of, run_of

#: Lines of a command's output that are shown; what a probe, a witness or bhyvectl answered is shown whole.
_SHOWN = 4
_WHOLE = ("dtrace ", "debug.vmmcheck", "vmmwitness", "cpucontrol", "bhyvectl ")
#: Facts of a host that say what was under test; the rest is in their file.
_FACTS = (
    "release", "uname", "model", "origin", "ncpu", "vmm_path", "vmm_sha256", "module_origin", "defects", "boot_id",
)  # fmt: skip
#: Words of a run that matter when one of its cells is run again.
_REPEATED = ("--lab", "--defect", "--module")


def find_cell(name: str, runs: Path) -> Path:
    """The evidence folder that ``name`` means: a folder, or a cell of the newest run below ``runs``.

    A cell is named as reports do (``suites/test_x.py::test_y[variant]``, a node id, or a part of either that only one
    has), with ``@HOST`` behind it where several hosts have it. Raises :class:`ConfigError`.
    """
    folder = Path(name)
    if (folder / "verdict.json").is_file():
        return folder
    if folder.is_dir():
        raise ConfigError(
            f"'{name}' is no evidence folder: it has no verdict.json.",
            help="Name the folder that the summary of the run shows behind 'evidence:'.",
        )
    newest = max(runs.glob("*/results.json"), key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        raise ConfigError(
            f"There is no folder '{name}', and no finished run below '{runs}' that could have such a cell.",
            help="Name the folder of a cell, or with --runs where runs are.",
        )
    test, _, host = name.partition("@")
    cells = json.loads(newest.read_text(encoding="utf-8"))["cells"]
    found = [cell for cell in cells if (not host or cell["host"] == host) and _means(test, cell)]
    exact = [cell for cell in found if test in (cell["test"], cell["nodeid"])]
    chosen = exact or found
    if not chosen:
        raise ConfigError(
            f"The run '{newest.parent}' has no cell '{name}'.",
            help="Name a cell as its results.json does, or its folder; --runs names other runs.",
        )
    if len(chosen) > 1:
        some = ", ".join(f"{cell['test']}@{cell['host']}" for cell in chosen[:3]) + ", ..." * (len(chosen) > 3)
        raise ConfigError(
            f"'{name}' means {len(chosen)} cells of '{newest.parent}': {some}.", help="Name one of them in full."
        )
    if not chosen[0]["evidence"]:
        cell = chosen[0]
        raise ConfigError(
            f"'{name}' left no evidence: it is {cell['verdict']} ({cell['message'] or 'nothing was run'}).",
            help="Choose a cell that was run.",
        )
    return newest.parent / str(chosen[0]["evidence"])


def _means(test: str, cell: Mapping[str, Any]) -> bool:
    return test == cell["case"] or test in cell["nodeid"] or test in cell["test"]


def story(folder: Path) -> Iterator[str]:
    """The lines of a cell's story. Raises :class:`ConfigError` for a verdict that cannot be read."""
    try:
        verdict: dict[str, Any] = json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"The verdict in '{folder}' cannot be read: {error}.") from None
    yield from _head(verdict)
    yield from _section("host", _host(folder, verdict))
    yield from _section("what was run", _commands(folder))
    yield from _section("guest", _guests(folder))
    yield from _section("expected and observed", _judgements(folder))
    yield from _section("kernel messages", _kernel(folder))
    yield from _section("notes", _text(folder / "notes.txt").splitlines())
    yield from _section("files", _files(folder))
    yield from _section("run it again", [_again(folder, verdict)])


def _head(verdict: Mapping[str, Any]) -> Iterator[str]:
    raw = f", raw {verdict['raw']}" if verdict["raw"] != verdict["verdict"] else ""
    code = f" {verdict['code']}" if verdict["code"] else ""
    yield f"{verdict['verdict']}{code}{raw}: {verdict['case']} on {verdict['host']} ({verdict['platform']})"
    yield f"rule: {verdict['rule']}"
    yield f"test: {verdict['test']} ({verdict['duration']:.3f} s)"
    for name in ("requirements", "references"):
        if verdict.get(name):
            yield f"{name}: {', '.join(verdict[name])}"
    for name in ("message", "help", "expectation"):
        if verdict.get(name):
            yield f"{name}: {verdict[name]}"
    for said in verdict.get("predictions", ()):
        yield f"prediction: {said}"


def _section(title: str, lines: Iterator[str] | Sequence[str]) -> Iterator[str]:
    found = list(lines)
    if found:
        yield ""
        yield f"--- {title} ---"
        yield from found


def _host(folder: Path, verdict: Mapping[str, Any]) -> Iterator[str]:
    told = verdict.get("host_facts")
    if not told:
        return
    path = run_of(folder) / told["file"]
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        yield f"The facts of the host cannot be read: {path}"
        return
    for name in _FACTS:
        if facts.get(name):
            yield f"{name}: {facts[name]}"
    yield f"all facts: {path} (sha256 {told['sha256'][:16]})"


def _commands(folder: Path) -> Iterator[str]:
    entries = [json.loads(line) for line in _text(folder / "commands.jsonl").splitlines()]
    entries.sort(key=lambda entry: entry["started"])
    for entry in entries:
        command = entry["command"].partition(f" || exit {FENCED}; ")[2] or entry["command"]
        status = "no status" if entry["status"] is None else f"status {entry['status']}"
        yield f"{entry['started'] - entries[0]['started']:+9.3f} s {entry['seconds']:8.3f} s  {status:9}  {command}"
        is_guest = command.startswith("bhyve ")
        for stream in ("stdout", "stderr"):
            lines = entry[stream].splitlines()
            if is_guest and stream == "stdout":
                yield f"{'':23}| {len(lines)} lines of the guest's console, see below"
                continue
            shown = len(lines) if any(word in command for word in _WHOLE) else _SHOWN
            yield from (f"{'':23}{'|' if stream == 'stdout' else '!'} {line}" for line in lines[:shown])
            if len(lines) > shown:
                yield f"{'':23}| ... {len(lines) - shown} more lines in commands.jsonl"


def _guests(folder: Path) -> Iterator[str]:
    number = 0
    while (rom := folder / f"rom{f'-{number + 1}' if number else ''}.json").is_file():
        number += 1
        ending = f"-{number}" if number > 1 else ""
        facts = json.loads(rom.read_text(encoding="utf-8"))
        yield f"program {number} '{facts['program']}', nonce {facts['nonce']}, {facts['rom_bytes']} bytes"
        yield f"  rom sha256     {facts['rom_sha256']}"
        yield f"  runtime sha256 {facts['runtime_sha256']}"
        yield from (f"  {line}" for line in _text(folder / f"program{ending}.txt").splitlines())
        yield from _records(console_of(folder, facts["nonce"]), int(facts["nonce"], 16))


def _records(console: bytes, nonce: int) -> Iterator[str]:
    try:
        result = decode(console, nonce)
    except VmmcheckError as error:
        yield f"  no records: {error.message}"
        return
    lines = result.lines() or ("",) * len(result.records)
    yield f"  {len(result.records)} records, decoded and as they came:"
    for record, line in zip(result.records, lines, strict=True):
        yield f"  {record.seq:4} {record.kind.name:9} op {record.op}: {_fields(record)}"
        yield f"       {line}"


def _fields(record: Record) -> str:
    told = {name: value for name, value in record.as_dict().items() if name not in ("seq", "kind", "op")}
    return " ".join(f"{name}={value}" for name, value in told.items() if value not in (0, "0x0"))


def _judgements(folder: Path) -> Iterator[str]:
    text = _text(folder / "registers.json")
    for entry in json.loads(text) if text else []:
        mask = f" under {entry['mask']}" if entry["mask"] else ""
        rule = f" ({entry['rule']})" if entry["rule"] else ""
        said = f"{entry['what']}: expected {entry['expected']}{mask}, observed {entry['observed']}{rule}"
        yield f"{'met    ' if entry['ok'] else 'NOT MET'}  {said}"


def _kernel(folder: Path) -> Iterator[str]:
    text = _text(folder / DELTA)
    if text:
        yield from text.splitlines()
    elif "dmesg -a" in _text(folder / "commands.jsonl"):
        yield "none while the item ran"


def _files(folder: Path) -> Iterator[str]:
    yield str(folder)
    for path in sorted(folder.iterdir()):
        yield f"{path.stat().st_size:9}  {path.name}"


def _again(folder: Path, verdict: Mapping[str, Any]) -> str:
    words = ["vmmcheck", "run"]
    try:
        recipe = json.loads((run_of(folder) / "run.json").read_text(encoding="utf-8"))
        given = [str(word) for word in recipe["arguments"]]
    except (OSError, ValueError, KeyError):
        recipe, given = {}, []
    for index, word in enumerate(given):
        if word.partition("=")[0] in _REPEATED:
            words += [word] if "=" in word else given[index : index + 2]
    if "Chance comes from seed" in _text(folder / "notes.txt"):
        words += [f"--{name}={recipe[name]}" for name in ("seed", "stress") if name in recipe]
    return shlex.join([*words, f"--host={verdict['host']}", verdict["nodeid"]])


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
