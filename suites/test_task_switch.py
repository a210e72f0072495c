"""Hardware task switches (TSK): exits emulated in userland on Intel, done by the processor on AMD."""

from __future__ import annotations

from harness.cases import axis, case, variant
from harness.expect import expect_exceptions, expect_register
from harness.guest import Program, tables
from harness.guest.registers import DR6_BS, DR6_BT, DR6_CAUSES, RFLAGS_NT, RFLAGS_TF
from harness.subjects import Subject

#: Above the low half of the second argument of 32-bit snippets: the T bit in the state of the second task, and #DB
#: through a task gate to it.
T_BIT, TASK_GATE = (tables.constants()[name] << 32 for name in ("TASK_TRAP", "TASK_GATE"))
#: The task that programs run in.
FIRST_TASK = tables.constants()["SELECTOR_TSS32"]


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
    "TSK-01",
    rule="#DB through a task gate: its handler has the link to the interrupted task and NT, and steps no further",
    refs=("SDM3 17.3.1.5", "SDM3 7.3"),
    priority=3,
    needs=("task-switch",),
)
@axis("event", ("watch", "step"))
def test_a_debug_exception_through_a_task_gate(subject: Subject, event: str) -> None:
    program = Program(f"#DB of a {event} through a task gate")
    watched = program.watched(low=True)
    if event == "watch":
        program.arm(dr=1, address=watched, type="write", length=4, enable="G")
    program.exit("cpuid")
    snippet = {"watch": "store_mov_4", "step": "step_nops"}[event]
    gated = program.execute(snippet, watched, TASK_GATE | 0x77, mode="prot32")
    content = program.peek(watched, 4)
    # The control: the same event through an interrupt gate, which is no task switch.
    plain = program.execute(snippet, watched, 0x78, mode="prot32")
    result = subject.run(program)
    found = result.exceptions_of(gated)
    expect_exceptions("the event through the task gate", found, "#DB", ref="SDM3 17.3.1.5")
    (hit,) = found
    through_interrupt_gate = result.exceptions_of(plain)[0]
    cause, stepping = {"watch": (1 << 1, 0), "step": (DR6_BS, RFLAGS_TF)}[event]
    expect_register("dr6 causes", hit.dr6, cause, mask=DR6_CAUSES, ref="SDM3 17.2.3")
    expect_register("link of the handler's task", hit.aux, FIRST_TASK, ref="SDM3 7.4")
    expect_register("nt and tf of the handler", hit.error, RFLAGS_NT, mask=RFLAGS_NT | RFLAGS_TF, ref="SDM3 7.3")
    expect_register("tf kept of the interrupted task", hit.rflags, stepping, mask=RFLAGS_TF, ref="SDM3 7.3")
    expect_register("nt kept of the interrupted task", hit.rflags, 0, mask=RFLAGS_NT, ref="SDM3 7.3")
    expect_register("rip kept of the interrupted task", hit.rip, through_interrupt_gate.rip, ref="SDM3 17.3.1")
    stored = {"watch": 0x77, "step": 0}[event]
    expect_register("memory, behind the way back", result.value(content), stored)


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
