"""Virtual machines come, run, end in every way, and go; on both vendors."""

from __future__ import annotations

import struct

import pytest

from harness.emulated.ctl import Code, KernelError, name_field
from harness.guest import EndMethod, Program, Rom, decode
from tests.reference.core_guest import (
    HALT,
    HALT_IF0,
    OUT_84,
    POWEROFF,
    RESET_CF9,
    RIP,
    SPIN,
    SPIN_IF0,
    STORE_TO_ROM,
    TRIPLE_FAULT,
    rom_of,
    tiny,
)
from tests.reference.vmx_lab import COM1, HLT_EXIT, TESTDEV, Lab

ENOENT, ENXIO, EBUSY, EEXIST, EINVAL = 2, 6, 16, 17, 22
STAYING = {"spin": SPIN, "spin-if0": SPIN_IF0, "halt-if0": HALT_IF0, "halt": HALT}


def refused(errno: int, lab: Lab, code: int, payload: bytes = b"") -> None:
    with pytest.raises(KernelError) as caught:
        lab.machine.request(code, payload)
    assert caught.value.errno == errno


@pytest.mark.parametrize(
    ("code", "flags", "status", "stderr"),
    [
        (RESET_CF9, 0, 0, ""),
        (POWEROFF, 0, 1, ""),
        (HALT_IF0, HLT_EXIT, 2, ""),
        (STORE_TO_ROM, 0, 1, "vm_run error -1, errno 14\n"),
        (OUT_84, 0, 134, "Unhandled outb 0x0084 at 0xff00\n"),
    ],
    ids=["reset", "poweroff", "halt", "store-to-rom", "out-84"],
)
def test_ways_to_end(both: Lab, code: bytes, flags: int, status: int, stderr: str) -> None:
    with tiny(both, rom_of(code), flags=flags | TESTDEV | COM1) as guest:
        assert guest.end() == (status, stderr)


def test_triple_fault(both: Lab) -> None:
    """An exit that nobody handles. On AMD this cannot be seen: Bochs 2.7 does not know the SHUTDOWN intercept."""
    if both.machine.vendor == "amd":
        pytest.skip("Bochs 2.7 resets the whole machine when a guest under SVM shuts down")
    with tiny(both, rom_of(TRIPLE_FAULT)) as guest:
        status, stderr = guest.end()
        assert status == 134
        assert "reason\t\tVMX" in stderr
        assert "exit_reason\t2 (Triple fault)" in stderr


@pytest.mark.parametrize("code", STAYING.values(), ids=STAYING)
def test_a_guest_that_stays_can_be_ended(both: Lab, code: bytes) -> None:
    """Also one that holds off interrupts, which in the emulator hold off the host's, too."""
    with tiny(both, rom_of(code)) as guest:
        guest.wait_exits(2)
        assert 0xFF00 <= guest.register(RIP) <= 0xFF03
        guest.vm(Code.KILL)
        assert guest.end() == (137, "")
        guest.run()
        guest.wait_exits(2)
        guest.vm(Code.SUSPEND, struct.pack("<I", 2))
        assert guest.end() == (1, "")
        guest.run()
        guest.wait_exits(2)
        guest.vm(Code.VM_DESTROY)
        assert guest.end() == (1, "vm_run error -1, errno 6\n")
    refused(ENOENT, both, Code.VM_DESTROY, name_field("tiny"))


def test_two_cpus_without_interrupts(both: Lab) -> None:
    """Guests with IF=0 on all processors: the host still gets to run."""
    with tiny(both, rom_of(SPIN_IF0), pins=(0,)) as one, tiny(both, rom_of(SPIN_IF0), name="other", pins=(1,)) as other:
        one.wait_exits(2)
        other.wait_exits(2)
        assert (one.state().hostcpu, other.state().hostcpu) == (0, 1)


def test_stop_and_continue(both: Lab) -> None:
    with tiny(both, rom_of(SPIN)) as guest:
        guest.wait_exits(2)
        guest.vm(Code.STOP, struct.pack("<I", 1))
        stopped = guest.state().exits
        both.machine.request(Code.HELLO)
        assert guest.state().exits - stopped <= 1
        guest.vm(Code.STOP, struct.pack("<I", 0))
        guest.wait_exits(2)
        guest.vm(Code.STOP, struct.pack("<I", 1))
        guest.vm(Code.KILL)
        assert guest.end() == (137, "")


def test_refusals(both: Lab) -> None:
    refused(EEXIST, both, Code.MODLOAD)
    refused(EINVAL, both, Code.VM_CREATE)
    refused(ENOENT, both, Code.GET_STATS, name_field("none"))
    refused(EINVAL, both, 0xFF)
    refused(ENOENT, both, Code.SYSCTL, b"hw.vmm.nonesuch\0")
    with tiny(both, rom_of(SPIN)) as guest:
        refused(EEXIST, both, Code.VM_CREATE, name_field("tiny"))
        refused(EBUSY, both, Code.MODUNLOAD)
        refused(EBUSY, both, Code.RUN, name_field("tiny") + struct.pack("<IIi", 1, 0, -1))
        refused(EINVAL, both, Code.GET_REG, name_field("tiny") + struct.pack("<Ii", 0, 77))
        refused(EINVAL, both, Code.GET_REG, name_field("tiny") + struct.pack("<Ii", 9, 0))
        guest.wait_exits(1)
    both.machine.request(Code.MODUNLOAD)
    refused(ENXIO, both, Code.VM_CREATE, name_field("tiny"))
    with pytest.raises(KernelError):
        both.machine.request(Code.MODLOAD, b"defect nonesuch\n\0")
    both.machine.request(Code.MODLOAD)


def test_a_used_vm_starts_fresh(both: Lab) -> None:
    """bhyve on a VM that is there already: the registers are new, the memory is the old one."""
    program = Program("reuse")
    first = program.peek(0x300000)
    program.poke(0x300000, 8, 0x1234)
    program.set_dr(0, 0x77)
    program.set_dr(7, 0x500)
    rom = Rom.build(program, EndMethod.POWEROFF)
    with tiny(both, rom.image) as guest:
        seen = []
        for _ in range(2):
            assert guest.end() == (1, "")
            result = decode(both.console["tiny"], rom.nonce)
            assert (result.reset.dr0, result.reset.dr6, result.reset.dr7) == (0, 0xFFFF0FF0, 0x400)
            seen.append(result.value(first))
            guest.run()
        guest.end()
    assert seen == [0, 0x1234]


def test_guest_memory_from_outside(both: Lab) -> None:
    with tiny(both, rom_of(SPIN)) as guest:
        guest.vm(Code.VM_WRITE, struct.pack("<Q", 0x200FFC) + b"12345678")
        assert guest.vm(Code.VM_READ, struct.pack("<QI", 0x200FFC, 8)) == b"12345678"
        assert guest.vm(Code.VM_READ, struct.pack("<QI", 0xFFFFFFF0, 3)) == b"\xe9\x0d\xff"
        for code, payload in ((Code.VM_WRITE, b"x"), (Code.VM_READ, struct.pack("<I", 8))):
            with pytest.raises(KernelError, match="14"):
                guest.vm(code, struct.pack("<Q", 0xD0000000) + payload)


def test_statistics_are_the_vendors(both: Lab) -> None:
    with tiny(both, rom_of(SPIN)) as guest:
        guest.wait_exits(3)
        text = guest.vm(Code.GET_STATS, struct.pack("<I", 0)).decode()
    names = [line.partition("\t")[0] for line in text.splitlines()]
    assert names[0] == "number of times in/out was intercepted"
    assert names[-1] == "vm exits due to nmi window opening"
    assert ("VM exits during event delivery" in names) == (both.machine.vendor == "amd")
    assert ("Number of vpid invalidations done" in names) == (both.machine.vendor == "intel")
