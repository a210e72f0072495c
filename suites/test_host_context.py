"""What the host keeps across VM entry, seen by probes on the function that enters the guest (HST)."""

from __future__ import annotations

from harness.cases import axis, case, variant
from harness.errors import HostStateMismatch, ProbeMismatch
from harness.expect import expect_equal, expect_register, expect_that
from harness.guest import Program
from harness.guest.registers import DR6_BS, DR6_INACTIVE, DR7_RESET, dr7
from harness.subjects import HostDebugState, RunningGuest, Subject, ThreadBases
from suites.guestlib import BUSY, expect_debug_registers, expect_nothing_wrong
from suites.vocabulary import DISTINCT, REGISTERS

#: The function that enters a guest.
SWITCH = {"intel": "vmx_enter_guest", "amd": "svm_launch"}
#: Where every entry comes from, innermost first. FreeBSD's dtrace leaves out one frame, the caller's caller: vm_run().
OUTER = ("vm_run", "vmmdev_ioctl")
#: VM exits of a run: what an emulator does in a second, and what a processor does in one.
EXITS = {True: 500, False: 1_000_000}
#: FreeBSD's name of the statistic that counts how often a vCPU left its guest.
EXITS_OF_A_VCPU = "total number of vm exits"

CANARY = 0xCAFE_F00D_DEAD_BEEF
#: What a guest may have in %rbp: its canary, nothing, an address of user space, one that is not canonical.
FRAMES = (
    variant(CANARY, id="canary"),
    variant(0, id="zero"),
    variant(0x7FFF_DEAD_B000, id="user_half"),
    variant(0x8000_0000_0000_0000, id="non_canonical"),
)

#: Other values in every register, DR7 armed on an address that nothing touches.
PLANTED = HostDebugState(
    dr0=0xFFFF_8000_1234_0008,
    dr1=0xFFFF_8000_2345_0010,
    dr2=0xFFFF_8000_3456_0018,
    dr3=0xFFFF_8000_4567_0020,
    dr6=DR6_INACTIVE | 0xA,
    dr7=dr7(3, "write", 8, "G"),
)


def many_exits(subject: Subject) -> Program:
    """A guest with hostile bases that leaves many times."""
    program = Program("many exits")
    program.execute("hostile_bases", 0xFFFF_8000_0BAD_0000, 0x0000_0BAD_0000_0008, 0x7FFF_0BAD_0000)
    program.exit("cpuid", EXITS[subject.platform.emulated])
    return program


def release(guest: RunningGuest, phase: int) -> None:
    """Let a guest that spins on its memory go on."""
    guest.write_memory(Program.mailbox(), phase.to_bytes(4, "little"))


def chain(functions: tuple[str, ...]) -> tuple[str, ...]:
    """A stack from the first function of :data:`OUTER` outwards, where entry and return must agree; or nothing."""
    outer = [name for name in functions if name in OUTER]
    return functions[functions.index(outer[0]) :] if outer else ()


@case(
    "HST-01",
    rule="Entry and return probes exist on the function of the running vendor that enters a guest",
    requirement="S3.3",
    needs=("observe",),
)
def test_the_world_switch_can_be_probed(subject: Subject) -> None:
    function = SWITCH[subject.platform.vendor]
    rows = subject.host.probes(f"fbt:vmm:{function}:")
    names = sorted(row.name for row in rows if (row.module, row.function) == ("vmm", function))
    expect_equal(f"probes of {function}", names, ["entry", "return"], error=ProbeMismatch)
    # The control: a function that does not exist has none, whatever the tool's exit status says.
    absent = subject.host.probes("fbt:vmm:no_such_function:")
    expect_equal("probes of a function that does not exist", len(absent), 0, error=ProbeMismatch)


@case(
    "HST-02",
    rule="In the return probe per-CPU data are right: CPU, thread and process are those of the vCPU thread",
    requirement=("S2.1", "S3.2"),
    needs=("observe",),
)
@axis("cpu", (0, 1), prefix="cpu")
def test_per_cpu_data_are_valid_at_the_return(subject: Subject, cpu: int) -> None:
    program = many_exits(subject)
    program.sync(1)
    with subject.host.observe() as seen, subject.start(program, pin=cpu, seconds=120) as guest:
        guest.wait_phase(1)
        thread = guest.thread_number()
        guest.go()
        guest.finish()
    expect_nothing_wrong(seen)
    found = [(one.tid, one.cpu, one.execname, one.name) for one in seen.threads]
    expect_equal("threads that entered", found, [(thread, cpu, "bhyve", "vcpu 0")], error=ProbeMismatch)
    expect_that(
        "entries", seen.entries >= EXITS[subject.platform.emulated], "one for each exit", str(seen.entries),
        error=ProbeMismatch,
    )  # fmt: skip


@case(
    "HST-02",
    rule="In the return probe per-CPU data are those of the CPU that the vCPU thread has moved to",
    requirement=("S2.1", "S3.2"),
    needs=("observe", "migration"),
)
def test_per_cpu_data_follow_the_thread(subject: Subject) -> None:
    moves = (1, 0, 1)
    program = Program("moved under a probe")
    for phase in range(1, len(moves) + 1):
        program.sync(phase)
        program.exit("cpuid", 20)
    program.sync(len(moves) + 1)
    with subject.host.observe() as seen, subject.start(program, pin=0) as guest:
        for phase, cpu in enumerate(moves, start=1):
            guest.wait_phase(phase)
            guest.pin(cpu)
            guest.go()
        guest.wait_phase(len(moves) + 1)
        thread = guest.thread_number()
        guest.go()
        guest.finish()
    expect_nothing_wrong(seen)
    found = sorted((one.tid, one.cpu, one.name) for one in seen.threads)
    expect_equal("where the thread entered", found, [(thread, 0, "vcpu 0"), (thread, 1, "vcpu 0")], error=ProbeMismatch)


@case(
    "HST-03",
    rule="Entries equal returns, per thread and in total; arguments and return value are plausible, nothing is lost",
    requirement=("S3.1", "S3.3"),
    needs=("observe", "two-vms"),
)
def test_entries_and_returns_come_in_pairs(subject: Subject) -> None:
    programs = []
    for _ in range(2):
        program = many_exits(subject)
        program.exit("busy", BUSY // 4)
        program.exit("out80", 20)
        programs.append(program)
    with (
        subject.host.observe() as seen,
        subject.start(programs[0], pin=0, name="one", seconds=120) as one,
        subject.start(programs[1], pin=1, name="two", seconds=120) as two,
    ):
        one.finish()
        two.finish()
    expect_nothing_wrong(seen)
    expect_equal("returns", seen.returns, seen.entries, error=ProbeMismatch)
    expect_equal("returns by their places", sum(seen.sites.values()), seen.returns, error=ProbeMismatch)
    expect_equal("threads that entered", len(seen.threads), 2, error=ProbeMismatch)
    for thread in seen.threads:
        expect_that(
            f"entries of thread {thread.tid}", thread.entries >= EXITS[subject.platform.emulated],
            "one for each exit", str(thread.entries), error=ProbeMismatch,
        )  # fmt: skip
    expect_equal("contexts, one for each vCPU", len(seen.contexts), 2, error=ProbeMismatch)


@case(
    "HST-04",
    rule="Stacks at entry and return are the same chain and never a guest address, whatever the guest has in RBP",
    requirement=("S3.1", "S3.3"),
    needs=("observe",),
)
@axis("rbp", FRAMES, prefix="rbp")
def test_the_stack_can_be_walked_through_the_frame(subject: Subject, rbp: int) -> None:
    program = Program("a frame pointer of its own")
    kept = program.execute("exits_with_rbp", rbp, 200, result=True)
    changed = program.execute("fuzz_registers", 0x0123_4567_89AB_CDEF ^ rbp, 300, result=True)
    with subject.host.observe() as seen:
        result = subject.run(program, pin=0)
    expect_register("the guest's rbp after its exits", result.value(kept), rbp)
    expect_equal("guest registers that changed across exits", result.value(changed), 0)
    expect_nothing_wrong(seen)
    for where, stacks in (("entry", seen.entry_stacks), ("return", seen.return_stacks)):
        expect_that(f"stacks seen at {where}", bool(stacks), "some", f"{len(stacks)}", error=ProbeMismatch)
        for stack in stacks:
            shown = " < ".join(stack.functions)
            reached = chain(stack.functions)
            expect_that(f"stack at {where}", bool(reached), f"reaches {' or '.join(OUTER)}", shown, error=ProbeMismatch)
            inner = stack.functions[: len(stack.functions) - len(reached)]
            foreign = [name for name in inner if name.startswith("0x")]
            expect_equal(f"addresses without a function at {where}", foreign, [], error=ProbeMismatch)
    entered = {chain(stack.functions) for stack in seen.entry_stacks}
    left = {chain(stack.functions) for stack in seen.return_stacks}
    expect_equal("chains at return", sorted(left), sorted(entered), error=ProbeMismatch)


@case(
    "HST-04",
    rule="Registers that a function must preserve survive exits of a guest while another one stays inside",
    requirement="S3.1",
    needs=("two-vms",),
)
def test_two_guests_inside_at_once(subject: Subject) -> None:
    """By turns one leaves and comes back many times while the other stays inside, spinning on its memory without an
    exit of its own. A context that two CPUs share would be overwritten under the one that stays."""
    turns, exits = 2, 400
    programs, changed = [], []
    for number, seed in enumerate((0x1111_2222_3333_4444, 0x9999_AAAA_BBBB_CCCC)):
        program, mine = Program("two at once"), []
        program.sync(1, "memory")
        for turn in range(turns):
            # The turn of the other one comes first for the second guest, and last for the first one.
            if number == 1:
                program.sync(2 + 3 * turn, "memory")
            mine.append(program.execute("fuzz_registers", seed, exits, result=True))
            program.exit("busy", 8)
            program.sync(3 + 3 * turn, "memory")
            if number == 0:
                program.sync(4 + 3 * turn, "memory")
        programs.append(program)
        changed.append(mine)
    left: list[int] = []
    with (
        subject.start(programs[0], pin=0, name="one") as one,
        subject.start(programs[1], pin=1, name="two") as two,
    ):
        one.wait_phase(1)
        two.wait_phase(1)
        release(two, 1)
        release(one, 1)
        for turn in range(turns):
            # Each stays where it is until its word is written: that the other one came on meanwhile shows that it did
            # so while this one was inside.
            two.wait_phase(2 + 3 * turn)
            one.wait_phase(3 + 3 * turn)
            release(one, 3 + 3 * turn)
            one.wait_phase(4 + 3 * turn)
            release(two, 2 + 3 * turn)
            two.wait_phase(3 + 3 * turn)
            left += [guest.stats()[EXITS_OF_A_VCPU] for guest in (one, two)]
            release(two, 3 + 3 * turn)
            release(one, 4 + 3 * turn)
        results = (one.finish(), two.finish())
    for mine, result in zip(changed, results, strict=True):
        for handle in mine:
            expect_equal("guest registers that changed across exits", result.value(handle), 0)
    fewest = min(left[:2])
    expect_that("exits of each one in its first turn", fewest >= exits, f"at least {exits}", f"{fewest}")


#: What a guest has in GS base, kernel GS base and FS base.
GUEST_BASES = (0xFFFF_8000_0BAD_0000, 0x0000_0BAD_0000_0008, 0x7FFF_0BAD_0000)
#: What another thread of the CPU has: addresses of user mode, which no guest here uses.
OTHER_THREAD = ThreadBases(fsbase=0x0000_5151_0000_1000, gsbase=0x0000_6262_0000_2000)


@case(
    "HST-06",
    rule="FS and GS base of the vCPU thread, and of another thread on its CPU, are those of before the guest ran",
    requirement="S3.2",
    needs=("user-bases", "sentinel"),
)
@axis("kind", ("cpuid", "out80", "hlt_timer", "busy"))
@axis("cpu", (0, 1), prefix="cpu")
def test_thread_local_storage_stays_where_it_is(subject: Subject, kind: str, cpu: int) -> None:
    program = Program("bases of its own")
    program.sync(1)
    program.execute("hostile_bases", *GUEST_BASES)
    planted = program.execute("read_bases", result=True)
    program.exit(kind, BUSY if kind == "busy" else 20)
    kept = program.execute("read_bases", result=True)
    program.sync(2)
    with subject.host.sentinel(cpu, watch=False, bases=OTHER_THREAD) as sentinel:
        with subject.start(program, pin=cpu) as guest:
            guest.wait_phase(1)
            before = guest.thread_bases()
            guest.go()
            guest.wait_phase(2)
            after = guest.thread_bases()
            guest.go()
            result = guest.finish()
        other = sentinel.stop().bases
    # The control: the guest's are really there, and are not what the thread has anyway.
    expect_register("the guest's bases, folded, after its exits", result.value(kept), result.value(planted))
    own = before.fsbase not in (0, *GUEST_BASES)
    shown = f"{before.fsbase:#x}"
    expect_that("fs base of the vCPU thread at first", own, "its own, not 0", shown, error=HostStateMismatch)
    for name in ("fsbase", "gsbase"):
        shown = f"{name} of the vCPU thread"
        expect_equal(shown, getattr(after, name), getattr(before, name), error=HostStateMismatch)
        shown = f"{name} of another thread on the CPU"
        expect_equal(shown, getattr(other, name), getattr(OTHER_THREAD, name), error=HostStateMismatch)


@case(
    "HST-07",
    rule="Host GDTR, IDTR, LDTR and TR are equal before and after",
    requirement="S3.2",
    refs=("SDM3 27.5", "APM2 15.6"),
    priority=2,
    needs=("host-tables",),
)
@axis("kind", ("cpuid", "out80"))
@axis("cpu", (0, 1), prefix="cpu")
def test_the_hosts_descriptor_tables_survive(subject: Subject, kind: str, cpu: int) -> None:
    before = subject.host.descriptor_tables(cpu)
    program = Program("tables of its own")
    program.use_tables("second_gdt")
    program.exit(kind, 50)
    program.use_tables("second_idt")
    program.exit(kind, 50)
    subject.run(program, pin=cpu)
    after = subject.host.descriptor_tables(cpu)
    for name, value in before.items():
        expect_equal(f"host {name}", after[name], value, error=HostStateMismatch)


@case(
    "HST-10",
    rule="Host debug copies that DTrace sees at the entry function equal the values that were planted",
    requirement=("S1.4", "S5.1"),
    priority=2,
    needs=("observe", "witness"),
)
@axis("cpu", (0, 1), prefix="cpu")
def test_the_saved_host_registers_are_the_planted_ones(subject: Subject, cpu: int) -> None:
    program = Program("hostile values")
    for n, value in enumerate(DISTINCT):
        program.set_dr(n, value)
    program.set_dr(6, DR6_INACTIVE | DR6_BS | 5)
    program.set_dr(7, DR7_RESET | 0x300)
    program.exit("cpuid", 50)
    program.exit("out80", 20)
    after = program.snapshot()
    with subject.host.observe() as seen:
        # dtrace(1) itself steps over a breakpoint in the program that it starts: DR6 changes while it does.
        planted = subject.host.plant(cpu, PLANTED)
        result = subject.run(program, pin=cpu)
    expect_debug_registers(
        result.snapshot(after), DISTINCT, dr6=DR6_INACTIVE | DR6_BS | 5, dr7=DR7_RESET | 0x300
    )
    expect_nothing_wrong(seen)
    expect_equal("entries", sum(seen.saved.values()), seen.entries, error=ProbeMismatch)
    for saved in seen.saved:
        for name in ("dr0", "dr1", "dr2", "dr3", "dr6", "dr7"):
            expected = getattr(planted, name)
            expect_equal(f"saved host {name}", getattr(saved, name), expected, error=HostStateMismatch)
    subject.host.plant(cpu, HostDebugState())


@case(
    "ISO-05",
    rule="A guest that watches the very memory from which the host's registers are restored does not disturb that",
    requirement="S1.4",
    priority=2,
    needs=("bhyvectl", "observe", "witness"),
)
@axis("register", REGISTERS, prefix="dr")
def test_watching_the_hosts_own_copies(subject: Subject, register: int) -> None:
    """With the host's DR7 back before DR0-DR3, restoring them is taken for a hit of the host's watch."""
    armed = dr7(register, "readwrite", 8, "G")
    planted = subject.host.plant(0, HostDebugState(**{f"dr{register}": subject.host.witness_variable()}, dr7=armed))
    program = Program("watches the host's copies")
    program.sync(1)
    program.sync(2)
    program.exit("cpuid", 20)
    program.exit("out80", 5)
    with subject.start(program, pin=0) as guest:
        guest.wait_phase(1)
        with subject.host.observe() as seen:
            guest.go()
            guest.wait_phase(2)
        (copies,) = seen.contexts
        guest.set_registers(**{f"dr{n}": copies + 8 * n for n in REGISTERS})
        guest.go()
        guest.finish()
    after = subject.host.state(0)
    for name in ("dr0", "dr1", "dr2", "dr3", "dr7"):
        expect_equal(f"host {name}", getattr(after, name), getattr(planted, name), error=HostStateMismatch)
    expect_equal("host dr6 causes", after.dr6 & 0xF, 0, error=HostStateMismatch)
    # The control: the host's watch is live.
    expect_equal("touches seen with the host's watch", subject.host.touch(0, 10), 10, error=HostStateMismatch)
    subject.host.plant(0, HostDebugState())
