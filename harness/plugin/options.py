"""Command-line options of a run against a lab."""

from __future__ import annotations

import fnmatch
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from harness.errors import ConfigError, NoHosts
from harness.inventory import Host, hosts_matching, load_inventory, select_hosts
from harness.inventory.load import dump_host
from harness.inventory.module import seeded_defect, with_module


@dataclass(frozen=True, slots=True)
class LabConfig:
    """The lab of this process: all selected hosts in the controller, exactly one in a worker."""

    name: str
    hosts: dict[str, Host]
    run_dir: Path | None
    #: alias -> how to reach a host that the controller started.
    reach: dict[str, dict[str, str]]
    #: alias -> (which of the hosts of its pool it is, how many there are) of a host that shares the work.
    shares: dict[str, tuple[int, int]] = field(default_factory=dict)
    #: Seeded defects of the module under test (emulated hosts).
    defects: tuple[str, ...] = ()
    #: The finished run whose records are judged again; then no host is reached.
    replay: Path | None = None
    #: The items of that run which left evidence; no others are run.
    replayed: frozenset[str] = frozenset()


LAB = pytest.StashKey[LabConfig]()


def add_options(parser: pytest.Parser) -> None:
    group = parser.getgroup("vmmcheck", "bhyve conformance")
    group.addoption("--lab", metavar="FILE", help="inventory of the hosts (labs/emulated.toml needs no hardware)")
    group.addoption(
        "--host", action="append", default=[], metavar="ALIAS", help="only this host, or hosts like 'emu*' (repeatable)"
    )
    group.addoption("--hosts", default="", metavar="EXPR", help="only hosts for which this holds: 'vendor == amd'")
    group.addoption(
        "--case", action="append", default=[], metavar="GLOB", help="only cases such as DAT-01 or 'DAT-*' (repeatable)"
    )
    group.addoption("--priority", type=int, default=0, metavar="N", help="only cases of priority 1 to N")
    group.addoption(
        "--defect",
        action="append",
        default=[],
        metavar="ID",
        help="load a vmm.ko with this seeded defect of kernel/reference/defects.toml (emulated hosts; repeatable)",
    )
    group.addoption(
        "--module",
        default="",
        metavar="MODULE",
        help="the vmm.ko under test on every host: stock, ko:FILE, ref:REF, patch:FILE or defect:ID",
    )
    group.addoption(
        "--replay", default="", metavar="RUN", help="judge the stored records of a finished run, without hosts"
    )
    group.addoption("--run-dir", default="runs", metavar="DIR", help="where run folders are made (default: runs)")


def read_lab(config: pytest.Config) -> LabConfig | None:
    """The lab of this process, or ``None`` without ``--lab``; raises ``ConfigError``s."""
    given = getattr(config, "workerinput", None)
    if given is not None:
        if "vmmcheck" not in given:
            return None
        data = json.loads(given["vmmcheck"])
        host: Host = TypeAdapter(Host).validate_json(json.dumps(data["entry"]))
        reach = {data["alias"]: data["reach"]}
        shares = {data["alias"]: (data["share"][0], data["share"][1])} if data["share"] else {}
        hosts = {data["alias"]: host}
        return LabConfig(data["lab"], hosts, Path(data["run_dir"]), reach, shares, tuple(data["defects"]))
    if config.option.replay:
        return _stored_lab(Path(config.option.replay), config.option.host)
    if not config.option.lab:
        return None
    inventory = load_inventory(Path(config.option.lab))
    hosts = select_hosts(inventory, config.option.host)
    expression: str = config.option.hosts
    if expression:
        matching = hosts_matching(inventory, expression)
        hosts = {alias: host for alias, host in hosts.items() if alias in matching}
        if not hosts:
            raise NoHosts(f"None of the hosts named with --host matches '{expression}'.", help="Leave one of both out.")
    module: str = config.option.module
    defects = [*config.option.defect]
    if module:
        hosts = {alias: with_module(alias, host, module) for alias, host in hosts.items()}
        defects += [seeded_defect(module)] if seeded_defect(module) else []
    return LabConfig(inventory.lab, hosts, None, {}, _shares(hosts), tuple(defects))


def _shares(hosts: dict[str, Host]) -> dict[str, tuple[int, int]]:
    """The share of every host that is in a pool with others of this run."""
    pools: dict[str, list[str]] = defaultdict(list)
    for alias, host in hosts.items():
        if host.pool:
            pools[host.pool].append(alias)
    return {alias: (n, len(pool)) for pool in pools.values() for n, alias in enumerate(pool) if len(pool) > 1}


def _stored_lab(folder: Path, aliases: list[str]) -> LabConfig:
    """The lab that a finished run was made in, as it was told there; raises :class:`ConfigError`."""
    try:
        recipe = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        cells = json.loads((folder / "results.json").read_text(encoding="utf-8"))["cells"]
        replayed = frozenset(str(cell["nodeid"]) for cell in cells if cell["evidence"])
        adapter: TypeAdapter[Host] = TypeAdapter(Host)
        entries: dict[str, Host] = {
            alias: adapter.validate_json(entry if isinstance(entry, str) else json.dumps(entry))
            for alias, entry in recipe["hosts"].items()
        }
    except (OSError, ValueError, KeyError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}"
        raise ConfigError(
            f"'{folder}' is not the folder of a finished run: its recipe and results cannot be read ({reason})."
        ) from None
    hosts = {
        alias: entry
        for alias, entry in entries.items()
        if not aliases or any(fnmatch.fnmatchcase(alias, pattern) for pattern in aliases)
    }
    if not hosts:
        raise NoHosts(f"The run '{folder}' has none of the hosts named with --host.")
    return LabConfig(str(recipe["lab"]), hosts, None, {}, replay=folder.resolve(), replayed=replayed)


def worker_input(lab: LabConfig, alias: str, run_dir: Path) -> str:
    """What a worker needs to know of its host, as one JSON text (only basic types travel)."""
    return json.dumps(
        {
            "lab": lab.name,
            "alias": alias,
            "entry": dump_host(lab.hosts[alias]),
            "run_dir": str(run_dir),
            "reach": lab.reach.get(alias, {}),
            "share": lab.shares.get(alias),
            "defects": list(lab.defects),
        }
    )
