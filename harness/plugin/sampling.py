"""A representative quick run: a few variants of every test instead of all, drawn by a seed that is told."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import pytest

SAMPLE_SEED = 1

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Variant(Generic[T]):
    """One variant of a test on a host; ``observable`` says whether the host offers what it needs."""

    group: str
    host: str
    observable: bool
    item: T


def add_options(parser: pytest.Parser) -> None:
    group = parser.getgroup("vmmcheck", "bhyve conformance")
    group.addoption(
        "--sample", type=int, default=0, metavar="N",
        help="only N variants of every test, drawn among those that the host can show (default: all variants)",
    )  # fmt: skip
    group.addoption(
        "--sample-seed", type=int, default=SAMPLE_SEED, metavar="S",
        help=f"which variants --sample draws: the same seed draws the same ones (default: {SAMPLE_SEED})",
    )  # fmt: skip


def check_options(config: pytest.Config) -> None:
    """Raises :class:`pytest.UsageError` for a sample of fewer than no variants."""
    if config.option.sample < 0:
        raise pytest.UsageError(f"--sample takes a number of variants, 1 or more (found {config.option.sample}).")


def draw(variants: Sequence[Variant[T]], count: int, seed: int) -> list[T]:
    """What to keep of ``variants``, in their order: ``count`` of each test and host.

    Variants that the host cannot show are kept only where a test has no other: then one of them says why. The drawing
    depends on the seed and on the name of the test, not on what else is selected, nor on which process draws.
    """
    by_test: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, variant in enumerate(variants):
        by_test[variant.group, variant.host].append(index)
    kept: set[int] = set()
    for (name, _), indices in by_test.items():
        observable = [index for index in indices if variants[index].observable]
        if not observable:
            kept.add(indices[0])
            continue
        chooser = random.Random(f"{seed}:{name}")
        kept.update(chooser.sample(observable, min(count, len(observable))))
    return [variant.item for index, variant in enumerate(variants) if index in kept]


def sampled(
    config: pytest.Config, items: list[pytest.Function], host_of: Callable[[pytest.Function], str],
    is_observable: Callable[[pytest.Function], bool],
) -> Collection[pytest.Function]:
    """The items that ``--sample`` draws, all of them without it."""
    count: int = config.option.sample
    if not count:
        return items
    variants = [Variant(item.nodeid.partition("[")[0], host_of(item), is_observable(item), item) for item in items]
    return draw(variants, count, config.option.sample_seed)


def told(config: pytest.Config) -> str:
    """One sentence about what the sample left out, empty for a run of everything."""
    count: int = config.option.sample
    if not count:
        return ""
    of_each = "1 variant" if count == 1 else f"{count} variants"
    return f"sample: {of_each} of every test, drawn with --sample-seed {config.option.sample_seed}"
