"""What a guest sees under VT-x is what it sees without a hypervisor: the bare emulated processor is the oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from harness.guest import Kind, Program, tables
from harness.recording import NullRecorder
from harness.subjects.bare import BareSubject
from tests.reference.vmx_lab import COM1, HLT_EXIT, TESTDEV, Lab

#: Memory that a guest under the hypervisor has not touched when it gets there.
FRESH = tables.constants()["FIRST_TOUCH"] + 0x40000
DATA_SELECTOR = 0x10
APIC_BASE = 0x1B

#: Exits around DR6 and stepping are where emulation and hardware can differ.
STEPS: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("nops", ()),
    ("cpuid", ()),
    ("rdmsr", (APIC_BASE,)),
    ("out", ()),
    ("in", ()),
    ("int3", ()),
    ("store", (FRESH, 5)),
)
BREAKPOINTS: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("cpuid", ()),
    ("out_80_then_nop", ()),
    ("xsetbv", ()),
    ("hlt_timer", (20000,)),
    ("icebp", ()),
)


def step(name: str, *arguments: int) -> Program:
    program = Program(f"step {name}")
    program.execute(f"step_{name}", *arguments)
    return program


def breakpoint_on(name: str, *arguments: int) -> Program:
    program = Program(f"break on {name}")
    program.arm_snippet(dr=1, snippet=name)
    program.execute(name, *arguments)
    return program


def repeated_across_a_fresh_page() -> Program:
    """A watch behind the border at which REP STOSB faults in the nested tables."""
    program = Program("rep stosb")
    program.arm(dr=0, address=FRESH + 0x1000 + 8, type="write", length=1)
    program.execute("rep_stosb", FRESH + 0x1000 - 16, 1, 64)
    return program


def watched_fresh_page() -> Program:
    program = Program("watch fresh")
    program.arm(dr=0, address=FRESH, type="readwrite", length=8)
    program.load(FRESH, 8)
    program.store(FRESH, 8, 7)
    return program


def mov_ss_before_an_exit() -> Program:
    program = Program("mov ss, cpuid")
    watched = program.watched(value=DATA_SELECTOR)
    program.arm(dr=2, address=watched, type="readwrite", length=2)
    program.execute("mov_ss_cpuid", watched)
    return program


def exits_in_the_handler() -> Program:
    program = Program("handler")
    watched = program.watched()
    program.handler("exit_before", "exit_after", exit_kind="hlt_timer")
    program.arm(dr=3, address=watched, type="write", length=4)
    program.store(watched, 4)
    return program


def general_detect() -> Program:
    program = Program("general detect")
    program.set_dr(7, 0x2400)
    program.execute("read_dr0")
    return program


PROGRAMS: dict[str, Callable[[], Program]] = {
    **{f"step-{name}": partial(step, name, *args) for name, args in STEPS},
    **{f"break-{name}": partial(breakpoint_on, name, *args) for name, args in BREAKPOINTS},
    **{
        made.__name__: made
        for made in (
            repeated_across_a_fresh_page,
            watched_fresh_page,
            mov_ss_before_an_exit,
            exits_in_the_handler,
            general_detect,
        )
    },
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("vmx")) as lab:
        yield lab


@pytest.fixture(scope="module")
def bare() -> BareSubject:
    return BareSubject("bareintel", "intel", NullRecorder())


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_without_a_hypervisor(lab: Lab, bare: BareSubject, name: str) -> None:
    program = PROGRAMS[name]()
    program.snapshot()
    expected = bare.run(program).records
    # Traced, every exception is a VM exit and comes back by injection.
    for tunables in ((), ("hw.vmm.trace_guest_exceptions=1",)):
        lab.load(tunables=tunables)
        observed = lab.run(program, flags=TESTDEV | COM1 | HLT_EXIT).records
        # The processors differ in what they offer, and the hypervisor hides some of it.
        assert [r for r in observed if r.kind > Kind.FEATURES] == [r for r in expected if r.kind > Kind.FEATURES]
