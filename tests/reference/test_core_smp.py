"""A guest with two processors: start-up as FreeBSD does it, interrupts between them, registers of each."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from harness.build import ImageSpec, build_image
from harness.emulated.ctl import Code
from tests.reference.core_guest import HALT_IF0, RIP, SPIN, rom_of, tiny
from tests.reference.vmx_lab import COM1, HLT_EXIT, TESTDEV, Lab

HERE = Path(__file__).parent
DR0, DR7 = 39, 18


def smp_rom() -> bytes:
    spec = ImageSpec("smp-guest", (HERE / "smp_guest.S",), HERE / "state_guest.ld", "start16")
    return build_image(spec).binary.read_bytes()


@pytest.mark.parametrize("pins", [(0, 1), (1, 1), (-1, -1)], ids=["two-cpus", "one-cpu", "anywhere"])
def test_second_processor_starts_and_is_interrupted(both: Lab, pins: tuple[int, int]) -> None:
    with tiny(both, smp_rom(), flags=TESTDEV | COM1 | HLT_EXIT, pins=pins) as guest:
        assert guest.end() == (17, "")
        code_segment, dr0, dr6, dr7, apic_id, interrupts = struct.unpack("<6I", both.console["tiny"])
    assert (code_segment, apic_id, interrupts) == (0x800, 1 << 24, 1)
    assert (dr0, dr6, dr7) == (0, 0xFFFF0FF0, 0x400)


def test_processors_have_registers_of_their_own(both: Lab) -> None:
    with tiny(both, rom_of(SPIN), pins=(0, 1)) as guest:
        guest.wait_exits(2)
        for vcpu in (0, 1):
            guest.vm(Code.SET_REG, struct.pack("<IiQ", vcpu, DR0, 0x100 + vcpu))
        assert [guest.register(DR0, vcpu) for vcpu in (0, 1)] == [0x100, 0x101]
        assert guest.register(RIP, 1) == 0xFFF0
        assert guest.state(1).exits == 0
        guest.vm(Code.KILL)
        assert guest.end() == (137, "")


def test_halt_needs_all_processors(both: Lab) -> None:
    """One that was never started counts as active, so that a VM of two does not end when the first one halts."""
    with tiny(both, rom_of(HALT_IF0), flags=HLT_EXIT | TESTDEV | COM1, pins=(0, 1)) as guest:
        both.machine.request(Code.HELLO)
        assert "tiny" not in both.ended
        guest.vm(Code.SUSPEND, struct.pack("<I", 1))
        assert guest.end() == (0, "")
