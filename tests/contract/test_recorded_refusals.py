"""Refusals and endings as a real FreeBSD 13.2 recorded them, for the driver's reading and the emulated host's words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.bhyve import Ending, interpret, parse_registers
from harness.bhyve.bhyvectl import check_set
from harness.bhyve.ending import TESTDEV_DONE
from harness.contract import Transcript, read_folder, record_host, shape
from harness.errors import ToolMismatch
from harness.inventory import EmulatedHost
from harness.transport import CommandResult

DATA = Path(__file__).resolve().parents[1] / "data" / "transcripts"
VENDORS = ("intel", "amd")
RECORDED = {vendor: read_folder(DATA / vendor) for vendor in VENDORS}
_STATUS = re.compile(r"^(?:bhyve(?: pipeline)? exit code: |second bhyve rc=|rc=)(\d+)$", re.MULTILINE)

#: Transcript -> how the driver has to read what bhyve's status and its standard error say together.
ENDINGS = {
    "31-bhyve-missing-rom": Ending.START_FAILED,
    "34-bhyve-stdin-devnull": Ending.ABORTED,
    "38-guest-reset-cf9": Ending.RESET,
    "39-guest-reset-kbc": Ending.RESET,
    "40-guest-poweroff": Ending.POWEROFF,
    "46-guest-hlt-H": Ending.HALTED,
    "49-guest-poweroff-H": Ending.POWEROFF,
    "50-guest-hlt-HP": Ending.HALTED,
    "51-guest-poweroff-D": Ending.POWEROFF,
    "52-guest-reset-D": Ending.RESET,
    "57-guest-two-bhyves": Ending.START_FAILED,
    "67-guest-signal-TERM": Ending.KILLED,
    "68-guest-signal-INT": Ending.KILLED,
    "69-guest-signal-HUP": Ending.KILLED,
    "70-guest-signal-KILL": Ending.KILLED,
    "71-guest-signal-ABRT": Ending.ABORTED,
}
#: The same where 'bhyve exit code' stands behind the status of the tool that ended it.
FORCED = {"61-guest-force-poweroff": Ending.POWEROFF, "62-guest-force-reset": Ending.RESET}


def said(transcript: Transcript) -> str:
    """Standard error of bhyve: of the script itself, or kept in a file that the script prints."""
    kept = transcript.stdout.partition("--- bhyve stderr:\n")[2].partition("bhyve exit code:")[0]
    return kept.strip() or transcript.stderr


def bhyve_status(transcript: Transcript) -> int:
    own = re.search(r"^bhyve exit code: (\d+)$", transcript.stdout, re.MULTILINE)
    found = own if own and not transcript.stdout.startswith("second") else _STATUS.search(transcript.stdout)
    assert found is not None, transcript.name
    return int(found[1])


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("name", [*ENDINGS, *FORCED])
def test_an_ending_is_read_as_what_it_was(vendor: str, name: str) -> None:
    transcript = RECORDED[vendor][name]
    found = interpret(bhyve_status(transcript), said(transcript), done=TESTDEV_DONE)
    assert found.ending is {**ENDINGS, **FORCED}[name]


def test_a_triple_fault_aborts_bhyve_on_intel() -> None:
    """On AMD 13.2 has bhyve spin instead, so that the recording's own timeout ended it: no ending to be read."""
    status = bhyve_status(RECORDED["intel"]["37-guest-triple"])
    assert interpret(status, RECORDED["intel"]["37-guest-triple"].stderr, done=TESTDEV_DONE).ending is Ending.ABORTED


@pytest.mark.parametrize("vendor", VENDORS)
def test_registers_of_a_fresh_machine_are_read(vendor: str) -> None:
    block = RECORDED[vendor]["23-bhyvectl-get-dr"].stdout.partition("rc=")[0]
    result = CommandResult("bhyvectl", 0, block.encode(), b"", 0.0, 0.0)
    names = ("dr0", "dr1", "dr2", "dr3", "dr6", "dr7")
    assert parse_registers(result, names) == {**dict.fromkeys(names[:4], 0), "dr6": 0xFFFF0FF0, "dr7": 0x400}


@pytest.mark.parametrize("vendor", VENDORS)
def test_values_that_no_register_can_hold_are_read_as_they_are_printed(vendor: str) -> None:
    """bhyvectl takes all ones for DR6 and DR7 without a word: the driver must show it, not mend it."""
    text = RECORDED[vendor]["25-bhyvectl-set-dr-bad"].stdout
    line = re.findall(r"^all-ones (dr[67]) rc=0\n(dr[67]\[0\]\t\t\S+)$", text, re.MULTILINE)
    assert [name for name, _ in line] == ["dr7", "dr6"]
    for name, printed in line:
        result = CommandResult("bhyvectl", 0, printed.encode(), b"", 0.0, 0.0)
        assert parse_registers(result, (name,)) == {name: 0xFFFFFFFFFFFFFFFF}


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_vcpu_that_does_not_exist_is_no_value(vendor: str) -> None:
    """It says 'errno = 22' on standard output and ends with 255."""
    text = RECORDED[vendor]["25-bhyvectl-set-dr-bad"].stdout
    printed = re.search(r"^(errno = 22)\ncpu 99 rc=(\d+)$", text, re.MULTILINE)
    assert printed is not None
    result = CommandResult("bhyvectl", int(printed[2]), printed[1].encode(), b"", 0.0, 0.0)
    with pytest.raises(ToolMismatch, match=r"no line for dr0: status 255, errno 22"):
        parse_registers(result, ("dr0",), 99)
    with pytest.raises(ToolMismatch, match="was refused: status 255, errno 22"):
        check_set(result)


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_machine_that_does_not_exist_is_told_in_its_own_words(vendor: str) -> None:
    transcript = RECORDED[vendor]["27-bhyvectl-missing-vm"]
    result = CommandResult("bhyvectl", 1, b"", transcript.stderr.encode(), 0.0, 0.0)
    with pytest.raises(ToolMismatch, match="nosuch could not be opened: No such file or directory"):
        parse_registers(result, ("dr0",))


#: Script of the contract -> recordings in which FreeBSD says the same things.
REFUSALS = {
    "unloaded": ("09-kldunload-not-loaded", "06-kldstat-before", "16-sysctl-errors"),
    "load-missing": ("10-kldload-missing",),
    "load-again": ("12-kldload-twice",),
    "missing": ("27-bhyvectl-missing-vm",),
    "sysctl": ("16-sysctl-errors",),
    "create-again": ("20-bhyvectl-create",),
}
#: What the emulated host is known to say otherwise: it has the variables of the other vendor's half of vmm not at all.
DECLARED = {"intel": {"sysctl: unknown oid 'OID.vmcb_clean'"}, "amd": set[str]()}


def words(transcript: Transcript) -> set[str]:
    """Lines of refusals, without the names of variables, which the scripts chose differently."""
    text = re.sub(r"hw\.vmm\.\w+|kern\.nosuch", "OID", transcript.stderr)
    text += "\n".join(line for line in transcript.stdout.splitlines() if line.startswith("errno"))
    return set(shape(text))


@pytest.mark.parametrize("vendor", VENDORS)
def test_the_emulated_host_refuses_in_freebsds_words(vendor: str, tmp_path: Path) -> None:
    entry = EmulatedHost.model_validate({"kind": "emulated", "vendor": vendor})
    record_host("emulated", entry, tmp_path, lambda _: None)
    found = read_folder(tmp_path)
    for name, recordings in REFUSALS.items():
        known: set[str] = set().union(*(words(RECORDED[vendor][one]) for one in recordings))
        assert words(found[name]), name
        assert words(found[name]) <= known | DECLARED[vendor], name
