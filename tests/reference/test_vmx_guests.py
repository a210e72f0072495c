"""Guests under VT-x in the reference hypervisor, and what their host sees of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.emulated.ctl import KernelError
from harness.guest import Program, phases
from tests.reference.vmx_lab import Lab, vmcs_field
from tests.reference.vmx_scenarios import EXIT_KINDS, EXPECTED, Scenario, watch_through, watched_hits

VM_REG_GUEST_RFLAGS, VM_REG_GUEST_IDTR = 21, 30
RFLAGS_IF = 1 << 9
EXIT_CTLS, ENTRY_CTLS = 0x400C, 0x4012
DEBUG_CONTROLS = 1 << 2


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("vmx")) as lab:
        yield lab


@pytest.fixture(autouse=True)
def clean(lab: Lab) -> None:
    lab.load()


@pytest.mark.parametrize("kind", EXIT_KINDS)
def test_watch_hits_behind_exits(lab: Lab, kind: str) -> None:
    assert watch_through(lab, kind) == watched_hits()


@pytest.mark.parametrize("scenario", EXPECTED, ids=lambda scenario: scenario.__name__)
def test_scenario(lab: Lab, scenario: Scenario) -> None:
    assert scenario(lab) == EXPECTED[scenario]


@pytest.mark.parametrize("tunable", ["hw.vmm.trace_guest_exceptions=1", "hw.vmm.vmx.no_flush_rsb=1"])
def test_watch_hits_whatever_the_configuration(lab: Lab, tunable: str) -> None:
    lab.load(tunables=(tunable,))
    assert watch_through(lab, "cpuid") == watched_hits()


def test_debug_controls_are_on(lab: Lab) -> None:
    program = Program("controls")
    program.sync(1)
    guest = lab.start(program)
    guest.wait_phase(1)
    for field in (EXIT_CTLS, ENTRY_CTLS):
        assert guest.get(vmcs_field(field)) & DEBUG_CONTROLS
        with pytest.raises(KernelError, match="22"):
            guest.set(vmcs_field(field), 0)
    guest.go()
    guest.finish()
    guest.destroy()


def test_sysctls(lab: Lab) -> None:
    assert lab.sysctl("hw.vmm.vmx.initialized") == "1"
    assert lab.sysctl("hw.vmm.vmx.cap.unrestricted_guest") == "1"
    with pytest.raises(KernelError, match="2"):
        lab.sysctl("hw.vmm.vmx.nonsense")


def test_triple_fault_ends_bhyve(lab: Lab) -> None:
    """An exception without a table to find its handler in is reason 2, which nobody handles."""
    program = Program("triple")
    program.sync(1)
    guest = lab.start(program)
    guest.wait_phase(1)
    guest.set_desc(VM_REG_GUEST_IDTR, 0, 0, 0)
    guest.inject_nmi()
    status, errors = guest.wait_end()
    guest.destroy()
    assert status == 134
    assert "reason\t\tVMX" in errors
    assert "exit_reason\t2" in errors


def test_guest_without_interrupts_leaves_the_host_alone(lab: Lab) -> None:
    """A guest that spins with interrupts off does not exit by itself; the host answers all the same."""
    program = Program("spin")
    program.sync(1)
    program.exit("busy", 4000)
    program.sync(2)
    guest = lab.start(program)
    guest.wait_phase(1)
    guest.set(VM_REG_GUEST_RFLAGS, guest.get(VM_REG_GUEST_RFLAGS) & ~RFLAGS_IF)
    guest.go()
    before = guest.stats()
    while 2 not in phases(lab.console[guest.name], guest.rom.nonce):
        lab.host_state(0)
    after = guest.stats()
    guest.go()
    guest.finish()
    guest.destroy()
    assert after["number of times astpending at exit"] > before["number of times astpending at exit"] + 5


def test_module_can_be_loaded_again_after_its_guests(lab: Lab) -> None:
    for _ in range(3):
        lab.load()
        lab.run(Program("again"))
