"""Debug registers outside 64-bit code (MOD)."""

from __future__ import annotations

from harness.cases import axis, case, variant
from harness.expect import expect_exceptions, expect_register, expect_trap
from harness.guest import Program
from harness.guest.registers import DR6_BS, DR6_INACTIVE, DR7_GE, DR7_LE, DR7_RESET, dr7
from harness.subjects import Subject
from suites.guestlib import expect_debug_registers, expect_steps
from suites.vocabulary import DISTINCT

#: What a segment begins below its data in these programs; segments of real mode begin at multiples of 16.
SEGMENT_OFFSET = 0x1000
#: In the error code of a fault on a gate (SDM volume 3, 6.13).
IDT_BIT = 2


@case(
    "MOD-01",
    rule="Real mode: a write watch works, with and without an exit between arming and access",
    requirement="S1.1",
    refs=("SDM3 17.3",),
)
@axis("exit_kind", ("none", "cpuid", "out"))
@axis("register", (0, 1, 2, 3), prefix="dr")
def test_a_watch_in_real_mode(subject: Subject, exit_kind: str, register: int) -> None:
    program = Program(f"real mode, exit {exit_kind}")
    watched = program.watched(low=True)
    program.set_dr(register, watched)
    # DR7 is written by the real-mode code itself, right before the exit and the store.
    snippet = {"none": "arm_store_4", "cpuid": "arm_cpuid_store_4", "out": "arm_out_store_4"}[exit_kind]
    enabled = dr7(register, "write", 4, "L")
    base = watched - SEGMENT_OFFSET & ~0xF
    store = program.execute(snippet, watched, 0x77, enabled, mode="real", segment_base=base)
    program.disarm()
    silent = program.execute("store_mov_4", watched, 0x78, mode="real", segment_base=base)
    result = subject.run(program)
    found = result.exceptions_of(store)
    expect_exceptions("a watched store in real mode", found, "#DB", ref="SDM3 17.3")
    expect_trap(found[0], dr=register)
    expect_exceptions("the same store with DR7 cleared", result.exceptions_of(silent), ref="SDM3 17.3")


@case(
    "MOD-01",
    rule="Real mode: single step works through vector 1 of the interrupt table",
    requirement="S1.1",
    refs=("SDM3 17.3",),
)
@axis("instruction", (variant("nops"), variant("store")))
def test_single_step_in_real_mode(subject: Subject, instruction: str) -> None:
    program = Program(f"step over {instruction} in real mode")
    memory = program.watched(low=True)
    base = memory - SEGMENT_OFFSET & ~0xF
    steps = program.execute(f"step_{instruction}", memory, 1, mode="real", segment_base=base)
    expect_steps(subject.run(program).exceptions_of(steps), {"nops": 4, "store": 2}[instruction], ref="SDM3 17.3")


@case(
    "MOD-02",
    rule="A 32-bit MOV to DR0-DR3 zero-extends: upper halves written in 64-bit code are gone",
    requirement="S1.1",
    refs=("SDM3 17.2.6",),
    priority=2,
)
@axis("register", (0, 1, 2, 3), prefix="dr")
def test_upper_halves_are_cleared(subject: Subject, register: int) -> None:
    program = Program("32-bit MOV to a debug register")
    for n, value in enumerate(DISTINCT):
        program.set_dr(n, value)
    narrow = 0x8765_4321
    program.execute(f"write_dr{register}", 0, narrow, mode="prot32")
    after = program.snapshot()
    expected = [narrow if n == register else value for n, value in enumerate(DISTINCT)]
    observed = subject.run(program).snapshot(after)
    expect_debug_registers(observed, (expected[0], expected[1], expected[2], expected[3]), ref="SDM3 17.2.6")


@case(
    "MOD-02",
    rule="DR6 and DR7 have no upper half: 32-bit code writes them whole, 64-bit code may not reach beyond bit 31",
    requirement=("S1.2", "S1.3", "S1.6"),
    refs=("SDM3 17.2.6",),
    priority=2,
)
@axis("register", (6, 7), prefix="dr")
def test_dr6_and_dr7_have_no_upper_half(subject: Subject, register: int) -> None:
    program = Program(f"32-bit MOV to DR{register}")
    value = {6: DR6_INACTIVE | DR6_BS | 0b1001, 7: DR7_RESET | DR7_LE | DR7_GE}[register]
    other = {6: DR6_INACTIVE, 7: DR7_RESET}[register]
    # Outside 64-bit code a program's value comes from the second argument.
    narrow = program.execute(f"write_dr{register}", 0, value, mode="prot32")
    after = program.snapshot()
    wide = program.execute(f"write_dr{register}", other | 1 << 32)
    kept = program.snapshot()
    result = subject.run(program)
    expect_exceptions("a 32-bit write", result.exceptions_of(narrow), ref="SDM3 17.2.6")
    expect_register(f"dr{register}", result.snapshot(after)[register], value, ref="SDM3 17.2.6")
    expect_exceptions("a 64-bit write beyond bit 31", result.exceptions_of(wide), "#GP", ref="SDM3 17.2.6")
    expect_register(f"dr{register} afterwards", result.snapshot(kept)[register], value, ref="SDM3 17.2.6")


@case(
    "MOD-03",
    rule="Linear addresses include the segment base and wrap at 4 GiB",
    requirement="S1.1",
    refs=("SDM3 17.2.1",),
    priority=2,
)
@axis("mode", ("compat", "compat16", "prot16", "prot32"))
@axis("base", (variant("below"), variant("wraps")))
def test_the_segment_base_counts(subject: Subject, mode: str, base: str) -> None:
    program = Program(f"segment base in {mode}")
    watched = program.watched(low=True)
    program.arm(dr=0, address=watched, type="write", length=4)
    # Code of 16 bits reaches 64 KiB only: there the wrapping base lies as close below 4 GiB as the offset allows.
    reach = 0xFFFF if mode.endswith("16") else 0xFFFF_FFFF
    bases = {"below": watched - SEGMENT_OFFSET, "wraps": 0xFFFF_F000}
    if base == "wraps" and watched + 0x1000 > reach:
        bases["wraps"] = (watched - reach & ~0xF) % (1 << 32)
    store = program.execute("store_mov_4", watched, 1, mode=mode, segment_base=bases[base])
    beside = program.execute("store_mov_4", watched + 4, 1, mode=mode, segment_base=bases[base])
    result = subject.run(program)
    found = result.exceptions_of(store)
    expect_exceptions(f"a watched store in {mode}", found, "#DB", ref="SDM3 17.2.1")
    expect_trap(found[0], dr=0)
    expect_exceptions("a store beside it", result.exceptions_of(beside), ref="SDM3 17.2.1")


#: What vm86 code does -> snippet, and the exception that it meets where IOPL is 3 and where it is 0. INT n is checked
#: against IOPL first (error code 0), then against its gate: that of vector 1 is closed to CPL 3, that of 3 is open.
VM86 = {
    "mov_dr": ("write_dr0", "#GP", "#GP"),
    "watch": ("store_mov_4", "#DB", "#DB"),
    "int3": ("int3", "#BP", "#BP"),
    "int_1": ("int1", "#GP", "#GP"),
    "int_n_3": ("int_n_3", "#BP", "#GP"),
}


@case(
    "MOD-04",
    rule="vm86: MOV DR is #GP, watches and INT3 work, INT n is checked against IOPL and then against its gate",
    refs=("SDM3 17.2", "SDM3 20.3.3"),
    priority=3,
    needs=("vm86",),
)
@axis("iopl", (3, 0), prefix="iopl")
@axis("what", tuple(VM86))
def test_virtual_8086_mode(subject: Subject, what: str, iopl: int) -> None:
    program = Program(f"vm86 with IOPL {iopl}: {what}")
    watched = program.watched(low=True)
    base = watched - SEGMENT_OFFSET & ~0xF
    program.arm(dr=3, address=watched, type="write", length=4)
    snippet, privileged, unprivileged = VM86[what]
    mode = {3: "vm86", 0: "vm86_iopl0"}[iopl]
    run = program.execute(snippet, watched, 5, mode=mode, segment_base=base)
    after = program.snapshot()
    result = subject.run(program)
    found = result.exceptions_of(run)
    vector = {3: privileged, 0: unprivileged}[iopl]
    expect_exceptions(f"vm86 {what}", found, vector, ref="SDM3 17.2")
    place = found[0].site if vector == "#GP" else found[0].next
    expect_register("rip", found[0].rip, place, ref="SDM3 17.2")
    expect_register("iopl", found[0].rflags, iopl << 12, mask=3 << 12, ref="SDM3 20.2")
    gate = {("int_1", 3): 1 << 3 | IDT_BIT}.get((what, iopl), 0)
    expect_register("error code", found[0].error, gate, ref="SDM3 20.3.3")
    expect_register("dr3 afterwards", result.snapshot(after).dr3, watched, ref="SDM3 17.2")
