"""Judged expectations: each is written to the evidence of its cell, met or not, and raises if it is not.

The messages say what, expected, observed and by which rule; failures are product failures by type.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from harness.errors import HitMismatch, ProductFailure, RegisterMismatch
from harness.guest import Record
from harness.guest.registers import DR6_BD, DR6_BS, DR6_BT, RFLAGS_RF, VECTORS, describe_dr6
from harness.recording import NullRecorder, Recorder

_NOBODY: Recorder = NullRecorder()
_RECORDER: ContextVar[Recorder] = ContextVar("vmmcheck_recorder", default=_NOBODY)
_NAMES = {number: name for name, number in VECTORS.items()}


@contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Let expectations inside go to ``recorder``."""
    token = _RECORDER.set(recorder)
    try:
        yield
    finally:
        _RECORDER.reset(token)


def expect_that(
    what: str,
    ok: bool,
    expected: str,
    observed: str,
    *,
    ref: str = "",
    mask: str = "",
    error: type[ProductFailure] = ProductFailure,
) -> None:
    """The base of all others: ``ok`` decides, the rest explains."""
    _RECORDER.get().add_expectation(what, expected, observed, ok, mask=mask, reference=ref)
    if not ok:
        rule = f" ({ref})" if ref else ""
        masked = f" under mask {mask}" if mask else ""
        raise error(f"{what}: expected {expected}{masked}, observed {observed}{rule}.")


def parameters(**values: object) -> None:
    """Write into the evidence by which numbers a case went where they depend on the place: ``moves=8``."""
    _RECORDER.get().add_note("Parameters: " + ", ".join(f"{name}={value}" for name, value in values.items()) + ".")


def expect_register(name: str, observed: int, expected: int, *, mask: int = ~0, ref: str = "") -> None:
    """A register holds ``expected`` in the bits of ``mask``."""
    expect_that(
        name,
        observed & mask == expected & mask,
        f"{expected:#x}",
        f"{observed:#x}",
        ref=ref,
        mask="" if mask == ~0 else f"{mask:#x}",
        error=RegisterMismatch,
    )


def expect_equal(
    what: str, observed: object, expected: object, *, ref: str = "", error: type[ProductFailure] = ProductFailure
) -> None:
    """Two values are equal; integers are shown in hexadecimal."""
    expect_that(what, observed == expected, _show(expected), _show(observed), ref=ref, error=error)


def expect_exceptions(what: str, records: Sequence[Record], *vectors: str, ref: str = "") -> None:
    """Exactly these exceptions were taken, in this order (names such as ``#DB``); none for no argument."""
    seen = [_NAMES.get(record.vector, f"vector {record.vector}") for record in records]
    details = "; ".join(
        f"{name} at {record.rip:#x} dr6={describe_dr6(record.dr6)}" for name, record in zip(seen, records, strict=True)
    )
    expect_that(
        f"exceptions of {what}",
        seen == list(vectors),
        _list(list(vectors)),
        _list(seen) + (f" [{details}]" if details and seen != list(vectors) else ""),
        ref=ref,
        error=HitMismatch,
    )


def expect_silence(what: str, records: Sequence[Record], *, ref: str = "") -> None:
    """Nothing fired."""
    expect_exceptions(what, records, ref=ref)


def expect_dr6(record: Record, causes: int, *, enabled: int | None = None, ref: str = "SDM3 17.2.3") -> None:
    """The handler read exactly ``causes`` in DR6.

    Bits B0-B3 count only for breakpoints that DR7 enables (``enabled``: their mask, by default from the record),
    since others may be set whenever their address matches (SDM 17.2.3).
    """
    if enabled is None:
        enabled = sum(1 << n for n in range(4) if record.dr7 >> 2 * n & 3)
    mask = DR6_BD | DR6_BS | DR6_BT | enabled | (causes & 0xF)
    expect_register("dr6", record.dr6, causes, mask=mask, ref=ref)


def expect_trap(record: Record, *, dr: int, ref: str = "SDM3 17.3.1.2") -> None:
    """A data breakpoint: reported behind the access, with its own B bit, RF clear in the image."""
    expect_register("rip of the trap", record.rip, record.next, ref=ref)
    expect_dr6(record, 1 << dr, ref=ref)
    expect_register("rflags.rf of the trap", record.rflags, 0, mask=RFLAGS_RF, ref="SDM3 17.3.1.1")


def expect_fault(record: Record, *, dr: int, ref: str = "SDM3 17.3.1.1") -> None:
    """An instruction breakpoint: reported at the instruction, with its own B bit."""
    expect_register("rip of the fault", record.rip, record.site, ref=ref)
    expect_dr6(record, 1 << dr, ref=ref)


def _list(names: Sequence[str]) -> str:
    if len(names) > 8:
        return f"{', '.join(names[:8])}, ... ({len(names)} in all)"
    return ", ".join(names) or "none"


def _show(value: object) -> str:
    return f"{value:#x}" if isinstance(value, int) and not isinstance(value, bool) else repr(value)
