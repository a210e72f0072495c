"""What a change does: the cells of two runs set against each other."""

from harness.premerge.compare import Comparison, Difference, Side, compare_runs
from harness.premerge.render import markdown, summary, write_comparison

__all__ = ["Comparison", "Difference", "Side", "compare_runs", "markdown", "summary", "write_comparison"]
