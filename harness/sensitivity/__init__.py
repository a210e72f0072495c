"""Which case catches which seeded defect: the suites are run against every defect of the reference hypervisor."""

from harness.sensitivity.catalogue import Defect, load_catalogue, missing_defects
from harness.sensitivity.controller import Sensitivity, Settings
from harness.sensitivity.matrix import Finding, Matrix, State, TaskResult
from harness.sensitivity.render import write_views

__all__ = [
    "Defect",
    "Finding",
    "Matrix",
    "Sensitivity",
    "Settings",
    "State",
    "TaskResult",
    "load_catalogue",
    "missing_defects",
    "write_views",
]
