"""What a change does: the cells of two runs set against each other."""

from harness.premerge.compare import Comparison, Difference, Side, compare_runs
from harness.premerge.plan import Step, describe, may_alternate, order_of
from harness.premerge.render import markdown, summary, warnings, write_comparison

__all__ = [
    "Comparison",
    "Difference",
    "Side",
    "Step",
    "compare_runs",
    "describe",
    "markdown",
    "may_alternate",
    "order_of",
    "summary",
    "warnings",
    "write_comparison",
]
