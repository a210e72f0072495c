"""What a guest and its host observe under VT-x, scenario by scenario, as plain values to compare.

Every scenario takes a lab with the module loaded and returns a dictionary; :data:`EXPECTED` has what a correct
hypervisor gives. A seeded defect must change at least one value of its scenario.
"""

from __future__ import annotations

from collections.abc import Callable

from harness.emulated.ctl import KernelError
from harness.guest import Program
from tests.reference.vmx_lab import COM1, DR, HLT_EXIT, PAUSE_EXIT, TESTDEV, HostDebug, Lab, vmcs_field

Facts = dict[str, object]

GUEST_DR = (0x1111_0008, 0x2222_0010, 0x3333_0018, 0x4444_0020)
GUEST_DR6 = 0xFFFF0FF5
HOST = HostDebug(0xA0A0_0000, 0xA1A1_0008, 0xA2A2_0010, 0xA3A3_0018, 0xFFFF4FFA, 0x400)
RESET = (0, 0, 0, 0, 0xFFFF0FF0, 0x400)

EXIT_KINDS = ("cpuid", "out80", "in21", "hlt_timer", "first_touch", "lapic_mmio", "rdmsr", "wrmsr", "busy", "pause",
              "xsetbv", "cr_write")

#: Offset of host_dr0 in struct vmxctx (vmx.h), and the VMCS field that has the address of the context.
HOST_DR0_OFFSET = 224
VMCS_HOST_RSP = 0x6C14


def watch_through(lab: Lab, kind: str) -> Facts:
    """A write watch, exits of one kind, and the store: in each debug register."""
    program = Program(f"watch-{kind}")
    watched = program.watched()
    stores, snapshots = [], []
    for n in range(4):
        program.arm(dr=n, address=watched, type="write", length=8)
        program.exit(kind, 60 if kind == "busy" else 3)
        stores.append(program.store(watched, 8, n))
        snapshots.append(program.snapshot())
    result = lab.run(program, flags=TESTDEV | COM1 | HLT_EXIT | PAUSE_EXIT)
    return {
        "hits": [[(hit.dr6 & 0xF, hit.rip == hit.next) for hit in result.exceptions_of(store)] for store in stores],
        "dr7": [result.snapshot(snapshot).dr7 for snapshot in snapshots],
    }


def through_rdmsr(lab: Lab) -> Facts:
    return watch_through(lab, "rdmsr")


def through_busy(lab: Lab) -> Facts:
    return watch_through(lab, "busy")


def through_cpuid(lab: Lab) -> Facts:
    return watch_through(lab, "cpuid")


def _own_registers(name: str, bias: int = 0) -> tuple[Program, list[int]]:
    program = Program(name)
    values = [value + bias for value in GUEST_DR]
    for n, value in enumerate(values):
        program.set_dr(n, value)
    program.set_dr(6, GUEST_DR6)
    return program, values


def keeps_registers(lab: Lab) -> Facts:
    """The guest's registers behind exits, on a CPU whose host has other values in them."""
    lab.plant(0, HOST)
    program, _ = _own_registers("keep")
    snapshots = []
    for kind in ("cpuid", "out80", "first_touch"):
        program.exit(kind, 3)
        snapshots.append(program.snapshot())
    result = lab.run(program)
    reset = result.reset
    return {
        "reset": (reset.dr0, reset.dr1, reset.dr2, reset.dr3, reset.dr6, reset.dr7),
        "drs": [tuple(result.snapshot(s)[n] for n in (0, 1, 2, 3, 6)) for s in snapshots],
    }


def two_guests(lab: Lab) -> Facts:
    """Two guests take turns on one CPU."""
    seen = {}
    guests = []
    for index, name in enumerate(("g0", "g1")):
        program, _ = _own_registers(name, index * 0x100)
        program.sync(1)
        program.exit("busy", 60)
        program.exit("out80", 20)
        seen[name] = program.snapshot()
        guests.append(lab.start(program, name=name, pin=0))
    for guest in guests:
        guest.wait_phase(1)
    for guest in guests:
        guest.go()
    facts: Facts = {}
    for guest in guests:
        registers = guest.finish().snapshot(seen[guest.name])
        facts[guest.name] = tuple(registers[n] for n in (0, 1, 2, 3, 6))
        guest.destroy()
    return facts


def migrates(lab: Lab) -> Facts:
    """The guest is moved to the other CPU and back, an armed watch with it."""
    lab.plant(1, HOST)
    program, _ = _own_registers("migrate")
    watched = program.watched()
    program.arm(dr=3, address=watched, type="write", length=8)
    snapshots, stores = [], []
    for phase in (1, 2):
        program.sync(phase)
        snapshots.append(program.snapshot())
        stores.append(program.store(watched, 8, phase))
        program.set_dr(6, GUEST_DR6)
    guest = lab.start(program, pin=0)
    for phase, cpu in ((1, 1), (2, 0)):
        guest.wait_phase(phase)
        guest.pin(cpu)
        guest.go()
    result = guest.finish()
    migrations = guest.stats()["vcpu migration across host cpus"]
    guest.destroy()
    return {
        "drs": [tuple(result.snapshot(s)[n] for n in (0, 1, 2, 6, 7)) for s in snapshots],
        "hits": [[hit.dr6 & 0xF for hit in result.exceptions_of(store)] for store in stores],
        "migrated": migrations >= 3,
    }


def host_keeps(lab: Lab) -> Facts:
    """The host's registers behind a guest's stay, a live watch of the host among them."""
    planted = HostDebug(lab.witness_address(), HOST.dr1, HOST.dr2, HOST.dr3, HOST.dr6, 0x000D_0602, debugctl=1)
    read_back = lab.plant(0, planted)
    program, _ = _own_registers("host")
    watched = program.watched()
    program.arm(dr=0, address=watched, type="write", length=8)
    program.exit("cpuid", 5)
    program.exit("out80", 5)
    program.store(watched)
    lab.run(program)
    after = lab.host_state(0)
    hits = lab.touch(0, 10)
    lab.plant(0, HostDebug())
    return {"unchanged": after == read_back, "dr7": after.dr7 & 0xFFFF03FF, "hits": hits}


def dr7_restored_last(lab: Lab) -> Facts:
    """
    A guest points DR0 at the memory from which the host restores its own DR0. With the host's DR7 back too early that
    access is taken for a hit of the host's watch. VMCS host RSP is the address of the context.
    """
    planted = HostDebug(lab.witness_address(), dr7=0x000B_0602)
    read_back = lab.plant(0, planted)
    program = Program("order")
    program.sync(1)
    program.exit("cpuid", 5)
    guest = lab.start(program)
    guest.wait_phase(1)
    guest.set(DR[0], guest.get(vmcs_field(VMCS_HOST_RSP)) + HOST_DR0_OFFSET)
    guest.go()
    guest.finish()
    after = lab.host_state(0)
    guest.destroy()
    lab.plant(0, HostDebug())
    return {"dr7": after.dr7 == read_back.dr7}


def set_and_get(lab: Lab) -> Facts:
    """Registers through the hypervisor, of a guest that waits."""
    program, _ = _own_registers("access")
    watched = program.watched()
    program.sync(1)
    snapshot = program.snapshot()
    store = program.store(watched)
    program.set_dr(6, GUEST_DR6 ^ 3)
    program.sync(2)
    guest = lab.start(program)
    guest.wait_phase(1)
    before = tuple(guest.get(DR[n]) for n in (0, 1, 2, 3, 6, 7))
    values = {0: 0xDEAD_0000, 1: 0xDEAD_1008, 2: watched, 3: 0xDEAD_3018, 6: 0xFFFF0FF8, 7: 0x0900_0420}
    for n, value in values.items():
        guest.set(DR[n], value)
    again = {n: guest.get(DR[n]) for n in values}
    guest.go()
    guest.wait_phase(2)
    later = guest.get(DR[6])
    guest.go()
    result = guest.finish()
    guest.destroy()
    return {
        "before": before,
        "set": again == values,
        "guest": {n: result.snapshot(snapshot)[n] for n in values} == values,
        "hit": [hit.dr6 & 0xF for hit in result.exceptions_of(store)],
        "later": later,
    }


def bad_values(lab: Lab) -> Facts:
    """Values that no debug register can have are refused, and neither side is harmed."""
    program, _ = _own_registers("bad")
    program.sync(1)
    program.exit("cpuid", 3)
    snapshot = program.snapshot()
    guest = lab.start(program)
    guest.wait_phase(1)
    refused = []
    for n in (6, 7):
        try:
            guest.set(DR[n], 0x1_0000_0000 | RESET[4 if n == 6 else 5])
        except KernelError as error:
            refused.append(error.errno)
        else:
            lab.wait_panic(2)
            return {"refused": None, "panics": len(lab.panics)}
    guest.go()
    seen = guest.finish().snapshot(snapshot).dr6
    guest.destroy()
    return {"refused": refused, "guest": seen, "panics": 0}


def stepped(lab: Lab) -> Facts:
    """The host single-steps itself through every entry of the guest."""
    program, _ = _own_registers("step")
    program.exit("cpuid", 3)
    snapshot = program.snapshot()
    program.sync(1)
    program.exit("out80", 3)
    program.sync(2)
    last = program.snapshot()
    guest = lab.start(program)
    guest.wait_phase(1)
    lab.step(0, True)
    guest.go()
    guest.wait_phase(2)
    steps, lost, entries = lab.step(0, False)
    guest.go()
    result = guest.finish()
    guest.destroy()
    lab.plant(0, HostDebug())
    return {
        "dr6": [result.snapshot(s).dr6 for s in (snapshot, last)],
        "stepped": steps > 100 * entries > 0,
        "lost": lost,
    }


def new_guest(lab: Lab) -> Facts:
    """A new guest behind one that had used the registers."""
    program, _ = _own_registers("first")
    program.exit("cpuid")
    lab.run(program)
    reset = lab.run(Program("second")).reset
    return {"reset": (reset.dr0, reset.dr1, reset.dr2, reset.dr3, reset.dr6, reset.dr7)}


def watched_hits(lengths: int = 8) -> Facts:
    """Of :func:`watch_through`: one hit in each register, DR7 as the guest wrote it."""
    return {
        "hits": [[(1 << n, True)] for n in range(4)],
        "dr7": [0x400 | 1 << 2 * n | 0b1001 << 16 + 4 * n for n in range(4)],
    }


_KEPT = (*GUEST_DR, GUEST_DR6)

Scenario = Callable[[Lab], Facts]
EXPECTED: dict[Scenario, Facts] = {
    through_cpuid: watched_hits(),
    through_rdmsr: watched_hits(),
    through_busy: watched_hits(),
    keeps_registers: {"reset": RESET, "drs": [_KEPT] * 3},
    two_guests: {"g0": _KEPT, "g1": (*(value + 0x100 for value in GUEST_DR), GUEST_DR6)},
    migrates: {
        "drs": [(*GUEST_DR[:3], GUEST_DR6, 0x9000_0440)] * 2,
        "hits": [[8], [8]],
        "migrated": True,
    },
    host_keeps: {"unchanged": True, "dr7": 0x000D_0202, "hits": 10},
    dr7_restored_last: {"dr7": True},
    set_and_get: {
        "before": (*GUEST_DR, GUEST_DR6, 0x400),
        "set": True,
        "guest": True,
        "hit": [4],
        "later": GUEST_DR6 ^ 3,
    },
    bad_values: {"refused": [22, 22], "guest": GUEST_DR6, "panics": 0},
    stepped: {"dr6": [GUEST_DR6] * 2, "stepped": True, "lost": 0},
    new_guest: {"reset": RESET},
}
