"""Hardware task switches (TSK): exits emulated in userland on Intel, done by the processor on AMD."""

from __future__ import annotations

from harness.cases import axis, case, variant
from harness.expect import expect_exceptions, expect_register
from harness.guest import Program
from harness.guest.registers import DR6_BT
from harness.subjects import Subject

#: Asks for the T bit in the state of the second task (second argument of the snippet).
T_BIT = 1 << 32


@case(
    "TSK-01",
    rule="A switch to a task whose T bit is set: #DB before its first instruction, DR6.BT = 1",
    refs=("SDM3 17.3.1.5",),
    priority=3,
    needs=("task-switch",),
)
@axis("trap", (variant(True, id="t1"), variant(False, id="t0")))
def test_the_t_bit_of_a_task(subject: Subject, trap: bool) -> None:
    program = Program(f"task switch, T = {int(trap)}")
    # The control: the place where the second task begins, as an instruction breakpoint sees it.
    program.arm_snippet(dr=0, snippet="task_entry", enable="G", mode="prot32")
    place = program.execute("task_switch", mode="prot32")
    program.disarm()
    switch = program.execute("task_switch", 0, T_BIT if trap else 0, mode="prot32")
    result = subject.run(program)
    begin = result.exceptions_of(place)
    expect_exceptions("a breakpoint on the task's first instruction", begin, "#DB", ref="SDM3 17.2.4")
    found = result.exceptions_of(switch)
    expect_exceptions("the switch", found, *["#DB"] * trap, ref="SDM3 17.3.1.5")
    for record in found:
        expect_register("dr6.bt", record.dr6, DR6_BT, mask=DR6_BT, ref="SDM3 17.3.1.5")
        expect_register("rip", record.rip, begin[0].rip, ref="SDM3 17.3.1.5")


@case(
    "TSK-02",
    rule="A task switch clears L0-L3 and leaves G0-G3: local breakpoints do not fire in the new task",
    refs=("SDM3 17.2.4",),
    priority=2,
    needs=("task-switch",),
)
@axis("enable", ("L", "G"))
@axis("register", (0, 3), prefix="dr")
def test_local_enables_end_with_the_task(subject: Subject, enable: str, register: int) -> None:
    program = Program(f"{enable}{register} across a task switch")
    program.arm_snippet(dr=register, snippet="task_entry", enable=enable, mode="prot32")
    switch = program.execute("task_switch", mode="prot32")
    after = program.snapshot()
    result = subject.run(program)
    hits = {"L": 0, "G": 1}[enable]
    expect_exceptions("the new task", result.exceptions_of(switch), *["#DB"] * hits, ref="SDM3 17.2.4")
    expect_register("dr7 local enables", result.snapshot(after).dr7, 0, mask=0x55, ref="SDM3 17.2.4")
