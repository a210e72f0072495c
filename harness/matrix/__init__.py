"""The compatibility matrix: what was observed on which class of CPU, folded from any number of runs."""

from harness.matrix.build import matrix_of_runs
from harness.matrix.compare import Change, changes, merge
from harness.matrix.model import Column, Entry, HostEntry, Matrix, Realm, load_matrix
from harness.matrix.render import write_matrix

__all__ = [
    "Change",
    "Column",
    "Entry",
    "HostEntry",
    "Matrix",
    "Realm",
    "changes",
    "load_matrix",
    "matrix_of_runs",
    "merge",
    "write_matrix",
]
