"""Sessions on an emulated host: what is prepared, refused, checked, recovered and left behind."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator

import pytest

from harness.errors import (
    FactsMismatch,
    GuestHang,
    HostUnready,
    InfraError,
    LeaseLost,
    TestDefect,
)
from harness.lab.ssh_session import SshSession
from harness.recording import NullRecorder
from harness.subjects import Subject
from harness.subjects.bhyve import BhyveSubject
from harness.timing import Deadline, wait_until
from tests.lab.conftest import EmulatedLab, Notes, other_state, quiet


@pytest.fixture
def session(amd: EmulatedLab) -> Iterator[SshSession]:
    opened = amd.session()
    opened.open()
    yield opened
    opened.close()


def channels(subject: Subject) -> int:
    assert isinstance(subject, BhyveSubject)
    return subject.channels


def test_a_run_is_one_round_trip_and_its_check_none(session: SshSession) -> None:
    notes = Notes()
    subject = session.begin(notes)
    before = channels(subject)
    subject.run(quiet())
    session.end()
    assert channels(subject) - before == 1
    assert [text.split(" ")[0] for text in notes.commands] == [
        "head", "logger", "bhyve", "blocks=$(dd", "bhyvectl", "rm", "for", "sysctl", "kldstat", "if", "ls", "dmesg",
    ]  # fmt: skip
    assert {"console.raw", "records.json", "rom.json", "program.txt"} <= notes.files.keys()


def test_the_host_is_left_as_it_was_found(amd: EmulatedLab) -> None:
    other = amd.host()
    before = other.ask({"modules": "kldstat", "root": "ls /root", "kenv": "kenv"})
    session = amd.session(defects=("svm-clean-cr2",))
    facts = session.open()
    assert facts["vmm_path"] == "/root/.vmmcheck/vmm.ko"
    assert facts["defects"] == ["svm-clean-cr2"]
    assert len(facts["vmm_sha256"]) == 64
    session.begin(NullRecorder()).run(quiet())
    session.end()
    spent = session.close()
    assert "not_restored" not in spent
    after = other.ask({"modules": "kldstat", "root": "ls /root", "kenv": "kenv"})
    assert {name: one.stdout for name, one in after.items()} == {name: one.stdout for name, one in before.items()}
    other.transport.close()


def test_a_module_that_was_there_is_loaded_again(amd: EmulatedLab) -> None:
    other = amd.host()
    other.check("cp /boot/kernel/vmm.ko /boot/modules/vmm.ko; kldload /boot/modules/vmm.ko")
    session = amd.session()
    assert session.open()["vmm_path"] == "/boot/kernel/vmm.ko"
    session.close()
    assert "(/boot/modules/vmm.ko)" in other.check("kldstat -v -n vmm.ko").text
    other.check("kldunload vmm; rm /boot/modules/vmm.ko")
    other.transport.close()


def test_what_a_worker_that_died_had_found_is_put_back_by_the_next_one(amd: EmulatedLab) -> None:
    """It left its module loaded: that is not what was there."""
    other = amd.host()
    other.check("cp /boot/kernel/vmm.ko /boot/modules/vmm.ko; kldload /boot/modules/vmm.ko")
    died = amd.session("dies", defects=("svm-clean-cr2",))
    died.open()
    amd.board.ask({"op": "misbehave", "kind": "drop-link"})
    again = amd.session("dies")
    assert "took_over" in again.open()
    assert "not_restored" not in again.close()
    assert "(/boot/modules/vmm.ko)" in other_state(amd)
    assert "vmmcheck" not in other_state(amd)
    fresh = amd.session()
    assert "took_over" not in fresh.open()
    fresh.close()
    clean = amd.host()
    clean.check("kldunload vmm; rm /boot/modules/vmm.ko")
    clean.transport.close()


def test_a_link_that_breaks_while_the_host_is_prepared_costs_nothing_and_is_told(amd: EmulatedLab) -> None:
    amd.board.ask({"op": "watch", "program": "kldload", "nth": 1})
    session = amd.session()
    cutter = threading.Thread(target=cut_when_held, args=(amd,))
    cutter.start()
    facts = session.open()
    cutter.join()
    assert "INFRA-SSH-LOST" in facts["opened_again"]
    session.begin(NullRecorder()).run(quiet())
    session.end()
    assert "not_restored" not in session.close()


def cut_when_held(lab: EmulatedLab) -> None:
    assert lab.board.ask({"op": "await", "seconds": 20})["hit"]
    lab.board.ask({"op": "misbehave", "kind": "drop-link"})
    lab.board.ask({"op": "go"})


def test_machines_of_others_are_not_touched_and_ours_are_removed(amd: EmulatedLab) -> None:
    other = amd.host()
    other.check("kldload vmm; bhyvectl --vm=precious --create; bhyvectl --vm=vmmcheck-two --create")
    session = amd.session()
    with pytest.raises(HostUnready, match="not ours exist on 'emulated': precious"):
        session.open()
    session.close()
    assert other.names_in("/dev/vmm") == ["precious"]
    other.check("bhyvectl --vm=precious --destroy; kldunload vmm")
    other.transport.close()


def test_two_runs_exclude_each_other_and_a_run_that_lost_its_host_does_nothing(amd: EmulatedLab) -> None:
    first, second = amd.session("first"), amd.session("second")
    first.open()
    with pytest.raises(HostUnready, match=r"leased to \S+ \(run first\)"):
        second.open()
    second.close()
    subject = first.begin(NullRecorder())
    intruder = amd.host()
    intruder.check("echo somebody >/root/.vmmcheck.lease/run")
    with pytest.raises(LeaseLost) as caught:
        subject.run(quiet())
    assert first.explain(caught.value) is caught.value
    with pytest.raises(LeaseLost):
        first.begin(NullRecorder())
    first.close()
    # Nothing was torn down: the host is somebody else's now.
    assert intruder.names_in("/root/.vmmcheck")
    intruder.check("kldunload vmmcheck_witness; kldunload vmm; rm -rf /root/.vmmcheck /root/.vmmcheck.lease")
    intruder.transport.close()


def test_a_guest_that_hangs_is_ended_and_the_next_item_runs(session: SshSession) -> None:
    notes = Notes()
    subject = session.begin(notes)
    with pytest.raises(GuestHang) as caught, subject.start(quiet(phases=1), seconds=1.5) as guest:
        guest.finish()
    ended, left = notes.notes
    assert ended == "The guest 'vmmcheck' was still running and was ended by --force-poweroff."
    # What it had noted at its start, and nothing of what was never written.
    assert re.search(r"did not come to its end: it had noted \d records, the last one in operation \d+ of", left)
    assert session.explain(caught.value) is caught.value
    session.end()
    session.begin(NullRecorder()).run(quiet())
    session.end()


def test_a_case_that_breaks_off_leaves_no_guest(session: SshSession) -> None:
    subject = session.begin(NullRecorder())
    with pytest.raises(ZeroDivisionError), subject.start(quiet(phases=1)):
        raise ZeroDivisionError
    session.end()


def test_waiting_for_a_phase_that_never_comes(session: SshSession) -> None:
    subject = session.begin(NullRecorder())
    with pytest.raises(TestDefect, match="ended before the phase"), subject.start(quiet()) as guest:
        guest.wait_phase(7)
    session.end()


def test_the_hosts_hand_on_a_running_guest(session: SshSession) -> None:
    subject = session.begin(NullRecorder())
    with subject.start(quiet(phases=2), pin=0) as guest:
        guest.wait_phase(1)
        guest.set_registers(dr0=0x1234_5678)
        assert guest.registers("dr0", "dr7") == {"dr0": 0x1234_5678, "dr7": 0x400}
        before = channels(subject)
        guest.pin(1)
        guest.pin(0)
        assert channels(subject) - before == 3  # the thread is looked up once
        assert guest.stats()["total number of vm exits"] > 0
        guest.go()
        guest.wait_phase(2)
        guest.go()
        guest.finish()
    session.end()


def test_a_module_that_was_exchanged_under_way_is_noticed(session: SshSession, amd: EmulatedLab) -> None:
    session.begin(NullRecorder())
    other = amd.host()
    other.check("kldunload vmm; cp /boot/kernel/vmm.ko /boot/modules/vmm.ko; kldload /boot/modules/vmm.ko")
    with pytest.raises(HostUnready, match=r"'/boot/kernel/vmm\.ko' \(id \d+\) any more, but '/boot/modules/vmm\.ko'"):
        session.end()
    other.check("kldunload vmm; kldload vmm; rm /boot/modules/vmm.ko")
    other.transport.close()


def test_a_machine_that_is_left_over_is_noticed(session: SshSession, amd: EmulatedLab) -> None:
    session.begin(NullRecorder())
    other = amd.host()
    other.check("bhyvectl --vm=left --create")
    with pytest.raises(InfraError, match="left over on 'emulated': left"):
        session.end()
    other.check("bhyvectl --vm=left --destroy")
    other.transport.close()


def test_a_link_lost_between_two_items_is_nobodys_result(session: SshSession, amd: EmulatedLab) -> None:
    session.begin(NullRecorder()).run(quiet())
    session.end()
    amd.board.ask({"op": "misbehave", "kind": "drop-link"})
    wait_until(lambda: not session.alive, Deadline.after(10), "the link to be gone")
    session.begin(NullRecorder()).run(quiet())
    session.end()


def test_another_processor_than_declared_is_refused_before_anything_is_changed(amd: EmulatedLab) -> None:
    amd.board.ask({"op": "misbehave", "kind": "wrong-cpu"})
    amd.board.cycle()
    session = amd.session()
    with pytest.raises(FactsMismatch, match="declares AuthenticAMD family 23"):
        session.open()
    session.close()
    other = amd.host()
    assert "vmm.ko" not in other.check("kldstat").text
    assert ".vmmcheck" not in other.check("ls /root").text
    other.transport.close()
