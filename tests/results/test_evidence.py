"""The evidence of cells on an emulated host: complete, readable, judged again from it alone, and changed by nobody."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness.cli import cli
from harness.errors import EvidenceLost
from harness.hosts.messages import TAIL_LINES, MessageLog
from harness.redaction import MASK
from harness.results.evidence import CellRecorder, verify_manifest

ROOT = Path(__file__).resolve().parents[2]
LAB = ROOT / "labs" / "emulated.toml"
RIGHT = 'expect_register("dr6", hits[0].dr6, 0xF, mask=0xF'
SECRET = "correct-horse-battery"

#: What no suite does: a message of the kernel, a guest that never ends, a secret in a command.
OWN = f"""
from harness.cases import case
from harness.expect import expect_equal, expect_register
from harness.guest import Program
from harness.redaction import keep_secret

def small():
    program = Program("small")
    program.snapshot()
    return program

@case("DAT-01", rule="The kernel complains between two guests")
def test_complaint(subject):
    subject.run(small())
    subject.host._host.change("logger -p user.err 'lock order reversal: (sleepable after non-sleepable)'")
    subject.run(small())

@case("DAT-01", rule="The next item is not told of it")
def test_after_the_complaint(subject):
    subject.run(small())

@case("DAT-01", rule="A guest that waits for ever", needs=("bhyvectl",))
def test_hang(subject):
    program = Program("for ever")
    program.sync(1, "memory")
    subject.run(program, seconds=3)

@case("DAT-01", rule="Everything that can be asked", needs=("bhyvectl", "observe", "sentinel", "tunables"))
def test_answers(subject):
    keep_secret("{SECRET}")
    program = small()
    program.set_dr(0, 0x1234)
    program.sync(1)
    subject.host._host.put("/root/.vmmcheck/bytes", bytes(range(256)))
    with subject.host.tunable("hw.vmm.trace_guest_exceptions", 1), subject.host.observe() as seen:
        with subject.start(program, name="one") as one, subject.start(small(), pin=1, name="two") as two:
            one.wait_phase(1)
            expect_register("dr0", one.registers("dr0")["dr0"], 0x1234)
            one.set_registers(dr0=0x4321)
            expect_register("dr0", one.registers("dr0")["dr0"], 0x4321)
            one.pin(1)
            one.go()
            one.finish()
            two.finish()
    expect_equal("entries and returns", seen.entries, seen.returns)
    with subject.host.sentinel(0, watch=True) as sentinel:
        pass
    expect_equal("foreign traps", sentinel.stop().foreign, 0)
    expect_equal("bytes", subject.host._host.get("/root/.vmmcheck/bytes"), bytes(range(256)))
    subject.host._host.run("echo {SECRET}")
"""

Cells = dict[str, dict[str, Any]]


def pytest_in(folder: Path, *words: str) -> None:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "harness.plugin", "-p", "no:cacheprovider", ".", *words],
        cwd=folder,
        env={**inherited, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert "INTERNALERROR" not in done.stdout + done.stderr, done.stdout + done.stderr
    assert done.returncode == 1, done.stdout + done.stderr


def cells_of(run: Path) -> Cells:
    cells = json.loads((run / "results.json").read_text(encoding="utf-8"))["cells"]
    return {cell["test"].rpartition("::")[0].rpartition("/")[2] + "::" + cell["test"].rpartition("::")[2]: cell
            for cell in cells}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with suites of its own and one run of them on an emulated AMD host."""
    folder = tmp_path_factory.mktemp("evidence")
    suite = (ROOT / "suites" / "test_watched_accesses.py").read_text(encoding="utf-8")
    assert suite.count(RIGHT) == 1
    (folder / "test_right_dr6.py").write_text(suite, encoding="utf-8")
    (folder / "test_wrong_dr6.py").write_text(suite.replace(RIGHT, RIGHT.replace("0xF,", "0x7,")), encoding="utf-8")
    (folder / "test_own.py").write_text(OWN, encoding="utf-8")
    chosen = "test_own or (report_together and cpuid)"
    pytest_in(folder, f"--lab={LAB}", "--host=emuamd", "--run-dir=runs", "-k", chosen)
    return folder


@pytest.fixture
def run(place: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed."""
    (original,) = (place / "runs").iterdir()
    # Without the sockets of a host that is gone.
    skip = shutil.ignore_patterns("emulated")
    return Path(shutil.copytree(original, tmp_path / "runs" / original.name, ignore=skip))


def told(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["evidence", *words])
    return done.exit_code, done.output


def test_a_wrong_dr6_goes_red_and_its_evidence_says_why(run: Path) -> None:
    cells = cells_of(run)
    (wrong,) = [cell for name, cell in cells.items() if name.startswith("test_wrong_dr6")]
    (right,) = [cell for name, cell in cells.items() if name.startswith("test_right_dr6")]
    assert right["verdict"] == "PASS"
    assert (wrong["verdict"], wrong["code"]) == ("FAIL", "PRODUCT-REGISTER-MISMATCH")
    folder = run / wrong["evidence"]
    assert verify_manifest(folder) == []
    (judged,) = [entry for entry in json.loads((folder / "registers.json").read_text()) if not entry["ok"]]
    observed = int(judged["observed"], 16)
    assert (judged["what"], judged["expected"], judged["mask"], observed & 0xF) == ("dr6", "0x7", "0xf", 0xF)
    records = json.loads((folder / "records.json").read_text())
    assert judged["observed"] in {record["dr6"] for record in records}
    console = (folder / "console.raw").read_bytes()
    assert all(record["line"] in console.decode("latin-1") or bytes.fromhex(record["line"]) in console
               for record in records)  # fmt: skip
    commands = [json.loads(line) for line in (folder / "commands.jsonl").read_text().splitlines()]
    (bhyve,) = [entry for entry in commands if entry["command"].startswith("bhyve ")]
    assert bhyve["status"] == 17
    assert 0 < bhyve["seconds"] < 60
    facts = json.loads((run / json.loads((folder / "verdict.json").read_text())["host_facts"]["file"]).read_text())
    module = facts["vmm_sha256"]
    assert any(module in entry["stdout"] for entry in commands if "sha256 -q" in entry["command"])
    rom = json.loads((folder / "rom.json").read_text())["rom_sha256"]
    assert any(rom in entry["stdout"] for entry in commands if entry["command"].startswith("head -c"))

    status, said = told(str(folder))
    assert status == 0, said
    for what in (
        "FAIL PRODUCT-REGISTER-MISMATCH", wrong["case"],
        f"NOT MET  dr6: expected 0x7 under 0xf, observed {observed:#x}",
        module, rom, bhyve["command"], "status 17", records[-1]["line"], f"dr6={observed:#x}", "store_mov_",
        "none while the item ran", str(folder), "--host=emuamd", "All files are as they were written.",
    ):  # fmt: skip
        assert what in said


def test_all_verdicts_are_had_again_without_the_host(place: Path, run: Path, tmp_path: Path) -> None:
    before = cells_of(run)
    assert {name.partition("::")[2]: cell["code"] for name, cell in before.items() if "own" in name} == {
        "test_complaint": "PRODUCT-KERNEL-MESSAGE", "test_after_the_complaint": "", "test_hang": "PRODUCT-GUEST-HANG",
        "test_answers": "",
    }  # fmt: skip
    pytest_in(place, f"--replay={run}", f"--run-dir={tmp_path / 'again'}")
    (again,) = (tmp_path / "again").iterdir()
    assert {name: (cell["raw"], cell["code"]) for name, cell in cells_of(again).items()} == {
        name: (cell["raw"], cell["code"]) for name, cell in before.items()
    }


def test_other_answers_of_the_host_are_judged_otherwise(place: Path, run: Path, tmp_path: Path) -> None:
    folder = run / cells_of(run)["test_own.py::test_answers"]["evidence"]
    commands = (folder / "commands.jsonl").read_text()
    assert "0x0000000000004321" in commands
    (folder / "commands.jsonl").write_text(commands.replace("0x0000000000004321", "0x0000000000004320"))
    pytest_in(place, f"--replay={run}", f"--run-dir={tmp_path / 'again'}", "-k", "answers")
    (again,) = (tmp_path / "again").iterdir()
    assert cells_of(again)["test_own.py::test_answers"]["code"] == "PRODUCT-REGISTER-MISMATCH"


def test_kernel_messages_are_those_of_the_item(run: Path) -> None:
    cells = cells_of(run)
    delta = (run / cells["test_own.py::test_complaint"]["evidence"] / "dmesg-delta.txt").read_text().splitlines()
    assert [line.partition(" ")[0] for line in delta] == ["BEGIN", "lock", "BEGIN"]
    assert not (run / cells["test_own.py::test_after_the_complaint"]["evidence"] / "dmesg-delta.txt").exists()


def test_no_secret_is_written(run: Path) -> None:
    files = [path for path in run.rglob("*") if path.is_file()]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    answers = run / cells_of(run)["test_own.py::test_answers"]["evidence"] / "commands.jsonl"
    assert f"echo {MASK}" in answers.read_text()


def flips(run: Path) -> Iterator[tuple[Path, Path]]:
    """One file of each name that cells have, with the folder of its cell."""
    seen = set()
    for manifest in sorted(run.glob("cells/*/*/manifest.json")):
        for path in sorted(manifest.parent.iterdir()):
            if path.name not in seen and path.stat().st_size:
                seen.add(path.name)
                yield manifest.parent, path
    folder = next(run.glob("cells/*/*"))
    yield folder, run / json.loads((folder / "verdict.json").read_text())["host_facts"]["file"]


def test_a_flipped_byte_in_any_kind_of_file_is_detected(run: Path) -> None:
    names = []
    for folder, path in flips(run):
        data = path.read_bytes()
        path.write_bytes(bytes([*data[: len(data) // 2], data[len(data) // 2] ^ 1, *data[len(data) // 2 + 1 :]]))
        status, said = told(str(folder))
        assert (status, "is damaged" in said) == (10, True) or "cannot be read" in said, path
        path.write_bytes(data)
        assert verify_manifest(folder) == []
        names.append(path.name.partition("-")[0] if path.name.startswith("facts") else path.name)
    assert {
        "commands.jsonl", "console.raw", "dmesg-delta.txt", "facts", "manifest.json", "notes.txt", "program.txt",
        "records.json", "registers.json", "rom.json", "verdict.json",
    } <= set(names)  # fmt: skip


def test_every_byte_of_a_manifest_counts(run: Path) -> None:
    folder = run / cells_of(run)["test_own.py::test_after_the_complaint"]["evidence"]
    path = folder / "manifest.json"
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(bytes([*data[:at], data[at] ^ 1, *data[at + 1 :]]))
        try:
            assert verify_manifest(folder), at
        except ValueError:
            continue


def test_files_that_come_and_go_are_detected(run: Path) -> None:
    folder = next(run.glob("cells/*/*"))
    (folder / "more.txt").write_text("x")
    assert verify_manifest(folder) == ["more.txt"]
    (folder / "more.txt").unlink()
    (folder / "program.txt").unlink()
    assert verify_manifest(folder) == ["program.txt"]


def test_a_cell_is_found_by_its_name(run: Path) -> None:
    runs = f"--runs={run.parent}"
    assert "test_after_the_complaint" in told("test_after_the_complaint", runs)[1]
    status, said = told("test_nothing", runs)
    assert (status, "has no cell 'test_nothing'" in said) == (4, True)
    status, said = told("DAT-01@emuamd", runs)
    assert (status, "means 4 cells" in said) == (4, True)
    status, said = told(str(run))
    assert (status, "is no evidence folder" in said) == (4, True)
    status, said = told("x", f"--runs={run / 'cells'}")
    assert (status, "no finished run below" in said) == (4, True)


def test_messages_are_followed_from_item_to_item() -> None:
    log = MessageLog()
    log.begin()
    log.take(["of another", "x BEGIN 00000001 first", "mine"], "00000001 first")
    assert log.item.lines == ("x BEGIN 00000001 first", "mine")
    log.begin()
    log.take(["of another", "x BEGIN 00000001 first", "mine", "between"])
    log.take(["of another", "x BEGIN 00000001 first", "mine", "between", "mine"])
    assert (log.item.lines, log.item.lost) == (("between", "mine"), ())
    lines = [f"line {number}" for number in range(3 * TAIL_LINES)]
    log.take(lines[:TAIL_LINES])  # the buffer was cleared and filled anew
    assert "lost" in log.item.lost[0]
    log.begin()
    log.take(lines[30 : TAIL_LINES + 30])
    assert (log.item.lines, log.item.lost) == (tuple(lines[TAIL_LINES : TAIL_LINES + 30]), ())
    log.begin()
    log.take(lines[-TAIL_LINES:])
    assert log.item.lines == tuple(lines[-TAIL_LINES:])
    assert b"(vmmcheck) More than" in log.item.as_delta()
    unmarked = MessageLog()
    unmarked.take(["of another"], "00000002 not there")
    assert "is not in the buffer" in unmarked.item.lost[0]


def test_evidence_that_has_no_room_disturbs_nothing_and_is_told_at_the_end(tmp_path: Path) -> None:
    recorder = CellRecorder(tmp_path / "cell")
    recorder.add_note("before")
    # In the way of a file: as little can be written as on a full disk.
    (tmp_path / "cell" / "commands.jsonl").mkdir()
    recorder.add_command("true", 0, b"", b"", 0.0, 0.0)
    recorder.add_note("behind")
    with pytest.raises(EvidenceLost, match=r"'commands\.jsonl' of '.*cell' cannot be written: Is a directory\."):
        recorder.finish({"verdict": "PASS"})
    assert (tmp_path / "cell" / "notes.txt").read_text() == "before\nbehind\n"
