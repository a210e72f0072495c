"""Cells, events, evidence: our own record of a run, of which every report is a view."""

from harness.results.cells import Cell, CellPlan, Outcome, judge, outcome_of
from harness.results.evidence import CellRecorder
from harness.results.run import Run, read_run

__all__ = ["Cell", "CellPlan", "CellRecorder", "Outcome", "Run", "judge", "outcome_of", "read_run"]
