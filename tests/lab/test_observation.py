"""Observing guests on an emulated host: what is filled, what is refused, what a lost link leaves behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.errors import HostUnready, SshLost
from harness.guest import Program
from harness.hosts.tracing import Tracing
from harness.recording import NullRecorder
from harness.timing import Deadline, wait_until
from tests.lab.conftest import EmulatedLab

CLEAN = "hw.vmm.svm.vmcb_clean"


def program() -> Program:
    made = Program("observed")
    made.exit("cpuid", 30)
    return made


@pytest.fixture
def lab(amd: EmulatedLab) -> EmulatedLab:
    return amd


def test_an_observation_is_filled_when_it_ends(lab: EmulatedLab) -> None:
    session = lab.session()
    session.open()
    subject = session.begin(NullRecorder())
    with subject.host.observe() as seen:
        assert seen.entries == 0
        subject.run(program(), pin=1)
    assert seen.entries == seen.returns > 30
    assert [thread.cpu for thread in seen.threads] == [1]
    session.end()
    session.close()


def test_a_module_comes_back_as_it_was(lab: EmulatedLab) -> None:
    session = lab.session()
    session.open()
    subject = session.begin(NullRecorder())
    with subject.host.tunable(CLEAN, 0x20):
        assert subject.host.sysctl(CLEAN) == "32"
    assert subject.host.sysctl(CLEAN) == "1023"
    # Probes in the module keep it from being unloaded, and the tunable from being changed.
    refused = pytest.raises(HostUnready, match="could not be loaded")
    with refused, subject.host.observe(), subject.host.tunable(CLEAN, 0):
        pass
    session.end()
    session.close()


def test_a_lost_link_ends_what_it_observed(start_host: Callable[[str], EmulatedLab]) -> None:
    # A host of its own: the run that lost its link keeps the lease.
    lab = start_host("amd")
    session = lab.session()
    session.open()
    subject = session.begin(NullRecorder())
    observation = subject.host.observe()
    observation.__enter__()
    lab.board.ask({"op": "misbehave", "kind": "drop-link"})
    with pytest.raises(SshLost):
        observation.__exit__(None, None, None)
    # Whoever comes next can unload the module: no probe is left in it.
    other = lab.host()

    wait_until(lambda: other.run("kldunload vmm").status == 0, Deadline.after(20), "the module to be free")
    assert other.run("kldload vmm").status == 0

@pytest.mark.parametrize(("patience", "destructive"), [(1.0, False), (2.0, True)])
def test_a_slow_host_is_not_given_up_by_dtrace(lab: EmulatedLab, patience: float, destructive: bool) -> None:
    host = lab.host()
    host.change("kldload -n vmm")
    host.patience, host.folder = patience, "/root"
    commands: list[str] = []
    notes = NullRecorder()
    notes.add_command = lambda command, *_: commands.append(command)  # type: ignore[method-assign]
    host.transport.recorder = notes
    with Tracing(host, "amd").observe() as seen:
        pass
    host.change("rm /root/observe.d; kldunload vmm")
    host.transport.close()
    assert seen.entries == 0
    (observed,) = (command for command in commands if "dtrace -x nolibs" in command)
    assert ("-x nolibs -w -qs" in observed) is destructive
