"""Expectations of suites say no to everything but what they name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.errors import HitMismatch, RegisterMismatch
from harness.expect import expect_dr6, expect_exceptions, expect_register, expect_trap
from harness.guest import Record
from harness.guest.records import Kind, Mode
from harness.guest.registers import DR6_BS, RFLAGS_RF

TRAP = Record(
    seq=0, kind=Kind.EXCEPTION, vector=1, op=1, rip=0x1003, rflags=2, error=0, cs=8, mode=Mode.LONG, cpu=0,
    iteration=0, dr6=0xFFFF_0FF1, dr7=0x403, value=0, site=0x1000, next=0x1003, aux=0,
)  # fmt: skip


def test_a_trap_is_told_from_what_is_none() -> None:
    expect_trap(TRAP, dr=0)
    wrong = (replace(TRAP, rip=TRAP.site), replace(TRAP, rflags=2 | RFLAGS_RF), replace(TRAP, dr6=TRAP.dr6 | DR6_BS))
    for record in wrong:
        with pytest.raises(RegisterMismatch):
            expect_trap(record, dr=0)
    with pytest.raises(RegisterMismatch):
        expect_trap(TRAP, dr=1)


def test_b_bits_count_where_they_are_enabled() -> None:
    expect_dr6(replace(TRAP, dr6=TRAP.dr6 | 8), 1)
    with pytest.raises(RegisterMismatch):
        expect_dr6(replace(TRAP, dr6=TRAP.dr6 | 8, dr7=0x4C3), 1)


def test_vectors_count_and_not_only_their_number() -> None:
    expect_exceptions("the store", [TRAP], "#DB")
    with pytest.raises(HitMismatch):
        expect_exceptions("the store", [replace(TRAP, vector=13)], "#DB")
    with pytest.raises(HitMismatch):
        expect_exceptions("the store", [TRAP])
    with pytest.raises(RegisterMismatch):
        expect_register("dr7", 0x400, 0x401, mask=0xF)
