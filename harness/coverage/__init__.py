"""What is covered: cases, rules and requirements against what the suites ask and what runs have answered."""

from harness.coverage.collect import Collected, Column, Listed, Planned, collect, listing
from harness.coverage.model import CaseRow, Coverage, Hole, State, build
from harness.coverage.render import write_views
from harness.coverage.verdicts import Answer, Kill, Sensitivity, latest_answers, latest_sensitivity, read_sensitivity

__all__ = [
    "Answer",
    "CaseRow",
    "Collected",
    "Column",
    "Coverage",
    "Hole",
    "Kill",
    "Listed",
    "Planned",
    "Sensitivity",
    "State",
    "build",
    "collect",
    "latest_answers",
    "latest_sensitivity",
    "listing",
    "read_sensitivity",
    "write_views",
]
