"""bhyvectl as recorded on FreeBSD 13.2, and its silent failures of 15.1."""

from __future__ import annotations

import pytest

from harness.bhyve import check_set, get_command, parse_registers, parse_stats, set_command, stats_command
from harness.errors import ToolMismatch, UnexpectedAnswer
from harness.transport import CommandResult

REGISTERS = (
    "rip[0]\t\t0x000000000000001f\ncs[0]\t\t0xf000\nexit_reason[0]\t0x2\ndr0[0]\t\t0x0000000000000000\n"
    "dr6[0]\t\t0x00000000ffff0ff0\ndr7[0]\t\t0x0000000000000400\nrflags[0]\t0x0000000000000002\n"
    "ds desc[0]\t0x0000000000000000/0x0000ffff/0x00000093\n"
)
STATS = (
    "vcpu0 stats:\nnumber of times in/out was intercepted  \t4\nlvts triggered[0]                       \t0\n"
    "total number of vm exits                \t8\nvcpu migration across host cpus         \t1\n"
)


def result(text: str, status: int = 0, stderr: str = "") -> CommandResult:
    return CommandResult("bhyvectl ...", status, text.encode(), stderr.encode(), 0, 0)


def test_commands() -> None:
    assert get_command("t", ["dr0", "dr7"]) == "bhyvectl --vm=t --get-dr0 --get-dr7"
    assert get_command("t", ["rip"], 1) == "bhyvectl --vm=t --cpu=1 --get-rip"
    assert set_command("t", {"dr7": 0x401}) == "bhyvectl --vm=t --set-dr7=0x401"
    assert stats_command("t") == "bhyvectl --vm=t --get-stats"


def test_every_form_of_line() -> None:
    found = parse_registers(result(REGISTERS), ("dr6", "dr7", "rflags", "cs", "exit_reason", "ds desc"))
    assert found == {"dr6": 0xFFFF0FF0, "dr7": 0x400, "rflags": 2, "cs": 0xF000, "exit_reason": 2, "ds desc": 0}


def test_a_missing_line_is_a_failure_whatever_the_status() -> None:
    with pytest.raises(ToolMismatch, match=r"no line for dr0: status 0\."):
        parse_registers(result(""), ("dr0",))
    with pytest.raises(ToolMismatch, match="errno 22"):
        parse_registers(result("errno = 22\n", 255), ("dr0",))
    with pytest.raises(ToolMismatch, match="could not be opened"):
        parse_registers(result("", 1, "vm_open: t could not be opened: No such file or directory\n"), ("dr0",))


def test_another_vcpus_line_is_not_taken() -> None:
    text = "dr0[1]\t\t0x0000000000000007\n"
    assert parse_registers(result(text), ("dr0",), cpu=1) == {"dr0": 7}
    with pytest.raises(ToolMismatch):
        parse_registers(result(text), ("dr0",))


def test_setting() -> None:
    check_set(result(""))
    with pytest.raises(ToolMismatch, match="errno 22"):
        check_set(result("errno = 22\n", 255))


def test_statistics() -> None:
    stats = parse_stats(result(STATS))
    assert stats["total number of vm exits"] == 8
    assert stats["vcpu migration across host cpus"] == 1
    assert stats["lvts triggered[0]"] == 0
    with pytest.raises(UnexpectedAnswer):
        parse_stats(result("vcpu0 stats:\n"))
