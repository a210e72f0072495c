"""Instruction breakpoints (EXE)."""

from __future__ import annotations

from harness.cases import axis, case, variant
from harness.expect import expect_equal, expect_exceptions, expect_fault, expect_register, expect_silence
from harness.guest import Program
from harness.guest.registers import RFLAGS_RF, dr7
from harness.subjects import Subject
from suites.guestlib import force, run_with
from suites.vocabulary import CORE_EXITS, REGISTERS

EXITING = ("cpuid", "out_80", "in_21", "rdmsr", "xsetbv", "hlt_timer")

#: IA32_APIC_BASE: a model-specific register that the hypervisor's kernel part answers for.
APIC_BASE = 0x1B
#: A model-specific register that no processor has: the hypervisor answers with an injected #GP.
NO_SUCH_MSR = 0x4000_FFFF
#: A page that a program maps away before it is touched.
HOLE = 0x4000_0000

#: Exiting instructions that a breakpoint is put on, with their length: the one behind them is broken on as well.
THEN_NOP = (
    variant(("cpuid", 2), id="cpuid"),
    variant(("out_80", 2), id="out_80"),
    variant(("in_21", 2), id="in_21"),
    variant(("rdmsr", 2), id="rdmsr"),
    variant(("xsetbv", 3), id="xsetbv"),
)


@case(
    "EXE-01",
    rule="Each of DR0-3 with L, G, L+G fires on its instruction: fault class, RIP at it, Bn of the right register",
    requirement=("S1.1", "S1.2", "S1.3", "S1.6"),
    refs=("SDM3 17.3.1.1",),
)
@axis("register", REGISTERS, prefix="dr")
@axis("enable", ("L", "G", "LG"))
@axis("exit_kind", CORE_EXITS)
def test_breakpoint_fires_at_its_instruction(subject: Subject, register: int, enable: str, exit_kind: str) -> None:
    program = Program("instruction breakpoint")
    program.arm_snippet(dr=register, snippet="nop", enable=enable)
    force(program, exit_kind)
    hit = program.execute("nop")
    # Must not fire: the same register configured without an enable bit.
    program.arm_snippet(dr=register, snippet="nop", enable="")
    silent = program.execute("nop")
    result = run_with(subject, program, exit_kind)
    found = result.exceptions_of(hit)
    expect_exceptions("the watched instruction", found, "#DB", ref="SDM3 17.3.1.1")
    expect_fault(found[0], dr=register)
    expect_silence("the disabled breakpoint", result.exceptions_of(silent))


@case(
    "EXE-02",
    rule="The instruction had no effect yet when the handler runs",
    requirement=("S1.1",),
    refs=("SDM3 17.3.1.1",),
)
@axis("exit_kind", ("none", "cpuid", "out80"))
def test_nothing_happened_before_the_fault(subject: Subject, exit_kind: str) -> None:
    program = Program("no effect before the fault")
    counter = program.watched(value=41)
    program.arm_snippet(dr=0, snippet="add_register")
    force(program, exit_kind)
    register = program.execute("add_register", 6, result=True)
    program.arm_snippet(dr=0, snippet="add_memory")
    force(program, exit_kind)
    memory = program.execute("add_memory", counter)
    after = program.peek(counter)
    result = subject.run(program)
    expect_exceptions("add to a register", result.exceptions_of(register), "#DB")
    expect_equal("rax in the handler", result.exceptions_of(register)[0].aux, 6, ref="SDM3 17.3.1.1")
    expect_equal("rax afterwards", result.value(register), 7)
    expect_exceptions("add to memory", result.exceptions_of(memory), "#DB")
    expect_equal("memory in the handler", result.exceptions_of(memory)[0].value, 41, ref="SDM3 17.3.1.1")
    expect_equal("memory afterwards", result.value(after), 42)


@case(
    "EXE-03",
    rule="RF lets the instruction run once without firing; in a loop it fires once per pass",
    requirement=("S1.1",),
    refs=("SDM3 17.3.1.1",),
)
@axis("register", REGISTERS, prefix="dr")
@axis("exit_kind", ("none", "cpuid", "out80"))
def test_fires_once_per_pass(subject: Subject, register: int, exit_kind: str) -> None:
    passes = 9
    program = Program("once per pass")
    program.handler("exit_after", exit_kind=exit_kind)
    program.arm_snippet(dr=register, snippet="nop_loop")
    loop = program.execute("nop_loop", passes)
    result = subject.run(program)
    found = result.exceptions_of(loop)
    expect_exceptions(f"{passes} passes", found, *["#DB"] * passes, ref="SDM3 17.3.1.1")
    for record in found:
        expect_fault(record, dr=register)


@case(
    "EXE-04",
    rule="The pushed RF image is 0 for an instruction breakpoint and 1 for a fault raised by hardware",
    requirement=("S1.1",),
    refs=("SDM3 17.3.1.1",),
)
def test_rf_in_the_pushed_image(subject: Subject) -> None:
    program = Program("RF image")
    program.arm_snippet(dr=0, snippet="nop")
    breakpoint_ = program.execute("nop")
    program.disarm()
    fault = program.execute("ud2")
    result = subject.run(program)
    expect_exceptions("the breakpoint", result.exceptions_of(breakpoint_), "#DB")
    rflags = result.exceptions_of(breakpoint_)[0].rflags
    expect_register("rf of the breakpoint's image", rflags, 0, mask=RFLAGS_RF, ref="SDM3 17.3.1.1")
    expect_exceptions("UD2", result.exceptions_of(fault), "#UD")
    rflags = result.exceptions_of(fault)[0].rflags
    expect_register("rf of the fault's image", rflags, RFLAGS_RF, mask=RFLAGS_RF, ref="SDM3 17.3.1.1")


@case(
    "EXE-04",
    rule="The pushed RF image is 1 for a #PF raised by hardware on an instruction that has a breakpoint as well",
    requirement=("S1.1",),
    refs=("SDM3 17.3.1.1",),
)
@axis("register", REGISTERS, prefix="dr")
def test_rf_in_the_image_of_a_page_fault(subject: Subject, register: int) -> None:
    program = Program("breakpoint, then page fault")
    program.map(HOLE, HOLE, present=False)
    program.arm_snippet(dr=register, snippet="store_mov_8")
    both = program.store(HOLE)
    program.disarm()
    fault = program.store(HOLE)
    result = subject.run(program)
    found = result.exceptions_of(both)
    expect_exceptions("the store with a breakpoint", found, "#DB", "#PF", ref="SDM3 17.3.1.1")
    expect_fault(found[0], dr=register)
    expect_register("rf of the breakpoint's image", found[0].rflags, 0, mask=RFLAGS_RF, ref="SDM3 17.3.1.1")
    expect_register("rip of the page fault", found[1].rip, found[1].site, ref="SDM3 17.3.1.1")
    expect_register("rf of the page fault's image", found[1].rflags, RFLAGS_RF, mask=RFLAGS_RF, ref="SDM3 17.3.1.1")
    # The control: without breakpoint the page fault comes alone, and says the same of RF.
    expect_exceptions("the store without breakpoint", result.exceptions_of(fault), "#PF")
    rflags = result.exceptions_of(fault)[0].rflags
    expect_register("rf of the image", rflags, RFLAGS_RF, mask=RFLAGS_RF, ref="SDM3 17.3.1.1")


@case(
    "EXE-04",
    rule="The pushed RF image is 1 for a #GP that the hypervisor injects, so that the breakpoint does not fire again",
    requirement=("S1.1",),
    refs=("SDM3 17.3.1.1",),
    needs=("bhyve",),
)
def test_rf_in_the_image_of_an_injected_fault(subject: Subject) -> None:
    program = Program("injected fault")
    injected = program.rdmsr(NO_SUCH_MSR)
    allowed = program.rdmsr(APIC_BASE)
    result = subject.run(program)
    found = result.exceptions_of(injected)
    expect_exceptions("RDMSR of a register that does not exist", found, "#GP")
    expect_register("rip of the fault", found[0].rip, found[0].site)
    expect_silence("RDMSR of one that does", result.exceptions_of(allowed))
    expect_register("rf of the injected fault's image", found[0].rflags, RFLAGS_RF, mask=RFLAGS_RF, ref="SDM3 17.3.1.1")


@case(
    "EXE-05",
    rule="A breakpoint on a later byte of an instruction does not fire; on its first prefix it does",
    requirement=("S1.1",),
    refs=("SDM3 17.2.5",),
    priority=2,
)
@axis("snippet", ("prefix_nop", "long_mov"))
def test_only_the_first_byte_counts(subject: Subject, snippet: str) -> None:
    program = Program("first byte only")
    program.arm_snippet(dr=1, snippet=snippet, offset=1)
    inside = program.execute(snippet)
    program.arm_snippet(dr=1, snippet=snippet)
    first = program.execute(snippet)
    result = subject.run(program)
    expect_silence("a breakpoint inside", result.exceptions_of(inside), ref="SDM3 17.2.5")
    expect_exceptions("a breakpoint at the first byte", result.exceptions_of(first), "#DB", ref="SDM3 17.2.5")
    expect_fault(result.exceptions_of(first)[0], dr=1)


@case(
    "EXE-06",
    rule="On an instruction that exits it fires exactly once, before the exit",
    requirement=("S1.1", "S1.2"),
    refs=("SDM3 17.3.1.1",),
)
@axis("instruction", EXITING)
@axis("register", REGISTERS, prefix="dr")
def test_fires_before_an_exiting_instruction(subject: Subject, instruction: str, register: int) -> None:
    program = Program("breakpoint on an exiting instruction")
    argument = 20000 if instruction == "hlt_timer" else APIC_BASE
    program.arm_snippet(dr=register, snippet=instruction)
    hit = program.execute(instruction, argument)
    again = program.execute(instruction, argument)
    program.disarm()
    silent = program.execute(instruction, argument)
    result = subject.run(program)
    for handle in (hit, again):
        expect_exceptions(instruction, result.exceptions_of(handle), "#DB", ref="SDM3 17.3.1.1")
        expect_fault(result.exceptions_of(handle)[0], dr=register)
    expect_silence(f"{instruction} without breakpoint", result.exceptions_of(silent))


@case(
    "EXE-07",
    rule="After RF let an exiting instruction run, a breakpoint on the following instruction still fires",
    requirement=("S1.1",),
    refs=("SDM3 17.3.1.1", "SDM3 27.3.3"),
)
@axis("instruction", THEN_NOP)
def test_rf_is_gone_behind_an_exiting_instruction(subject: Subject, instruction: tuple[str, int]) -> None:
    name, length = instruction
    snippet = f"{name}_then_nop"
    program = Program("breakpoints on an exiting instruction and behind it")
    # The control: alone, the breakpoint behind it fires.
    program.arm_snippet(dr=1, snippet=snippet)
    alone = program.execute(snippet, APIC_BASE)
    program.arm_snippet(dr=0, snippet=snippet, offset=-length)
    program.arm_snippet(dr=1, snippet=snippet, extra=dr7(0, "execute", 1, "L"))
    both = program.execute(snippet, APIC_BASE)
    program.disarm()
    silent = program.execute(snippet, APIC_BASE)
    result = subject.run(program)
    expect_exceptions("a breakpoint behind it only", result.exceptions_of(alone), "#DB")
    expect_fault(result.exceptions_of(alone)[0], dr=1)
    found = result.exceptions_of(both)
    expect_exceptions(f"{name} and the instruction behind it", found, "#DB", "#DB", ref="SDM3 17.3.1.1")
    expect_register("rip of the first", found[0].rip, found[0].site - length, ref="SDM3 17.3.1.1")
    expect_fault(found[1], dr=1)
    expect_silence("both without breakpoints", result.exceptions_of(silent))


@case(
    "EXE-08",
    rule="Two registers on one address set both B bits; data accesses do not fire an instruction breakpoint",
    requirement=("S1.1", "S1.3"),
    refs=("SDM3 17.2.4",),
    priority=2,
)
def test_two_registers_on_one_instruction(subject: Subject) -> None:
    program = Program("two registers, one instruction")
    program.arm_snippet(dr=1, snippet="nop")
    program.arm_snippet(dr=2, snippet="nop", extra=1 << 2)
    hit = program.execute("nop")
    watched = program.watched(value=1)
    program.arm(dr=0, address=watched, type="execute", enable="L")
    data = program.load(watched)
    result = subject.run(program)
    found = result.exceptions_of(hit)
    expect_exceptions("the instruction", found, "#DB")
    expect_register("dr6 of both", found[0].dr6, 0b0110, mask=0b0110, ref="SDM3 17.2.4")
    expect_silence("a data access to an address watched for execution", result.exceptions_of(data))


@case(
    "EXE-09",
    rule="Fires at CPL 3 as at CPL 0",
    requirement=("S1.1",),
    refs=("SDM3 17.3.1.1",),
    priority=2,
)
@axis("exit_kind", ("none", "cpuid", "out80"))
def test_fires_in_user_mode(subject: Subject, exit_kind: str) -> None:
    program = Program("breakpoint at CPL 3")
    program.arm_snippet(dr=3, snippet="nop", mode="user64")
    force(program, exit_kind)
    hit = program.execute("nop", user=True)
    program.disarm()
    silent = program.execute("nop", user=True)
    result = subject.run(program)
    found = result.exceptions_of(hit)
    expect_exceptions("the instruction at CPL 3", found, "#DB", ref="SDM3 17.3.1.1")
    expect_fault(found[0], dr=3)
    expect_register("cpl of the interrupted code", found[0].cs, 3, mask=3)
    expect_silence("the same instruction without breakpoint", result.exceptions_of(silent))


@case(
    "EXE-09",
    rule="Fires on an instruction that straddles a page, and on the first instruction behind IRET",
    requirement=("S1.1",),
    refs=("SDM3 17.3.1.1",),
    priority=2,
)
@axis("snippet", ("straddle", "iret_then_nop"))
@axis("exit_kind", ("none", "cpuid"))
def test_fires_at_special_places(subject: Subject, snippet: str, exit_kind: str) -> None:
    program = Program("breakpoint at a special place")
    program.arm_snippet(dr=2, snippet=snippet)
    force(program, exit_kind)
    hit = program.execute(snippet)
    program.disarm()
    silent = program.execute(snippet)
    result = subject.run(program)
    expect_exceptions(snippet, result.exceptions_of(hit), "#DB", ref="SDM3 17.3.1.1")
    expect_fault(result.exceptions_of(hit)[0], dr=2)
    expect_silence(f"{snippet} without breakpoint", result.exceptions_of(silent))


@case(
    "EXE-09",
    rule="Fires on the first instruction behind SYSRET",
    requirement=("S1.1",),
    refs=("SDM3 17.3.1.1",),
    priority=2,
)
@axis("exit_kind", ("none", "cpuid"))
def test_fires_behind_sysret(subject: Subject, exit_kind: str) -> None:
    program = Program("breakpoint behind SYSRET")
    program.execute("syscall_setup", 0)
    program.arm_snippet(dr=1, snippet="syscall", offset=2, mode="user64")
    force(program, exit_kind)
    hit = program.execute("syscall", user=True)
    program.disarm()
    silent = program.execute("syscall", user=True)
    result = subject.run(program)
    found = result.exceptions_of(hit)
    expect_exceptions("the instruction behind SYSRET", found, "#DB", ref="SDM3 17.3.1.1")
    # SYSCALL has two bytes; SYSRET goes to the instruction behind it.
    expect_register("rip of the fault", found[0].rip, found[0].site + 2, ref="SDM3 17.3.1.1")
    expect_register("cpl of the interrupted code", found[0].cs, 3, mask=3)
    expect_silence("SYSCALL without breakpoint", result.exceptions_of(silent))
