"""dtrace on an emulated host: listing, programs, statuses and messages as a real FreeBSD has them."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.emulated.__main__ import build_host
from harness.emulated.host import EmulatedHost
from harness.emulated.shell import Context
from harness.emulated.streams import Collect, Pipe
from harness.errors import UnexpectedAnswer
from harness.guest import EndMethod, Program, Rom
from harness.hosts.observation import Observation, fill
from harness.hosts.tracing import complaints_of, parse_rows

PROGRAMS = Path(__file__).resolve().parents[2] / "kernel" / "dtrace"
SWITCH = {"amd": "svm_launch", "intel": "vmx_enter_guest"}
GUEST = (
    "bhyve -c 1 -m 32M -H -p 0:1 -s 0,hostbridge -s 31,lpc -l com1,stdio -l pc-testdev -l bootrom,/root/g.rom t; "
    "bhyvectl --vm=t --destroy"
)


class Shell:
    """Runs scripts on the host as somebody who logged in does."""

    def __init__(self, host: EmulatedHost) -> None:
        self.host = host

    def run(self, text: str, stdin: Pipe | None = None) -> tuple[int, str, str]:
        out, err = Collect(), Collect()
        if stdin is None:
            stdin = Pipe()
            stdin.close()
        status = self.host.shell.run_text(text, Context(stdin, out, err))
        return status, out.data.decode(), err.data.decode()


@pytest.fixture(scope="module", params=["amd", "intel"])
def shell(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    host = build_host(request.param, tmp_path_factory.mktemp(request.param))
    host.boot()
    program = Program("traced")
    program.exit("cpuid", 50)
    host.files.write("/root/g.rom", Rom.build(program, EndMethod.TESTDEV).image)
    host.files.write("/root/v.d", (PROGRAMS / f"vmentry_{request.param}.d").read_bytes())
    shell = Shell(host)
    assert shell.run("kldload vmm")[0] == 0
    yield shell
    host.machine.power_off()


def observed(shell: Shell, guests: int = 1) -> tuple[Observation, str]:
    """What the project's program prints around some guests, and what it says on standard error."""
    hold, answers = Pipe(), []
    thread = threading.Thread(target=lambda: answers.append(shell.run("dtrace -qs /root/v.d -c cat", hold)))
    thread.start()
    assert _armed(shell)
    for _ in range(guests):
        shell.run(GUEST)
    hold.close()
    thread.join(20)
    (answer,) = answers
    assert answer[0] == 0, answer
    observation = Observation()
    fill(observation, answer[1])
    return observation, answer[2]


def _armed(shell: Shell) -> bool:
    wait = threading.Event()
    for _ in range(200):
        if shell.host.traced:
            # Probes follow within milliseconds.
            wait.wait(0.3)
            return True
        wait.wait(0.02)
    return False


def test_listing_has_dtraces_columns(shell: Shell) -> None:
    function = SWITCH[shell.host.vendor]
    status, out, err = shell.run(f"dtrace -l -n 'fbt:vmm:{function}:'")
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == "   ID   PROVIDER            MODULE                          FUNCTION NAME"
    rows = parse_rows(out)
    assert [(row.module, row.function, row.name) for row in rows] == [
        ("vmm", function, "entry"), ("vmm", function, "return"),
    ]  # fmt: skip
    width = out.splitlines()[1].index(function) + len(function)
    assert width == len("   ID   PROVIDER            MODULE                          FUNCTION")


def test_a_description_without_a_match_is_no_failure_of_a_listing(shell: Shell) -> None:
    status, out, err = shell.run("dtrace -l -n 'fbt:vmm:no_such_function:'")
    assert (status, parse_rows(out)) == (0, [])
    assert "failed to match fbt:vmm:no_such_function:" in err


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        ("dtrace -n 'fbt:vmm:nothing:entry{@=count();}'", 1, "does not match any probes"),
        ("dtrace -n 'BEGIN{ panic(); }'", 1, "line 1"),
        ("dtrace -s /root/none.d", 1, "failed to open"),
        ("dtrace -y", 2, "illegal option -- y"),
        ("dtrace", 2, "Usage"),
        ("dtrace -x colour=1 -n 'BEGIN{exit(0)}'", 1, "Invalid option name"),
    ],
)
def test_what_fails_has_dtraces_status(shell: Shell, command: str, status: int, message: str) -> None:
    done, _, err = shell.run(command)
    assert done == status
    assert message in err


def test_exit_decides_the_status(shell: Shell) -> None:
    assert shell.run("dtrace -qn 'BEGIN{ printf(\"%s %d\\n\", \"x\", 7); exit(12); }'") == (12, "x 7\n", "")


def test_without_quiet_there_are_headings_and_notices(shell: Shell) -> None:
    function = SWITCH[shell.host.vendor]
    status, out, err = shell.run(f"dtrace -n 'fbt:vmm:{function}:return{{@=count()}} tick-1s{{exit(0)}}'")
    assert status == 0
    assert out.startswith("CPU     ID                    FUNCTION:NAME\n")
    assert re.search(r"^  0 +\d+ +:tick-1s $", out, re.MULTILINE)
    assert err == f"dtrace: description 'fbt:vmm:{function}:return' matched 2 probes\n"


def test_the_program_counts_what_the_guest_did(shell: Shell) -> None:
    seen, err = observed(shell, guests=2)
    assert complaints_of(err) == []
    assert seen.entries == seen.returns > 100
    assert set(seen.wrong.values()) == {0}
    assert [(thread.cpu, thread.execname, thread.name) for thread in seen.threads] == [(1, "bhyve", "vcpu 0")] * 2
    assert sum(thread.entries for thread in seen.threads) == seen.entries
    for stack in (*seen.entry_stacks, *seen.return_stacks):
        assert stack.functions[:2] == (f"{SWITCH[shell.host.vendor][:3]}_run", "vm_run")
    assert sum(stack.times for stack in seen.return_stacks) == seen.returns
    if shell.host.vendor == "amd":
        assert seen.first == {0: 2}
        assert seen.clean[0x3FF] > seen.entries // 2
        assert sum(seen.clean.values()) == seen.entries


@pytest.mark.parametrize("extra", ["", "last = timestamp;"], ids=["compressed", "each"])
def test_every_entry_is_counted(shell: Shell, extra: str) -> None:
    """The kernel folds records that repeat, but not for a program that looks at the clock: both must be exact."""
    function = SWITCH[shell.host.vendor]
    text = f"fbt:vmm:{function}:entry,fbt:vmm:{function}:return{{ @[probename] = count(); {extra} }}"
    hold, answers = Pipe(), list[tuple[int, str, str]]()
    thread = threading.Thread(target=lambda: answers.append(shell.run(f"dtrace -qn '{text}' -c cat", hold)))
    thread.start()
    assert _armed(shell)
    guest, destroy = GUEST.split("; ")
    _, stats, _ = shell.run(f"{guest} >/dev/null; bhyvectl --vm=t --get-stats; {destroy}")
    hold.close()
    thread.join(20)
    exits = re.search(r"^total number of vm exits\s+(\d+)$", stats, re.MULTILINE)
    assert exits is not None
    found = dict(re.findall(r"^  (\w+) +(\d+)$", answers[0][1], re.MULTILINE))
    assert complaints_of(answers[0][2]) == []
    assert found == {"entry": exits[1], "return": exits[1]}


def test_a_traced_module_stays(shell: Shell) -> None:
    hold = Pipe()
    thread = threading.Thread(target=lambda: shell.run("dtrace -qs /root/v.d -c cat", hold))
    thread.start()
    assert _armed(shell)
    status, _, err = shell.run("kldunload vmm")
    second = shell.run("dtrace -qs /root/v.d -c true")
    hold.close()
    thread.join(20)
    assert (status, err) == (1, "kldunload: can't unload file: Device busy\n")
    assert second[0] == 1
    assert shell.run("kldunload vmm; kldload vmm")[0] == 0


def test_output_that_is_not_whole_is_no_observation() -> None:
    with pytest.raises(Exception, match="before its last line"):
        fill(Observation(), "armed\nentries 3\n")
    with pytest.raises(Exception, match="means nothing"):
        fill(Observation(), "armed\nnonsense 3\ncomplete\n")
    with pytest.raises(UnexpectedAnswer, match="what it looked at"):
        fill(Observation(), "armed\nentries 3\nreturns 3\ncomplete\n")


def test_lost_records_and_errors_are_complaints() -> None:
    said = "dtrace: buffer size lowered to 2m\ndtrace: 12 drops on CPU 0\ndtrace: script '/root/v.d' matched 9 probes\n"
    assert complaints_of(said) == ["dtrace: 12 drops on CPU 0"]
