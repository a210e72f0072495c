"""What a correct SVM half does, one statement a function. Each starts its own guest on a loaded module and raises
:class:`AssertionError` or :class:`GuestGone` when the statement is false, so that tests can demand either outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.reference.svm_kernel import (
    VM,
    VMCB_CLEAN,
    VMCB_DR_INTERCEPT,
    HostDebugState,
    Kernel,
    Reg,
    function_at,
    state_rom,
)

Check = Callable[[Kernel], None]

#: What the state guest's 'a' puts into DR0-DR3 and DR7.
ARMED = (0x6000, 0x1111, 0x2222, 0x3333)
ARMED_DR7 = 0x000D0401
RESET_DR6 = 0xFFFF0FF0
HIT_DR6 = 0xFFFF0FF1
#: Its 'm' changes DR2 and DR7 to these.
CHANGED_DR2 = 0x2BAD
CHANGED_DR7 = 0x000D0403

#: DR0 watches an address that nobody uses; DR6 has bits that no guest here causes.
PLANTED = HostDebugState((0x7000_0000, 0x7000_1000, 0x7000_2000, 0x7000_3000), 0xFFFF4FF8, 0x0001_0402)


@contextmanager
def guest(kernel: Kernel, *, name: str = VM, cpu: int = 1) -> Iterator[None]:
    """A state guest from its start to the removal of its VM."""
    kernel.start(state_rom(), name=name, cpu=cpu)
    try:
        yield
    finally:
        if not kernel.is_dead():
            kernel.destroy(name)


def guest_keeps_its_debug_registers(kernel: Kernel) -> None:
    with guest(kernel):
        fresh = kernel.state()
        assert (fresh.dr0, fresh.dr1, fresh.dr2, fresh.dr3, fresh.dr6, fresh.dr7) == (0, 0, 0, 0, RESET_DR6, 0x400)
        state = kernel.state(b"axwx")
        assert (state.dr0, state.dr1, state.dr2, state.dr3) == ARMED
        assert (state.dr6, state.dr7) == (HIT_DR6, ARMED_DR7)
        assert (state.debugs, state.seen_dr6) == (1, HIT_DR6)
        assert kernel.vmcb(VMCB_DR_INTERCEPT) == 0


def guests_on_one_cpu_do_not_mix(kernel: Kernel) -> None:
    with guest(kernel), guest(kernel, name="other"):
        kernel.state(b"a")
        other = kernel.state(b"m", name="other")
        mine = kernel.state()
        assert (mine.dr0, mine.dr1, mine.dr2, mine.dr3) == ARMED
        assert (other.dr0, other.dr2, other.dr7) == (0, CHANGED_DR2, CHANGED_DR7)


def guest_state_follows_the_guest_between_cpus(kernel: Kernel) -> None:
    with guest(kernel, cpu=0):
        kernel.state(b"a")
        kernel.pin(1)
        state = kernel.state(b"m")
        assert (state.dr0, state.dr1, state.dr2, state.dr3) == (ARMED[0], ARMED[1], CHANGED_DR2, ARMED[3])
        kernel.pin(0)
        back = kernel.state()
        assert (back.dr0, back.dr1, back.dr2, back.dr3) == (ARMED[0], ARMED[1], CHANGED_DR2, ARMED[3])
        assert back.dr7 == CHANGED_DR7


def host_keeps_its_debug_registers(kernel: Kernel) -> None:
    kernel.plant(1, PLANTED)
    with guest(kernel):
        state = kernel.state(b"axw")
        assert (state.dr0, state.dr3) == (ARMED[0], ARMED[3])
        assert kernel.host_state(1) == PLANTED


def new_guest_starts_fresh(kernel: Kernel) -> None:
    with guest(kernel):
        kernel.state(b"awm")
    with guest(kernel):
        state = kernel.state()
        assert (state.dr0, state.dr1, state.dr2, state.dr3) == (0, 0, 0, 0)
        assert (state.dr6, state.dr7) == (RESET_DR6, 0x400)


def set_debug_registers_reach_the_guest(kernel: Kernel) -> None:
    with guest(kernel):
        kernel.state(b"x")
        values = {Reg.DR0: 0x1000, Reg.DR1: 0x2000, Reg.DR2: 0x3000, Reg.DR3: 0x4000}
        values |= {Reg.DR6: 0xFFFF0FF4, Reg.DR7: 0x455}
        for reg, value in values.items():
            kernel.set(reg, value)
        assert {reg: kernel.get(reg) for reg in values} == values
        state = kernel.state()
        assert (state.dr0, state.dr1, state.dr2, state.dr3) == (0x1000, 0x2000, 0x3000, 0x4000)
        assert (state.dr6, state.dr7) == (0xFFFF0FF4, 0x455)


def guests_debug_registers_can_be_read(kernel: Kernel) -> None:
    with guest(kernel):
        kernel.state(b"aw")
        read = [kernel.get(reg) for reg in (Reg.DR0, Reg.DR1, Reg.DR2, Reg.DR3, Reg.DR6, Reg.DR7)]
        assert read == [*ARMED, HIT_DR6, ARMED_DR7]


def set_control_registers_reach_the_guest(kernel: Kernel) -> None:
    with guest(kernel):
        kernel.state(b"x")
        kernel.set(Reg.CR3, 0x3000)
        kernel.set(Reg.CR4, 0x8)
        kernel.set(Reg.EFER, 0x1)
        state = kernel.state()
        assert (state.cr3, state.cr4, state.efer) == (0x3000, 0x8, 0x1001)


def set_cr2_reaches_the_guest(kernel: Kernel) -> None:
    with guest(kernel):
        kernel.state(b"x")
        kernel.set(Reg.CR2, 0xC2C2)
        assert kernel.state().cr2 == 0xC2C2


def set_tables_reach_the_guest(kernel: Kernel) -> None:
    with guest(kernel):
        before = kernel.state(b"x")
        kernel.set_desc(Reg.GDTR, before.gdt_base, 0x17, 0)
        kernel.set_desc(Reg.IDTR, before.idt_base + 8, 0x1FF, 0)
        state = kernel.state()
        assert (state.gdt_limit, state.idt_base, state.idt_limit) == (0x17, before.idt_base + 8, 0x1FF)


def set_segment_reaches_the_guest(kernel: Kernel) -> None:
    with guest(kernel):
        before = kernel.state(b"x")
        assert (before.at_ds, before.at_es) == (0x9000_9000, 0x9000_9000)
        _, limit, access = kernel.desc(Reg.DS)
        kernel.set_desc(Reg.DS, 0x1000, limit, access)
        state = kernel.state()
        assert (state.at_ds, state.at_es) == (0xA000_A000, 0x9000_9000)


def task_priority_reaches_cr8(kernel: Kernel) -> None:
    with guest(kernel):
        kernel.state(b"x")
        assert kernel.state(b"t").cr8 == 5


def time_stamp_counter_can_be_set(kernel: Kernel) -> None:
    with guest(kernel):
        kernel.state(b"x")
        state = kernel.state(b"T")
        assert state.tsc_high == 0
        assert state.tsc_low < 1_000_000


def interrupt_arrives_when_the_guest_opens_a_window(kernel: Kernel) -> None:
    with guest(kernel):
        assert kernel.state(b"i", seconds=6).irqs == 1


def efer_can_be_changed(kernel: Kernel) -> None:
    with guest(kernel):
        kernel.state(b"x")
        assert kernel.state(b"e").efer == 0x1001
        assert kernel.state(b"e").efer == 0x1000


def caching_is_in_use(kernel: Kernel) -> None:
    with guest(kernel):
        kernel.state(b"x")
        assert kernel.vmcb(VMCB_CLEAN) == 0x3FF


def guests_on_two_cpus_run_side_by_side(kernel: Kernel) -> None:
    with guest(kernel, cpu=0), guest(kernel, name="other", cpu=1):
        kernel.send(b"x" * 40)
        kernel.state(b"x" * 40, name="other")
        assert kernel.state(b"aw").debugs == 1


def world_switch_can_be_traced(kernel: Kernel) -> None:
    assert kernel.probe_sites("svm_launch") == (0, 1)
    kernel.probe("svm_launch")
    with guest(kernel):
        kernel.state(b"x")
    entries, returns, records = kernel.probe_end()
    assert entries == returns > 100
    assert [record.is_return for record in records] == [number % 2 == 1 for number in range(len(records))]
    for record in records:
        # What the handler found through per-CPU data, and through the frames from svm_launch outwards.
        assert (record.cpu, record.thread) == (1, "vcpu 0")
        assert [function_at(frame) for frame in record.frames][:2] == ["svm_run", "vm_run"]
        assert record.dr7 in {0, 0x400}


def module_goes_and_comes(kernel: Kernel) -> None:
    kernel.unload()
    kernel.load()
    guest_keeps_its_debug_registers(kernel)


CHECKS: tuple[Check, ...] = (
    guest_keeps_its_debug_registers,
    guests_on_one_cpu_do_not_mix,
    guest_state_follows_the_guest_between_cpus,
    host_keeps_its_debug_registers,
    new_guest_starts_fresh,
    set_debug_registers_reach_the_guest,
    guests_debug_registers_can_be_read,
    set_control_registers_reach_the_guest,
    set_cr2_reaches_the_guest,
    set_tables_reach_the_guest,
    set_segment_reaches_the_guest,
    task_priority_reaches_cr8,
    time_stamp_counter_can_be_set,
    interrupt_arrives_when_the_guest_opens_a_window,
    efer_can_be_changed,
    caching_is_in_use,
    guests_on_two_cpus_run_side_by_side,
    world_switch_can_be_traced,
    module_goes_and_comes,
)
