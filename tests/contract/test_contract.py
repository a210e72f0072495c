"""The driver's parsers, held to what a real FreeBSD 13.2 printed on both vendors; and the files themselves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.bhyve import Ending, interpret, parse_registers, parse_stats
from harness.bhyve.ending import TESTDEV_DONE
from harness.contract import SCRIPTS, Transcript, read_folder, record_host, shape
from harness.contract.record import GUEST
from harness.errors import ConfigError, ToolMismatch
from harness.hosts.modules import parse_kldstat
from harness.hosts.tracing import parse_rows
from harness.inventory import BareHost, EmulatedHost
from harness.transport import CommandResult

DATA = Path(__file__).resolve().parents[1] / "data" / "transcripts"
VENDORS = ("intel", "amd")
RECORDED = {vendor: read_folder(DATA / vendor) for vendor in VENDORS}
DRS = ("dr0", "dr1", "dr2", "dr3", "dr6", "dr7")


def answer(text: str) -> CommandResult:
    return CommandResult("recorded", 0, text.encode(), b"", 0.0, 0.0)


@pytest.mark.parametrize("vendor", VENDORS)
def test_files_and_their_modules_are_read_from_kldstat(vendor: str) -> None:
    files = parse_kldstat(RECORDED[vendor]["13-kldstat"].stdout)
    proven = [file for file in files if file.path]
    assert [(file.name, file.path) for file in proven] == [("vmm.ko", "/boot/kernel/vmm.ko")]
    assert "vmm" in proven[0].modules
    assert {file.name for file in files} == {"kernel", "vmm.ko"}


@pytest.mark.parametrize("vendor", VENDORS)
def test_registers_are_read_from_bhyvectl(vendor: str) -> None:
    blocks = re.findall(r"(?:^\w+\[0\]\t.*\n)+", RECORDED[vendor]["24-bhyvectl-set-dr"].stdout, re.MULTILINE)
    values = [parse_registers(answer(block), DRS) for block in blocks if block.count("\n") == len(DRS)]
    assert values[0] == {**{f"dr{n}": 0xDEADBEEF00000000 + n for n in range(4)}, "dr6": 0xFFFF0FF0, "dr7": 0x400}
    assert (values[1]["dr6"], values[1]["dr7"]) == (0xFFFF0FF1, 0x401)
    assert values[2] == {"dr0": 0, "dr1": 0, "dr2": 0, "dr3": 0, "dr6": 0xFFFF0FF0, "dr7": 0x400}
    with pytest.raises(ToolMismatch, match="printed no line for dr4"):
        parse_registers(answer(blocks[0]), ("dr4",))


@pytest.mark.parametrize("vendor", VENDORS)
def test_statistics_go_by_freebsds_names(vendor: str) -> None:
    stats = parse_stats(answer(RECORDED[vendor]["22-bhyvectl-get-stats-fresh"].stdout))
    assert stats["total number of vm exits"] == 0
    assert "number of times in/out was intercepted" in stats


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_machine_destroyed_underneath_is_known_by_what_bhyve_said(vendor: str) -> None:
    text = RECORDED[vendor]["64-guest-destroy-running"].stdout
    status = int(re.findall(r"^bhyve exit code: (\d+)$", text, re.MULTILINE)[0])
    said = text.partition("--- bhyve stderr:\n")[2]
    assert interpret(status, said, done=TESTDEV_DONE).ending is Ending.DESTROYED


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_module_in_use_is_refused_in_the_words_that_are_looked_for(vendor: str) -> None:
    """``Modules.unload`` waits while the kernel says this, and only then."""
    assert "busy" in RECORDED[vendor]["28-kldunload-with-vm"].stderr


@pytest.mark.parametrize("vendor", VENDORS)
def test_the_threads_of_a_machine_are_found_in_procstat(vendor: str) -> None:
    text = RECORDED[vendor]["66-guest-procstat-running"].stdout
    pid = re.findall(r"^pid=(\d+)$", text, re.MULTILINE)[0]
    found = re.findall(rf"^\s*{pid}\s+(\d+)\s.*\bvcpu (\d+)\b", text, re.MULTILINE)
    assert found
    assert {vcpu for _, vcpu in found} == {"0"}


@pytest.mark.parametrize("vendor", VENDORS)
def test_the_probes_of_the_world_switch_are_found_in_a_listing(vendor: str) -> None:
    text = RECORDED[vendor]["84-dtrace-list-vmm"].stdout
    rows = parse_rows("\n".join(line for line in text.splitlines() if not line.startswith("rc=")))
    names = [row.name for row in rows if row.function == {"intel": "vmx_enter_guest", "amd": "svm_launch"}[vendor]]
    assert names.count("entry") == 1
    assert "return" in names


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_model_specific_register_is_read_from_cpucontrol(vendor: str) -> None:
    text = RECORDED[vendor]["80-cpucontrol-msr"].stdout
    assert re.search(r"^MSR 0x1b: 0x([0-9a-f]{8}) 0x([0-9a-f]{8})$", text, re.MULTILINE)


@pytest.mark.parametrize("vendor", VENDORS)
def test_every_script_can_be_recorded_and_read_again(vendor: str, tmp_path: Path) -> None:
    """On the emulated host: the whole way of ``vmmcheck record``, and what FreeBSD is known to answer."""
    entry = EmulatedHost.model_validate({"kind": "emulated", "vendor": vendor})
    record_host("emulated", entry, tmp_path, lambda _: None)
    found = read_folder(tmp_path)
    assert {name: one.command for name, one in found.items()} == SCRIPTS
    assert (tmp_path / GUEST).exists()
    busy, real = found["unload-busy"], RECORDED[vendor]["28-kldunload-with-vm"]
    assert set(shape(busy.stderr)) == set(shape(real.stderr))
    assert _registers(found["set-registers"]) == _registers(RECORDED[vendor]["24-bhyvectl-set-dr"])


def _registers(transcript: Transcript) -> set[str]:
    return {line for line in shape(transcript.stdout) if line.startswith("dr")}


def test_a_bare_run_has_no_tools(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no command line to record"):
        record_host("bare", BareHost.model_validate({"kind": "bare", "vendor": "amd"}), tmp_path, lambda _: None)


def test_a_file_without_one_of_its_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="no part STDERR"):
        Transcript.parse("cut", "# x\n### COMMAND\ntrue\n### STDOUT\n")


def test_shapes_keep_words_and_drop_numbers() -> None:
    text = "dr0[0]\t\t0x0000000000000001\n 2    1 0xffffffff82600000   53c438 vmm.ko\n\nrc=0"
    assert shape(text) == ["dr0[0] 0xN", "N N 0xN 0xN vmm.ko", "rc=0"]
