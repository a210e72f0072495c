"""Night after night: a history of runs, what is new in it, and since when."""

from harness.nightly.analysis import LabReport, News, reports
from harness.nightly.record import Night, night_of_run
from harness.nightly.render import terminal, write_history
from harness.nightly.store import History, Loaded

__all__ = [
    "History",
    "LabReport",
    "Loaded",
    "News",
    "Night",
    "night_of_run",
    "reports",
    "terminal",
    "write_history",
]
