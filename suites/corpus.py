"""One guest program that goes through everything whose state the hypervisor keeps, with the same records every time."""

from __future__ import annotations

from dataclasses import fields

from harness.guest import Program, Result
from harness.guest.registers import DR6_INACTIVE, DR7_RESET, dr7
from suites.vocabulary import DISTINCT

#: Exits whose number does not depend on the host's clock.
EXITS = (
    "cpuid", "out80", "in21", "first_touch", "lapic_mmio", "rdmsr", "wrmsr", "pause", "xsetbv", "cr_write", "cr8",
    "cr3",
)  # fmt: skip


def corpus() -> Program:
    """Debug registers, watches, breakpoints, steps, control registers, tables and interrupts between exits."""
    program = Program("corpus")
    watched = program.watched()
    for round_, kind in enumerate(EXITS):
        for n, value in enumerate(DISTINCT):
            program.set_dr(n, value + 0x100 * round_)
        program.set_dr(6, DR6_INACTIVE | 1 << round_ % 4)
        program.arm(dr=round_ % 4, address=watched, type="write", length=8, enable="G")
        program.exit(kind, 2)
        program.store(watched, 8, round_)
        program.snapshot()
        program.control_registers()
    program.set_dr(7, DR7_RESET)
    program.arm_snippet(dr=1, snippet="nop", enable="L")
    program.execute("nop")
    program.disarm()
    program.execute("step_nops")
    program.execute("int3")
    program.exit("hlt_timer", 2)
    program.use_tables("second_idt")
    program.execute("int3")
    program.descriptor_tables()
    program.use_tables("own")
    program.debug_extensions(True)
    program.exit("cpuid")
    program.control_registers()
    program.set_dr(7, dr7(0, "write", 1, "L"))
    program.exit("out80")
    program.snapshot()
    return program


def page(result: Result) -> list[tuple[object, ...]]:
    """Every field of every record: none of them has a clock in it."""
    return [tuple(getattr(record, field.name) for field in fields(record)) for record in result.records]
