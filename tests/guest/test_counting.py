"""A guest that leaves an operation out is found out, whatever its records look like."""

from __future__ import annotations

import pytest

from harness.errors import RecordsDamaged
from harness.guest import Program, operations_of
from harness.guest.program import Op
from harness.subjects.bare import BareSubject


def test_loops_count_each_pass_and_other_processors_not_at_all() -> None:
    program = Program("counted")
    program.note()
    with program.loop(3):
        program.note()
        with program.loop(4):
            program.note()
    with program.processor(1):
        program.note()
        program.note()
    program.wait_processor(1)
    # note, loop, 3 x (note, loop, 4 x (note, end), end), start, wait
    assert operations_of(program.ops) == 1 + 1 + 3 * (1 + 1 + 4 * 2 + 1) + 1 + 1


def test_the_guest_counts_the_same(bare: BareSubject) -> None:
    program = Program("counts")
    with program.loop(5):
        program.exit("cpuid", 2)
        with program.loop(2):
            program.execute("nop")
    with program.processor(1):
        program.note()
    program.wait_processor(1)
    assert bare.run(program).operations == operations_of(program.ops)


def test_an_operation_that_was_left_out_is_no_result(bare: BareSubject) -> None:
    program = Program("left out")
    program.note()
    program.ops.append(Op(200, "what this runtime has never heard of"))
    program.note()
    with pytest.raises(RecordsDamaged, match="did 2 operations; its program has 3"):
        bare.run(program)


def test_a_run_that_an_exception_ended_tells_so_itself(bare: BareSubject) -> None:
    program = Program("ended early")
    # Nothing is mapped there, and the runtime itself goes there.
    program.map(0x4000_0000, 0, present=False)
    program.poke(0x4000_0000, 8, 1)
    program.note()
    result = bare.run(program)
    assert [record.vector for record in result.exceptions] == [14]
    assert result.operations is not None
    assert result.operations < operations_of(program.ops)
