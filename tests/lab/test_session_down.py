"""Hosts that go down under a session: while they are prepared, in the middle of an item, as they are given back."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable

import pytest

from harness.errors import (
    HostPanic,
    ProcessorStuck,
    RegisterMismatch,
    SshLost,
    SshUnreachable,
)
from harness.inventory.model import Timeouts
from harness.lab import reach
from harness.recording import NullRecorder
from harness.subjects import RunningGuest
from tests.lab.conftest import EmulatedLab, other_state, quiet


def ask_until_it_breaks(guest: RunningGuest) -> None:
    """As a case that does not know that its host goes down."""
    while True:
        guest.registers("dr7")


def test_a_panic_while_the_module_is_loaded_is_the_modules(start_host: Callable[[str], EmulatedLab]) -> None:
    lab = start_host("amd")
    lab.board.ask({"op": "watch", "program": "kldload", "nth": 1})

    def panic() -> None:
        assert lab.board.ask({"op": "await", "seconds": 20})["hit"]
        lab.board.ask({"op": "misbehave", "kind": "panic"})
        lab.board.ask({"op": "go"})

    panicking = threading.Thread(target=panic)
    panicking.start()
    session = lab.session()
    with pytest.raises(HostPanic, match="While the module under test was loaded: 'emulated' panicked: "):
        session.open()
    panicking.join()
    session.close()
    assert "vmm" not in other_state(lab)


def test_a_panic_is_told_with_its_message_and_the_host_is_prepared_again(
    start_host: Callable[[str], EmulatedLab],
) -> None:
    lab = start_host("intel")
    session = lab.session("panics")
    session.open()
    subject = session.begin(NullRecorder())
    with contextlib.ExitStack() as stack:
        guest = stack.enter_context(subject.start(quiet(phases=1)))
        guest.wait_phase(1)
        lab.board.ask({"op": "misbehave", "kind": "panic"})
        with pytest.raises(SshLost) as caught:
            ask_until_it_breaks(guest)
        stack.pop_all()  # the guest went with its host
    verdict = session.explain(caught.value)
    assert isinstance(verdict, HostPanic)
    assert "panicked: " in str(verdict)
    folder = lab.folder / "panics" / "hosts" / "emulated"
    assert list((folder / "crash").glob("1-info.*"))
    assert "panic" in (folder / "crash" / "1-console.log").read_text(encoding="utf-8")
    rungs = [json.loads(line)["name"] for line in (folder / "ladder.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rungs[-1] == "reconnect"
    session.begin(NullRecorder()).run(quiet())
    session.end()
    assert "not_restored" not in session.close()


def test_a_machine_of_ours_whose_boot_stands_still_is_switched_on_again_once(
    start_host: Callable[[str], EmulatedLab], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = start_host("amd")
    monkeypatch.setattr(reach, "EMULATED_TIMEOUTS", Timeouts(connect=2, comeback=5, boot=30, lease=0.1, patience=3))
    # It takes no connection until its power was switched.
    lab.board.ask({"op": "misbehave", "kind": "drop-link", "for_good": True})
    session = lab.session()
    facts = session.open()
    assert "Its boot stood still: it was switched off and on." in facts["switched_on_again"]
    session.begin(NullRecorder()).run(quiet())
    session.end()
    session.close()
    # One that does not come up then either is not switched again and again.
    lab.board.ask({"op": "misbehave", "kind": "outage"})
    session = lab.session()
    with pytest.raises(SshUnreachable):
        session.open()
    session.close()


def test_a_processor_that_an_item_took_with_it_is_noticed_and_the_host_is_booted(
    start_host: Callable[[str], EmulatedLab],
) -> None:
    lab = start_host("intel")
    session = lab.session("stuck")
    session.open()
    failed = RegisterMismatch("dr6 is wrong.")
    session.begin(NullRecorder()).run(quiet())
    assert session.explain(failed) is failed  # all processors are well: nothing happens to the host
    session.end()
    before = session.facts["boot_id"]
    session.begin(NullRecorder()).run(quiet())
    lab.board.ask({"op": "misbehave", "kind": "stuck-cpu"})
    explained = session.explain(failed)
    assert isinstance(explained, ProcessorStuck), explained
    assert "CPU 1 of 'emulated' runs nothing any more, and the host was booted anew" in str(explained)
    assert "dr6 is wrong." in str(explained)
    assert session.facts["boot_id"] != before
    session.begin(NullRecorder()).run(quiet())
    session.end()
    assert "not_restored" not in session.close()


def test_a_host_that_goes_down_as_it_is_given_back_is_told_and_left_as_it_was_found(
    start_host: Callable[[str], EmulatedLab],
) -> None:
    lab = start_host("intel")
    other = lab.host()
    other.check("cp /boot/kernel/vmm.ko /boot/modules/vmm.ko; kldload /boot/modules/vmm.ko")
    other.transport.close()
    session = lab.session()
    session.open()
    lab.board.ask({"op": "watch", "program": "kldunload", "nth": 1})

    def panic() -> None:
        assert lab.board.ask({"op": "await", "seconds": 20})["hit"]
        lab.board.ask({"op": "misbehave", "kind": "panic"})
        lab.board.ask({"op": "go"})

    panicking = threading.Thread(target=panic)
    panicking.start()
    spent = session.close()
    panicking.join()
    assert spent["down_while_restored"].startswith("PRODUCT-HOST-PANIC: 'emulated' panicked: "), spent
    assert "not_restored" not in spent
    # The boot took the module of others away as well; it is loaded again.
    assert "(/boot/modules/vmm.ko)" in other_state(lab)
    assert "vmmcheck" not in other_state(lab)
