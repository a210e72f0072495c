"""Python's search for garbage, in processes that live for one run."""

from __future__ import annotations

import gc

#: Objects made since the last search: most of ours are gone by themselves, and a cell makes thousands.
THRESHOLD = 50_000


def search_seldom() -> None:
    """Leave what exists now out of all later searches, and search less often. Cycles are still found."""
    gc.freeze()
    gc.set_threshold(THRESHOLD)
