"""Exit statuses of bhyve as recorded on FreeBSD 13.2, and as the sources of 12.1 and 15.1 have them."""

from __future__ import annotations

import pytest

from harness.bhyve import HALT_DONE, TESTDEV_DONE, Ending, interpret
from harness.errors import GuestDied, GuestSilent, HostUnready, InfraError

TRIPLE_FAULT = "vm exit[0]\n\treason\t\tVMX\n\trip\t\t0x000000000000001f\n\texit_reason\t2 (Triple fault)\n"
NO_ROM = (
    'Error opening bootrom "/root/nosuch.bin": No such file or directory\n'
    "device emulation initialization error: No such file or directory\n"
)
BAD_PIN = "Assertion failed: (error == 0), function fbsdrun_start_thread, file bhyverun.c, line 539.\nAbort trap\n"


@pytest.mark.parametrize(
    ("status", "stderr", "ending"),
    [
        (17, "", Ending.DONE),
        (0, "", Ending.RESET),
        (1, "", Ending.POWEROFF),
        (2, "", Ending.HALTED),
        (3, "", Ending.TRIPLE_FAULT),
        # The same status 1: a store to ROM, and a VM destroyed underneath.
        (1, "vm_run error -1, errno 14\n", Ending.RUN_FAILED),
        (1, "vm_run error -1, errno 6\n", Ending.DESTROYED),
        # 15.1 has status 4 for both.
        (4, "vm_run error -1, errno 14\n", Ending.RUN_FAILED),
        (4, NO_ROM, Ending.START_FAILED),
        (4, "vm_reinit: Device busy\n", Ending.START_FAILED),
        (4, "bhyve: ROM size 1000 is not a multiple of the page size\n", Ending.START_FAILED),
        (4, "Unable to initialize backend 'stdio' for LPC device com1\n", Ending.START_FAILED),
        (1, "Unable to setup memory (22)\n", Ending.START_FAILED),
        (64, "bhyve: invalid memsize 'x'\n", Ending.START_FAILED),
        (71, "bhyve: vm_set_topology\n", Ending.START_FAILED),
        (127, "bhyve: not found\n", Ending.START_FAILED),
        (134, TRIPLE_FAULT, Ending.ABORTED),
        (134, BAD_PIN, Ending.ABORTED),
        (137, "", Ending.KILLED),
        (143, "", Ending.KILLED),
        (19, "", Ending.UNKNOWN),
        (100, "", Ending.UNKNOWN),
    ],
)
def test_status_is_read_together_with_what_was_said(status: int, stderr: str, ending: Ending) -> None:
    assert interpret(status, stderr, done=TESTDEV_DONE).ending is ending


def test_a_guest_without_testdev_ends_by_halting() -> None:
    assert interpret(2, "", done=HALT_DONE).ending is Ending.DONE
    assert interpret(17, "", done=HALT_DONE).ending is Ending.UNKNOWN


def test_what_an_early_end_means_for_the_verdict() -> None:
    def error(status: int, stderr: str, *, banner: bool) -> Exception:
        return interpret(status, stderr, done=TESTDEV_DONE).error("p", banner=banner)

    assert isinstance(error(134, TRIPLE_FAULT, banner=False), GuestDied)
    assert isinstance(error(1, "vm_run error -1, errno 14", banner=True), GuestDied)
    assert isinstance(error(1, "", banner=True), GuestDied)
    assert isinstance(error(1, "", banner=False), GuestSilent)
    assert isinstance(error(4, NO_ROM, banner=False), HostUnready)
    killed = error(137, "", banner=True)
    assert isinstance(killed, InfraError)
    assert not isinstance(killed, AssertionError)
    assert "Triple fault" in str(error(134, TRIPLE_FAULT, banner=True))
