"""Fields of the VMCB of the second processor (VCB): what its host changes is in force there too.

Only where the processor keeps fields whose clean bit is set can these tests fail; elsewhere they are not observable.
"""

from __future__ import annotations

from harness.cases import axis, case
from harness.expect import expect_register
from harness.guest import Handle, Program
from harness.guest.registers import DR6_CAUSES, DR6_INACTIVE, DR7_RESET
from harness.subjects import Subject
from suites.vmcb import AMD, REF, STALE

CR4_TSD = 1 << 2


@case(
    "VCB-04",
    rule="The host changes DR6, DR7, CR2 or CR4 of the second processor: that processor sees the value",
    requirement=("S4.1", "S4.3"),
    refs=(REF,),
    vendors=AMD,
    needs=("smp", *STALE),
)
@axis("register", ("dr6", "dr7", "cr2", "cr4"))
def test_the_second_processor_sees_what_was_changed(subject: Subject, register: str) -> None:
    program = Program("changed registers of the second processor")
    with program.processor(1):
        program.exit("cpuid", 3)
        before = program.control_registers()
        program.barrier(2)
        program.barrier(2)
        debug, control = program.snapshot(), program.control_registers()
    program.barrier(2)
    program.sync(1)
    program.barrier(2)
    program.wait_processor(1)
    with subject.start(program, pin=0) as guest:
        guest.wait_phase(1)
        value = {
            "dr6": DR6_INACTIVE | 0xA,
            "dr7": DR7_RESET | 0x300,
            "cr2": 0x1234_5678_9000,
            "cr4": guest.registers("cr4", vcpu=1)["cr4"] ^ CR4_TSD,
        }[register]
        guest.set_registers(vcpu=1, **{register: value})
        guest.go()
        result = guest.finish()
    seen, first, then = result.snapshot(debug), result.control_registers(before), result.control_registers(control)
    expect_register("dr6", seen.dr6, value if register == "dr6" else DR6_INACTIVE, mask=DR6_CAUSES, ref=REF)
    expect_register("dr7", seen.dr7, value if register == "dr7" else DR7_RESET, ref=REF)
    expect_register("cr2", then.cr2, value if register == "cr2" else first.cr2, ref=REF)
    expect_register("cr4", then.cr4, first.cr4 ^ (CR4_TSD if register == "cr4" else 0), ref=REF)


@case(
    "VCB-10",
    rule="Moving the second processor to another CPU and back brings nothing of what that CPU had cached before",
    requirement="S4.1",
    refs=(REF,),
    vendors=AMD,
    needs=("migration", "smp", "vmcb-cache"),
)
def test_nothing_old_comes_back_to_the_second_processor(subject: Subject) -> None:
    moves = (0, 1, 0, 1)
    program = Program("second processor moved")
    program.sync(1)
    looks: list[tuple[int, Handle]] = []
    with program.processor(1):
        for turn in range(1, len(moves) + 1):
            program.set_dr(6, DR6_INACTIVE | turn)
            program.set_dr(7, DR7_RESET | 0x1000_0000 * turn)
            program.exit("cpuid", 3)
            program.barrier(2)
            program.barrier(2)
            looks.append((turn, program.snapshot()))
    for turn in range(1, len(moves) + 1):
        program.barrier(2)
        program.sync(1 + turn)
        program.barrier(2)
    program.wait_processor(1)
    with subject.start(program, pin=0) as guest:
        guest.wait_phase(1)
        guest.pin(1, vcpu=1)
        guest.go()
        for turn, cpu in enumerate(moves, start=1):
            guest.wait_phase(1 + turn)
            guest.pin(cpu, vcpu=1)
            guest.go()
        result = guest.finish()
    for turn, look in looks:
        seen = result.snapshot(look)
        expect_register(f"dr6 on CPU {moves[turn - 1]}", seen.dr6, turn, mask=DR6_CAUSES, ref=REF)
        expect_register(f"dr7 on CPU {moves[turn - 1]}", seen.dr7, DR7_RESET | 0x1000_0000 * turn, ref=REF)
