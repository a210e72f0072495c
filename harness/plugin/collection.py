"""From test functions to planned cells."""

from __future__ import annotations

import fnmatch
import zlib
from collections.abc import Collection
from typing import Any

import pytest

from harness.cases import Case, Expected
from harness.catalogue import expectations
from harness.inventory import FreebsdMachine, Host, VirtualHost
from harness.lab import platform_of
from harness.plugin import hazards
from harness.plugin.options import LabConfig
from harness.plugin.sampling import sampled
from harness.results import CellPlan
from harness.subjects import Platform

PLAN = pytest.StashKey[CellPlan]()
#: Failures that are predicted of an item, as far as its kind of host says.
DECLARED = pytest.StashKey[tuple[Expected, ...]]()

#: Seconds after which the net under all other limits ends an item.
ITEM_LIMIT = 300


def parametrize_subject(metafunc: pytest.Metafunc, lab: LabConfig | None) -> None:
    """Make the host the first parameter. Without a lab the suites can be listed, not run."""
    aliases = list(lab.hosts) if lab is not None else []
    if not aliases:
        skip = pytest.mark.skip(reason="needs --lab FILE (labs/emulated.toml needs no hardware)")
        metafunc.parametrize("subject", [pytest.param("nolab", marks=skip)], indirect=True, scope="function")
        return
    metafunc.parametrize("subject", aliases, indirect=True, scope="function")


def item_limit(host: Host) -> float:
    """Seconds for an item on a host. The first one also waits for a machine that we boot ourselves."""
    if not isinstance(host, FreebsdMachine):
        return ITEM_LIMIT
    first = host.timeouts.connect if isinstance(host, VirtualHost) else 0.0
    return ITEM_LIMIT * host.timeouts.patience + first


def case_of(item: pytest.Item) -> Case | None:
    """The metadata of an item's case."""
    mark = item.get_closest_marker("case")
    return mark.args[0] if mark is not None else None


def is_hazard(item: pytest.Item) -> bool:
    """Whether an item may take its host down."""
    metadata = case_of(item)
    return metadata is not None and metadata.hazard


def apply_metadata(config: pytest.Config, items: list[pytest.Item], lab: LabConfig) -> None:
    """Select by case and priority, skip what the host cannot show (naming why), plan the rest."""
    platforms = {alias: platform_of(alias, host) for alias, host in lab.hosts.items()}
    wanted: list[str] = config.option.case
    priority: int = config.option.priority
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    reasons: dict[pytest.Function, str] = {}
    for item in items:
        metadata = case_of(item)
        if metadata is None or not isinstance(item, pytest.Function):
            continue
        chosen = not wanted or any(fnmatch.fnmatchcase(metadata.id, pattern) for pattern in wanted)
        chosen = chosen and (lab.replay is None or item.nodeid in lab.replayed)
        if chosen and not (priority and metadata.priority > priority):
            alias = _alias_of(item)
            reasons[item] = why_not(item, metadata, platforms[alias])
            if metadata.hazard and not reasons[item]:
                reasons[item] = hazards.why_not(config, alias, lab.hosts[alias])
    drawn = shared(sampled(config, [*reasons], _alias_of, lambda item: not reasons[item]), lab)
    for item in items:
        metadata = case_of(item)
        if metadata is None or not isinstance(item, pytest.Function):
            kept.append(item)
            continue
        if item not in drawn:
            dropped.append(item)
            continue
        kept.append(item)
        platform = platforms[_alias_of(item)]
        reason = reasons[item]
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))
        stressed = "stress" in item.fixturenames
        if stressed:
            item.keywords["stress"] = True
        limit = item_limit(lab.hosts[platform.alias])
        item.add_marker(pytest.mark.timeout(limit * (config.option.stress if stressed else 1)))
        item.stash[DECLARED] = declared_for(item, metadata, platform)
        item.stash[PLAN] = plan_of(item, metadata, platform, item.stash[DECLARED])
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


def shared(items: Collection[pytest.Function], lab: LabConfig) -> set[pytest.Function]:
    """What is left of ``items`` when the hosts of a pool share them.

    Which host has an item depends on nothing but its name: a history of its verdicts stays on one host.
    """
    kept = set()
    for item in items:
        which, among = lab.shares.get(_alias_of(item), (0, 1))
        if zlib.crc32(_test_of(item).encode()) % among == which:
            kept.add(item)
    return kept


def _test_of(item: pytest.Function) -> str:
    """The name of an item without its host."""
    parameters = item.callspec.id.split("-")[1:]
    return item.nodeid.partition("[")[0] + (f"[{'-'.join(parameters)}]" if parameters else "")


def why_not(item: pytest.Item, metadata: Case, platform: Platform) -> str:
    """Why an item cannot be observed on a platform, or an empty string."""
    if platform.vendor not in metadata.vendors:
        return f"not applicable to {platform.vendor}: the rule speaks of {' and '.join(metadata.vendors)}"
    needed = [*metadata.needs, *(name for mark in item.iter_markers("needs") for name in mark.args)]
    missing = [name for name in needed if name not in platform.capabilities]
    if missing:
        return f"needs capability '{missing[0]}', which a host of kind '{platform.kind}' does not offer"
    return ""


def declared_for(item: pytest.Function, metadata: Case, platform: Platform) -> tuple[Expected, ...]:
    """What the case declares itself, and what is predicted of it in the data beside its module."""
    parameters = item.callspec.id.split("-")[1:]
    return tuple(
        entry
        for entry in (*metadata.expected, *expectations(item.path.parent).get(metadata.id, ()))
        if entry.matches(platform.kind, platform.vendor, parameters, item.function.__name__)
    )


def plan_of(
    item: pytest.Function, metadata: Case, platform: Platform, declared: tuple[Expected, ...]
) -> CellPlan:
    """The planned cell of an item; each id and code of what is declared counts once."""
    expected = {(entry.id, entry.code): (entry.id, entry.code, entry.reason) for entry in reversed(declared)}
    return CellPlan(
        nodeid=item.nodeid,
        test=_test_of(item),
        case=metadata.id,
        rule=metadata.rule,
        host=platform.alias,
        platform=platform.heading,
        vendor=platform.vendor,
        kind=platform.kind,
        requirements=metadata.requirements,
        references=metadata.references,
        priority=metadata.priority,
        expected=tuple(expected.values()),
    )


def _alias_of(item: pytest.Function) -> str:
    value: Any = item.callspec.params["subject"]
    return str(value)
