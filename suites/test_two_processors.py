"""Virtual machines with two processors: what belongs to one of them stays there (ISO, RST)."""

from __future__ import annotations

from harness.cases import axis, case, variant
from harness.expect import expect_exceptions, expect_register, expect_silence, expect_trap
from harness.guest import Program
from harness.guest.registers import CR4_DE, DR6_BS, DR6_INACTIVE, DR7_RESET, dr7
from harness.subjects import Subject
from suites.guestlib import BUSY, expect_debug_registers
from suites.vocabulary import DISTINCT, REGISTERS

#: Values of the second processor.
OTHER = (0x9999_0000_0001_0008, 0x8888_0000_0002_0010, 0x7777_0000_0003_0018, 0x6666_0000_0004_0020)


@case(
    "ISO-07",
    rule="Two vCPUs of one VM on one CPU with different DR0-3, DR6 and DR7 each read back their own values",
    requirement=("S1.2", "S1.3", "S1.6"),
    needs=("bhyve", "smp"),
)
@axis("kind", (variant("busy"), variant("out80")))
def test_two_vcpus_on_one_cpu_keep_their_own(subject: Subject, kind: str) -> None:
    count = BUSY if kind == "busy" else 40
    program = Program("two vCPUs on one CPU")
    program.sync(1)
    with program.processor(1):
        for n, value in enumerate(OTHER):
            program.set_dr(n, value)
        program.set_dr(6, DR6_INACTIVE | 0x8)
        program.set_dr(7, DR7_RESET | 0x200)
        program.barrier(2)
        program.exit(kind, count)
        theirs = program.snapshot()
    for n, value in enumerate(DISTINCT):
        program.set_dr(n, value)
    program.set_dr(6, DR6_INACTIVE | 0x1)
    program.set_dr(7, DR7_RESET | 0x100)
    program.barrier(2)
    program.exit(kind, count)
    mine = program.snapshot()
    program.wait_processor(1)
    last = program.snapshot()
    with subject.start(program, pin=0) as guest:
        guest.wait_phase(1)
        guest.pin(0, vcpu=1)
        guest.go()
        result = guest.finish()
    for look in (mine, last):
        expect_debug_registers(result.snapshot(look), DISTINCT, dr6=DR6_INACTIVE | 0x1, dr7=DR7_RESET | 0x100)
    expect_debug_registers(result.snapshot(theirs), OTHER, dr6=DR6_INACTIVE | 0x8, dr7=DR7_RESET | 0x200)


@case(
    "ISO-07",
    rule="A watch that one vCPU armed never fires in the other one, on the same CPU and beside it",
    requirement=("S1.3", "S1.1"),
    needs=("bhyve", "smp"),
)
@axis("cpu", (0, 1), prefix="cpu")
@axis("register", REGISTERS, prefix="dr")
def test_a_watch_belongs_to_one_vcpu(subject: Subject, cpu: int, register: int) -> None:
    program = Program("a watch of one vCPU")
    first, second = program.watched(), program.watched()
    program.sync(1)
    with program.processor(1):
        program.arm(dr=register, address=second, type="write", length=8)
        program.barrier(2)
        program.exit("out80", 10)
        foreign = program.store(first)
        own = program.store(second)
        program.barrier(2)
    program.arm(dr=register, address=first, type="write", length=8)
    program.barrier(2)
    program.exit("out80", 10)
    foreign_here = program.store(second)
    own_here = program.store(first)
    program.barrier(2)
    program.wait_processor(1)
    with subject.start(program, pin=0) as guest:
        guest.wait_phase(1)
        guest.pin(cpu, vcpu=1)
        guest.go()
        result = guest.finish()
    for store in (foreign, foreign_here):
        expect_silence("a store to what the other vCPU watches", result.exceptions_of(store))
    for store in (own, own_here):
        hits = result.exceptions_of(store)
        expect_exceptions("a store to what this vCPU watches", hits, "#DB")
        expect_trap(hits[0], dr=register)


@case(
    "RST-06",
    rule="A processor that dirtied DR0-3, DR6 and DR7 and is then sent INIT and a start-up IPI sees reset values again",
    requirement="S1.3",
    refs=("SDM3 9.1.1 table 9-1",),
    needs=("smp",),
)
@axis("kind", (variant("none"), variant("cpuid")))
def test_init_resets_the_debug_registers(subject: Subject, kind: str) -> None:
    ref = "SDM3 9.1.1 table 9-1"
    program = Program("INIT")
    with program.processor(1):
        for n, value in enumerate(OTHER):
            program.set_dr(n, value)
        program.set_dr(6, DR6_INACTIVE | DR6_BS | 0x5)
        program.set_dr(7, dr7(2, "write", 4, "G"))
        program.debug_extensions(True)
        program.exit(kind, 3)
        dirty = program.snapshot()
    program.wait_processor(1)
    with program.processor(1):
        program.note()
    program.wait_processor(1)
    result = subject.run(program)
    # The control: the registers really were dirty before the second INIT.
    expect_register("dr3 before INIT", result.snapshot(dirty).dr3, OTHER[3])
    first, again = result.resets(1)
    for look, reset in (("at its start", first), ("after INIT", again)):
        for n in REGISTERS:
            expect_register(f"dr{n} {look}", reset[n], 0, ref=ref)
        expect_register(f"dr6 {look}", reset.dr6, DR6_INACTIVE, ref=ref)
        expect_register(f"dr7 {look}", reset.dr7, DR7_RESET, ref=ref)
        expect_register(f"cr4.de {look}", reset.cr4, 0, mask=CR4_DE, ref=ref)
