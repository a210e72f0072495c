"""What FreeBSD's tools print: recorded from any host, and held against every host and every parser."""

from harness.contract.record import record_host
from harness.contract.scripts import SCRIPTS
from harness.contract.transcript import Transcript, read_folder, shape

__all__ = ["SCRIPTS", "Transcript", "read_folder", "record_host", "shape"]
