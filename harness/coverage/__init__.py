"""What is covered: cases, rules and requirements against what the suites ask and what runs have answered."""

from harness.coverage.collect import Collected, Column, Listed, Planned, collect, listing

__all__ = ["Collected", "Column", "Listed", "Planned", "collect", "listing"]
