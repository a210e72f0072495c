"""The driver's parsers and the emulated host, held to what a real FreeBSD printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.bhyve import Ending, check_set, interpret, parse_registers, parse_stats
from harness.bhyve.ending import TESTDEV_DONE
from harness.contract import SCRIPTS, Transcript, read_folder, record_host, shape
from harness.contract.record import GUEST
from harness.errors import ToolMismatch
from harness.guest import decode
from harness.hosts.host import parse_boot
from harness.hosts.modules import parse_kldstat
from harness.inventory import EmulatedHost
from harness.transport import CommandResult

DATA = Path(__file__).resolve().parents[1] / "data" / "transcripts"
VENDORS = ("intel", "amd")
RECORDED = {vendor: read_folder(DATA / vendor) for vendor in VENDORS}
DRS = ("dr0", "dr1", "dr2", "dr3", "dr6", "dr7")


def result_of(transcript: Transcript, stdout: str | None = None) -> CommandResult:
    text = transcript.stdout if stdout is None else stdout
    return CommandResult(transcript.command, 0, text.encode(), transcript.stderr.encode(), 0.0, 0.0)


def pieces(transcript: Transcript) -> list[tuple[str, int]]:
    """Output and status of each command of a script: every one is followed by ``rc=N``."""
    found: list[tuple[str, int]] = []
    lines: list[str] = []
    for line in transcript.stdout.splitlines():
        if line.startswith("rc="):
            found.append(("\n".join(lines), int(line[3:])))
            lines = []
        else:
            lines.append(line)
    return found


def guest_steps(vendor: str) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = json.loads((DATA / vendor / GUEST).read_text(encoding="utf-8"))
    return steps


def step(vendor: str, word: str) -> dict[str, Any]:
    return next(one for one in guest_steps(vendor) if one["command"].startswith(word))


@pytest.mark.parametrize("vendor", VENDORS)
def test_every_script_was_recorded_as_it_is(vendor: str) -> None:
    function = {name: transcript.command for name, transcript in RECORDED[vendor].items()}
    assert function == SCRIPTS


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_boot_is_known_by_what_the_host_printed(vendor: str) -> None:
    first, _second = pieces(RECORDED[vendor]["boot-id"])
    assert parse_boot(first[0]).id


@pytest.mark.parametrize("vendor", VENDORS)
def test_registers_are_read_from_what_bhyvectl_printed(vendor: str) -> None:
    fresh, more = pieces(RECORDED[vendor]["get-registers"])
    values = parse_registers(result_of(RECORDED[vendor]["get-registers"], fresh[0]), DRS)
    assert values == {"dr0": 0, "dr1": 0, "dr2": 0, "dr3": 0, "dr6": 0xFFFF0FF0, "dr7": 0x400}
    assert set(parse_registers(result_of(RECORDED[vendor]["get-registers"], more[0]), ("rip", "rflags", "cr0")))
    set_ones = pieces(RECORDED[vendor]["set-registers"])
    assert [status for _, status in set_ones] == [0] * 6
    values = parse_registers(result_of(RECORDED[vendor]["set-registers"], set_ones[-1][0]), DRS)
    assert [values[f"dr{n}"] for n in range(4)] == [0xDEADBEEF00000000 + n for n in range(4)]
    assert (values["dr6"], values["dr7"]) == (0xFFFF0FF1, 0x401)


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_machine_that_is_not_there_is_a_refusal(vendor: str) -> None:
    transcript = RECORDED[vendor]["missing"]
    assert [status for _, status in pieces(transcript)] == [1, 1, 1]
    refused = CommandResult(transcript.command, 1, b"", transcript.stderr.encode(), 0.0, 0.0)
    with pytest.raises(ToolMismatch, match="No such file or directory"):
        parse_registers(refused, ("dr0",))
    with pytest.raises(ToolMismatch, match="was refused"):
        check_set(refused)


@pytest.mark.parametrize("vendor", VENDORS)
def test_statistics_are_read_by_freebsds_names(vendor: str) -> None:
    stats = parse_stats(result_of(RECORDED[vendor]["get-stats"]))
    assert stats["total number of vm exits"] == 0


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_recorded_guest_run_is_read_to_its_end(vendor: str) -> None:
    bhyve = step(vendor, "bhyve ")
    console = bhyve["stdout"].encode("latin-1")
    assert interpret(bhyve["status"], bhyve["stderr"], done=TESTDEV_DONE).ending is Ending.DONE
    nonce = int(step(vendor, "logger")["command"].split("BEGIN ")[1][:8], 16)
    result = decode(console, nonce)
    assert result.reset.dr6 == 0xFFFF0FF0
    files = parse_kldstat(step(vendor, "kldstat")["stdout"])
    vmm = next(file for file in files if file.name == "vmm.ko")
    assert vmm.path == "/boot/kernel/vmm.ko"
    assert "vmm" in vmm.modules


@pytest.fixture(scope="module", params=VENDORS)
def emulated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The same scripts, recorded on the emulated host now."""
    vendor = str(request.param)
    out = tmp_path_factory.mktemp(f"emulated-{vendor}")
    entry = EmulatedHost.model_validate({"kind": "emulated", "vendor": vendor})
    record_host("emulated", entry, out, lambda _: None)
    return vendor, out


#: What the two may differ in, with the reason; everything else has to have the same shape.
DIFFERENT = {
    "get-stats": "statistics that the reference hypervisor does not keep",
}


def test_the_emulated_host_prints_what_freebsd_prints(emulated: tuple[str, Path]) -> None:
    vendor, out = emulated
    differences = []
    for name, ours in read_folder(out).items():
        real = RECORDED[vendor][name]
        if name in DIFFERENT:
            continue
        for stream in ("stdout", "stderr"):
            expected, found = shape(getattr(real, stream)), shape(getattr(ours, stream))
            if expected != found:
                differences.append(f"{name} {stream}: FreeBSD {expected}, emulated {found}")
    assert not differences, "\n".join(differences)


def test_a_guest_run_has_the_same_steps_on_the_emulated_host(emulated: tuple[str, Path]) -> None:
    vendor, out = emulated
    real, ours = guest_steps(vendor), json.loads((out / GUEST).read_text(encoding="utf-8"))
    assert [one["command"].split()[0] for one in ours] == [one["command"].split()[0] for one in real]
    assert [one["status"] for one in ours] == [one["status"] for one in real]


def test_a_file_without_one_of_its_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="no part STDERR"):
        Transcript.parse("cut", "# x\n### COMMAND\ntrue\n### STDOUT\n")


def test_shapes_keep_words_and_drop_numbers() -> None:
    text = "dr0[0]\t\t0x0000000000000001\n 2    1 0xffffffff82600000   53c438 vmm.ko\n\nrc=0"
    assert shape(text) == ["dr0[0] 0xN", "N N 0xN 0xN vmm.ko", "rc=0"]
