"""Every snippet reaches its instruction under test, in every mode that may run it, and the program goes on behind."""

from __future__ import annotations

import pytest

from harness.guest import Program, tables
from harness.guest.registers import DR6_INACTIVE
from harness.subjects.bare import BareSubject

#: Places to break on, and what needs an entry that another snippet sets up.
NOT_RUN = {"task_entry", "frame_handler", "syscall_entry", "sysenter_entry", "syscall", "sysenter", "step_syscall",
           "endless_ac"}
#: Debug registers are written on the way: the breakpoint is gone, or the access refused.
DISARMING = {"disarm_store", "arm_store", "arm_store_4", "arm_out_store_4", "arm_cpuid_store_4",
             "change_dr_hlt", "change_dr_wrmsr"}  # fmt: skip
KERNEL = {"long": 0x10, "prot32": 0x10, "prot16": 0x10, "real": 0, "vm86": 0}
USER_SELECTOR = 0x2B


def arguments(name: str, narrow: bool, selector: int, memory: int, value: int) -> tuple[int, ...]:
    """What a snippet needs in rdi, rsi, rdx to succeed."""
    base = name.removeprefix("step_")
    if base.startswith(("rdmsr", "read_msr")):
        return (0x1B,)
    if base.startswith("wrmsr"):
        return 0xC0000102, 0x1234
    if base == "mov_ss_hlt":
        return selector, 20000
    if base == "change_dr_wrmsr":
        return 0x1B, DR6_INACTIVE, value
    if "hlt" in base:
        return (20000,)
    if base.startswith(("mov_ss", "two_mov_ss", "pop_ss")):
        return selector, memory
    if base == "lss_nop":
        return (selector + 16,)
    if base.startswith("mmio"):
        return (0xFEE00080,)
    if base.startswith(("out_dx", "in_dx")):
        return (0x80,)
    if base in ("rep_outsb", "rep_insb"):
        return 0x80, memory, 4
    if base.startswith(("rep_", "copy_", "load_lods", "load_scas")):
        return memory, memory + 64, 4
    if base.startswith("write_dr"):
        return 0 if narrow else value, value
    special = {
        "nop_loop": (1,),
        "loop": (1,),
        "lsl": (0x58,),
        "hostile_bases": (1, 2, 3),
        "exits_with_rbp": (3, 1),
        "fuzz_registers": (3, 1),
        "store_int_frame_8": (memory + 8,),
    }
    return special.get(base, (memory, 5, 0))


def reach(bare: BareSubject, mode: str, names: list[str]) -> list[str]:
    """Run snippets under a breakpoint at their site; those that did not come there once, with B3."""
    program = Program(f"snippets in {mode}")
    narrow = tables.mode_width(mode) != 64
    selector = program.watched(64, low=True)
    program.poke(selector, 8, KERNEL.get(mode, USER_SELECTOR))
    # LSS: offset, then selector; the stack is another processor's.
    program.poke(selector + 16, 8, KERNEL.get(mode, USER_SELECTOR) << 32 | 0x0022_F000)
    memory = program.watched(4096, low=True) + 2048 if narrow else program.watched(32768, align=4096) + 0x4000
    handles = {}
    for name in names:
        program.handler(*(["clear_tf"] if "step" in name else []))
        program.arm_snippet(dr=3, snippet=name, mode=mode)
        value = 0x400 if name in ("write_dr5", "write_dr7") else 0xFFFF0FF0
        handles[name] = program.execute(name, *arguments(name, narrow, selector, memory, value), mode=mode)
        program.disarm()
    end = program.note()
    result = bare.run(program)
    assert result.of(end)
    missed = []
    for name, handle in handles.items():
        hits = [r for r in result.exceptions_of(handle) if r.vector == 1 and r.rip == r.site and r.dr6 & 8]
        if len(hits) != 1:
            missed.append(name)
    return missed


@pytest.mark.parametrize("mode", [mode for mode in tables.modes() if mode != "user64"])
def test_snippets_reach_their_site(bare: BareSubject, mode: str) -> None:
    known = [name for name in tables.snippets(tables.mode_width(mode)) if name not in NOT_RUN | DISARMING]
    shadowed = [name for name in known if name.startswith(("mov_ss", "pop_ss"))]
    known = [name for name in known if name not in shadowed]
    if mode == "vm86_iopl0":
        # POPF, by which these set the trap flag, is a matter of IOPL.
        known = [name for name in known if not name.startswith("step_")]
    for start in range(0, len(known), 60):
        assert reach(bare, mode, known[start : start + 60]) == []
    # Behind a load of SS a breakpoint is held off (the emulator does so for both vendors).
    missing = [name for name in shadowed if not name.endswith(("sysenter", "syscall"))]
    assert reach(bare, mode, missing) == missing


def test_snippets_without_privilege_at_cpl_3(bare: BareSubject) -> None:
    names = [
        "store_mov_8", "load_mov_16", "store_push_8", "rep_movsb", "nop", "cpuid", "out_80", "int3", "icebp", "ud2",
        "step_nops", "step_cpuid", "step_out", "step_store", "step_pushf", "iret_then_nop",
    ]  # fmt: skip
    assert reach(bare, "user64", names) == []
