"""A lost byte is an infrastructure error, whatever byte it is."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from harness.errors import GuestSilent, ProgramInvalid, RecordsDamaged
from harness.guest import EndMethod, Program, Result, Rom, decode, noted, tables, with_memory
from harness.guest.records import Kind, Mode
from harness.recording import NullRecorder
from harness.subjects.bare import BareSubject


class Keep(NullRecorder):
    """Keeps the console of the last run."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def add_file(self, name: str, data: bytes) -> None:
        self.files[name] = data


def watch_program() -> Program:
    program = Program("watch")
    watched = program.watched()
    program.arm(dr=1, address=watched, type="write", length=4)
    program.store(watched, 4)
    program.snapshot()
    return program


@pytest.fixture(scope="module")
def run() -> tuple[bytes, int, Result]:
    """One real run on a bare CPU model: console, nonce, result."""
    recorder = Keep()
    result = BareSubject("bare", "intel", recorder).run(watch_program())
    nonce = int(re.search(rb"VGP1 B ([0-9a-f]{8})", recorder.files["console.raw"])[1], 16)  # type: ignore[index]
    return recorder.files["console.raw"], nonce, result


def test_a_whole_console_decodes(run: tuple[bytes, int, Result]) -> None:
    console, nonce, result = run
    assert decode(console, nonce).records == result.records
    assert [record.vector for record in result.exceptions] == [1]
    assert result.exceptions[0].rip == result.exceptions[0].next
    assert result.exceptions[0].dr6 & 0xF == 0b0010


@pytest.mark.parametrize("lost", range(0, 2000, 37))
def test_a_lost_byte_is_never_a_result(run: tuple[bytes, int, Result], lost: int) -> None:
    console, nonce, result = run
    damaged = console[:lost] + console[lost + 1 :]
    if lost >= len(console):
        return
    try:
        assert decode(damaged, nonce).records == result.records  # a byte between the lines says nothing
        assert console[lost : lost + 1] in (b"\r", b"\n")
    except RecordsDamaged:
        pass


def test_damage_of_every_kind_is_named(run: tuple[bytes, int, Result]) -> None:
    console, nonce, _ = run
    lines = console.splitlines(keepends=True)
    records = [at for at, line in enumerate(lines) if line.startswith(b"R ")]
    without = lines[: records[1]] + lines[records[1] + 1 :]
    doubled = [*lines[: records[1]], lines[records[1]], *lines[records[1] :]]
    swapped = list(lines)
    swapped[records[0]], swapped[records[1]] = swapped[records[1]], swapped[records[0]]
    for broken in (without, doubled, swapped, lines[:-1], lines + lines):
        with pytest.raises(RecordsDamaged):
            decode(b"".join(broken), nonce)


def test_output_of_another_run_is_refused(run: tuple[bytes, int, Result]) -> None:
    console, nonce, _ = run
    with pytest.raises(RecordsDamaged, match="another run"):
        decode(console, nonce ^ 1)


def test_both_sides_have_the_same_tables() -> None:
    known = tables.constants()
    for kind in Kind:
        assert known[f"RECORD_{kind.name}"] == kind
    for mode in Mode:
        assert known[f"MODE_{mode.name}"] == mode
    for end in EndMethod:
        kept = known["END_KEEP_RECORDS"] if end.name.endswith("_KEPT") else 0
        assert known[f"END_{end.name.removesuffix('_KEPT')}"] | kept == end


def test_images_are_reproducible() -> None:
    first, second = (Rom.build(watch_program(), EndMethod.HLT, nonce=7) for _ in range(2))
    assert first.image == second.image
    assert len(first.image) == 64 * 1024


def test_impossible_programs_are_refused() -> None:
    program = Program("impossible")
    attempts: tuple[Callable[[], object], ...] = (
        lambda: program.arm(dr=4, address=0, type="write"),
        lambda: program.arm(dr=0, address=0, type="write", length=3),
        lambda: program.execute("no_such_snippet"),
        lambda: program.exit("no_such_exit"),
        lambda: program.set_dr(5, 0),
    )
    for attempt in attempts:
        with pytest.raises(ProgramInvalid):
            attempt()


def test_a_program_that_does_not_fit_is_refused() -> None:
    program = Program("long")
    for _ in range(600):
        program.note()
    with pytest.raises(ProgramInvalid, match="fit the ROM"):
        Rom.build(program, EndMethod.HLT)


def test_a_silent_guest_is_not_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = Rom(bytes(64 * 1024), 1, watch_program())
    monkeypatch.setattr(Rom, "build", lambda *_, **__: empty)
    with pytest.raises(GuestSilent):
        BareSubject("bare", "amd", NullRecorder()).run(empty.program, seconds=1)


def test_what_is_behind_the_last_record_in_its_block_is_none() -> None:
    record = bytes(80)
    console = b"VGP1 B 00c0ffee 00000000\r\nVGP1 E 00c0ffee 00000002 00000000 00000000\r\n"
    exact = with_memory(console, record * 2)
    assert with_memory(console, record * 2 + b"\xff" * 100) == exact
    # Where the console does not say how many there are nothing is cut off.
    assert with_memory(console[:30], record * 3).endswith(record * 3)


def test_what_an_unfinished_guest_noted_ends_where_the_order_does() -> None:
    # Sequence number and kind (RECORD_NOTE) of a record; the rest is 0.
    memory = [n.to_bytes(4, "little") + bytes([Kind.NOTE]) + bytes(75) for n in range(3)]
    assert [record.seq for record in noted(b"".join(memory) + bytes(160) + memory[0])] == [0, 1, 2]
    assert [record.seq for record in noted(memory[0] + memory[1][:50])] == [0]
    assert noted(memory[1]) == ()
    assert noted(b"") == ()
