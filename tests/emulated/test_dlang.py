"""The D subset: what is understood, what is refused, and what a program makes of records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.emulated.dlang import DError, parse
from harness.emulated.dprint import default_print, render
from harness.emulated.drun import ActionFailed, Compiler, Fetch, Firing, State
from harness.emulated.kerneltypes import running_kernel

PROGRAMS = Path(__file__).resolve().parents[2] / "kernel" / "dtrace"


def run(text: str, firings: Sequence[Firing] = (Firing(name="entry"),)) -> State:
    """Carry out all clauses of a program for each firing."""
    compiler, state = Compiler(parse(text), running_kernel(), quiet=True), State()
    for firing in firings:
        state.this = {}
        for _, clause in compiler.clauses:
            clause(state, firing)
    return state


@pytest.mark.parametrize("path", sorted(PROGRAMS.glob("vmentry_*.d")), ids=lambda path: path.name)
def test_the_projects_programs_compile(path: Path) -> None:
    program = parse(path.read_text(encoding="ascii"))
    compiler = Compiler(program, running_kernel(), quiet=True)
    assert program.clauses[0].probes == ("BEGIN",)
    assert compiler.fetches
    assert program.clauses[-1].probes == ("END",)


def test_probes_predicates_and_options() -> None:
    text = "fbt:vmm:a:entry, fbt:vmm:b:entry\n/cpu == 1/\n{ @x[tid] = count(); }\ntick-5s{exit(3)}"
    program = parse(f"#pragma D option quiet\n{text}")
    assert program.options == {"quiet": ""}
    first, second = program.clauses
    assert first.probes == ("fbt:vmm:a:entry", "fbt:vmm:b:entry")
    assert first.predicate is not None
    assert second.probes == ("tick-5s",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty D program"),
        ("fbt:vmm:a:entry", "needs its actions in braces"),
        ("BEGIN{ stop(); }", "begins no statement"),
        ("BEGIN{ @x = quantize(1); }", "no aggregation that is supported"),
        ("BEGIN{ x = copyin(arg0, 8); }", r"copyin\(\) is not supported"),
        ("#include <x.h>\nBEGIN{}", "unsupported directive"),
        ("BEGIN{ x = (1 + ; }", "syntax error"),
        ("BEGIN{ x++; }", "begins no statement"),
    ],
)
def test_what_is_not_understood_is_refused(text: str, message: str) -> None:
    with pytest.raises(DError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("x = ((struct nothing *)arg0)->a;", "failed to resolve type struct nothing"),
        ("x = ((struct svm_regctx *)arg1)->host_dr9;", "host_dr9 is not a member of struct svm_regctx"),
        ("x = ((struct svm_regctx *)self->p)->host_dr0;", "only an argument of the probe"),
        ('printf("%d %d\\n", 1);', "prototype mismatch"),
        ("@a = count(); @a = sum(1);", "aggregation redefined"),
    ],
)
def test_what_has_no_meaning_is_refused(body: str, message: str) -> None:
    with pytest.raises(DError, match=message):
        Compiler(parse(f"fbt:vmm:f:entry{{ {body} }}"), running_kernel(), quiet=True)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("0xf0 & 0x3c | 1", 0x31),
        ("1 << 4 >> 1", 8),
        ("-7 / 2", -3),
        ("-7 % 3", -1),
        ("!0 && 2 > 1", 1),
        ("1 == 2 || 3 != 3", 0),
        ("5 > 4 ? 10 : 20", 10),
        ("~0", -1),
        ("0xffffffffffffffff == -1", 1),
        ("offsetof(struct svm_vcpu, swctx)", 24),
        ("arg1 - 8", 92),
    ],
)
def test_expressions(expression: str, value: int) -> None:
    assert run(f"BEGIN{{ x = {expression}; }}", [Firing(args=(0, 100, 0, 0, 0))]).globals == {"x": value}


def test_variables_belong_to_threads_and_clauses() -> None:
    text = "entry{ self->n = self->n + 1; this->m = 5; @[tid] = max(self->n); } entry{ total = total + this->m; }"
    state = run(text, [Firing(tid=1), Firing(tid=2), Firing(tid=1)])
    assert state.aggregations[""] == {(1,): 2, (2,): 1}
    assert state.globals == {"total": 15}


def test_weights_count_for_sums_only() -> None:
    state = run("entry{ @c = count(); @s = sum(3); @m = min(cpu); }", [Firing(cpu=2), Firing(cpu=1, weight=10)])
    assert state.aggregations == {"c": {(): 11}, "s": {(): 33}, "m": {(): 1}}


def test_members_become_copies_that_the_kernel_makes() -> None:
    text = "entry{ x = ((struct svm_vcpu *)(arg1 - offsetof(struct svm_vcpu, swctx)))->vmcb->ctrl.vmcb_clean; }"
    compiler = Compiler(parse(text), running_kernel(), quiet=True)
    assert compiler.fetches == [Fetch(1, (-24 + 16, 0xC0), 4)]
    state = State()
    compiler.clauses[0][1](state, Firing(values=(0x3FF,)))
    assert state.globals == {"x": 0x3FF}
    with pytest.raises(ActionFailed, match="invalid address"):
        compiler.clauses[0][1](state, Firing(values=(0,), faults=1))


def test_formats() -> None:
    assert render("%d %x|%s|%5d %@d %%\n", [-1, -1, "text", 7], 9) == "-1 ffffffffffffffff|text|    7 9 %\n"
    assert render("%-14k", [("vmm.ko`a+0x1", "kernel`b")], 0) == f"\n{'':14}vmm.ko`a+0x1\n{'':14}kernel`b\n"
    # FreeBSD 13.2 looks at the width of a stack only where it is left-aligned.
    assert render("%14k", [("vmm.ko`a+0x1", "kernel`b")], 0) == "\nvmm.ko`a+0x1\nkernel`b\n"


def test_aggregations_that_nobody_printed_are_shown_as_dtrace_does() -> None:
    state = run("entry{ @[probefunc] = count(); }", [Firing(function="vm_run", weight=75)])
    assert default_print(state.aggregations) == f"\n  {'vm_run':<50} {75:16d}\n"
