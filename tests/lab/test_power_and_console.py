"""Power by commands, by hand and simulated; consoles read after trouble; dumps that are new."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.hosts import Host
from harness.inventory.model import CommandConsole, Crash, FileConsole
from harness.inventory.model import CommandPower as Entry
from harness.lab.console import CommandLog, FileLog, new_text, panic_text
from harness.lab.crash import CrashFolder
from harness.lab.power import CommandPower, ManualPower, PowerFailed
from harness.transport import SshTransport
from tests.lab.conftest import EmulatedLab


def controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, slow_off: int = 0) -> CommandPower:
    """A board controller as a script: its state is a file, and it wants a password in the environment."""
    script = tmp_path / "bmc"
    script.write_text(
        f"""#!/bin/sh
[ "$BMC_PASSWORD" = canary-31 ] || {{ echo "bad password" >&2; exit 1; }}
echo "$1" >>{tmp_path}/log
case "$1" in
on) echo on >{tmp_path}/state;;
off) echo {slow_off} >{tmp_path}/left;;
status)
  if [ -e {tmp_path}/left ]; then
    n=$(cat {tmp_path}/left)
    if [ "$n" -le 0 ]; then echo off >{tmp_path}/state; rm {tmp_path}/left; else echo $((n - 1)) >{tmp_path}/left; fi
  fi
  echo "Chassis Power is $(cat {tmp_path}/state)";;
esac
""",
        encoding="utf-8",
    )
    script.chmod(0o755)
    (tmp_path / "state").write_text("on\n")
    monkeypatch.setenv("LAB_BMC", "canary-31")
    entry = {
        "kind": "command", "on": [str(script), "on"], "off": [str(script), "off"], "status": [str(script), "status"],
        "is_on": "is on", "secret": {"env": "LAB_BMC"}, "secret_env": "BMC_PASSWORD", "off_seconds": 5,
    }  # fmt: skip
    return CommandPower(Entry.model_validate(entry))


def test_off_is_proven_before_on_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    power = controller(tmp_path, monkeypatch, slow_off=1)
    assert power.is_on()
    power.cycle()
    assert (tmp_path / "log").read_text().split() == ["status", "off", "status", "status", "on"]
    assert power.is_on()


def test_a_controller_that_fails_is_told_without_its_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    power = controller(tmp_path, monkeypatch)
    monkeypatch.setenv("LAB_BMC", "wrong-canary")
    with pytest.raises(PowerFailed, match="ended with status 1: bad password") as caught:
        power.cycle()
    assert "canary" not in str(caught.value)
    missing = Entry.model_validate({"kind": "command", "on": ["/nonexistent"], "off": ["x"], "status": ["x"]})
    with pytest.raises(PowerFailed, match="'/nonexistent' could not be run"):
        CommandPower(missing).on()


def test_power_that_stays_on_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    power = controller(tmp_path, monkeypatch, slow_off=1000)
    monkeypatch.setattr(power, "_entry", power._entry.model_copy(update={"off_seconds": 0.1}))
    with pytest.raises(PowerFailed, match="the power to be off"):
        power.cycle()


def test_a_person_is_asked_only_where_there_is_one() -> None:
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return "yes"

    power = ManualPower("zen4a", answer)
    assert power.is_on()
    power.cycle()
    assert asked[1] == "Switch 'zen4a' off and on again, then press Enter. "
    with pytest.raises(PowerFailed, match="no terminal"):
        ManualPower("zen4a").cycle()


def test_the_simulated_board_controller(amd: EmulatedLab) -> None:
    assert amd.board.is_on()
    with pytest.raises(PowerFailed, match="refused"):
        amd.board.ask({"op": "nonsense"})
    assert "Multiprocessor System" in amd.board.console()


def test_what_is_new_on_a_console() -> None:
    assert new_text("boot\n", "boot\npanic: x\n") == "panic: x\n"
    assert new_text("long ago\nlogin: ", "rotated\nlogin: Fatal trap 12: page fault\n") == (
        "rotated\nlogin: Fatal trap 12: page fault\n"
    )
    assert new_text("", "all\n") == "all\n"
    assert panic_text("boot\r\npanic: vm_fault\r\ncpuid = 0\r\n") == "panic: vm_fault"
    assert panic_text("Fatal trap 1: privileged instruction fault\n").startswith("Fatal trap 1")
    assert panic_text("login: \n") == ""


def test_consoles_that_others_record(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_text("login: \n")
    assert FileLog(FileConsole(kind="file", path=str(log))).console() == "login: \n"
    assert FileLog(FileConsole(kind="file", path=str(tmp_path / "gone"))).console() == ""
    command = CommandConsole.model_validate({"kind": "command", "command": ["cat", str(log)]})
    assert CommandLog(command).console() == "login: \n"
    assert CommandLog(CommandConsole(kind="command", command=("/nonexistent",))).console() == ""


def test_only_dumps_that_are_new_count_and_none_is_removed(transport: SshTransport, tmp_path: Path) -> None:
    folder, target = tmp_path / "crash", tmp_path / "evidence"
    folder.mkdir()
    for name in ("info.0", "vmcore.0", "bounds", "info.last"):
        (folder / name).write_text("old")
    host = Host(transport)
    crash = CrashFolder(Crash(folder=str(folder)))
    crash.remember(host)
    assert crash.collect(host, target, "1").names == ()
    (folder / "info.1").write_text("Dump header from device: /dev/ada0p3\n  Panic String: double fault\n")
    (folder / "vmcore.1").write_bytes(b"x" * 100)
    (folder / "textdump.tar.1").write_bytes(b"tar")
    trace = crash.collect(host, target, "1")
    assert (trace.names, trace.panic) == (("info.1", "textdump.tar.1", "vmcore.1"), "double fault")
    # Of a core only the name is kept: it may be as large as the machine's memory.
    assert sorted(path.name for path in target.iterdir()) == ["1-info.1", "1-textdump.tar.1"]
    assert len(list(folder.iterdir())) == 7
    assert crash.collect(host, target, "2").names == ()
