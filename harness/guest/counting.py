"""How many operations a guest does on its way through a program, and whether that is what it says it did."""

from __future__ import annotations

from collections.abc import Sequence

from harness.errors import RecordsDamaged
from harness.guest import tables
from harness.guest.program import Op
from harness.guest.records import Kind, Result
from harness.guest.registers import VECTORS

#: What the runtime's handler goes on behind, wherever it happens.
_HARMLESS = tuple(VECTORS[name] for name in ("#DB", "#BP", "NMI"))


def operations_of(ops: Sequence[Op]) -> int:
    """Operations that the boot processor does, each pass of a loop again; parts of other processors are theirs."""
    loop, end_loop, start, end = (tables.opcode(name) for name in ("loop", "end_loop", "start_cpu", "end"))
    times, total, at = [1], 0, 0
    while at < len(ops):
        op = ops[at]
        at += 1
        if op.opcode == loop:
            total += times[-1]
            times.append(times[-1] * op.x)
        elif op.opcode == end:
            break
        else:
            total += times[-1]
            if op.opcode == end_loop:
                times.pop()
            elif op.opcode == start:
                at = op.y
    return total


def check_operations(result: Result, ops: Sequence[Op]) -> None:
    """Raises :class:`RecordsDamaged` for a guest that did another number of operations than its program has.

    One that was ended by an exception outside the code under test has a record of that, which is what tells.
    """
    if result.operations is None:
        return  # evidence of a version whose guests did not count
    ended = any(
        record.kind is Kind.EXCEPTION and record.site == 0 and record.vector not in _HARMLESS
        for record in result.records
    )
    expected = operations_of(ops) & 0xFFFF_FFFF
    if not ended and result.operations != expected:
        raise RecordsDamaged(f"The guest says that it did {result.operations} operations; its program has {expected}.")
