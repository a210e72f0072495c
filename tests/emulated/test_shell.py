"""The shell of emulated hosts does what /bin/sh does with the same script."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.emulated.__main__ import build_host
from harness.emulated.shell import Context
from harness.emulated.streams import Collect, Fixed

SCRIPTS = [
    "echo one; echo two",
    "a='x  y'; echo $a \"$a\" '$a'; echo \"${a}z\"",
    "false; echo $?; true && echo yes || echo no; false || echo or",
    "for i in 1 2 3; do echo n$i; done | tail -n 1",
    "if false; then echo a; elif true; then echo b; else echo c; fi",
    "echo $(echo inner $(echo deeper))",
    "echo error >&2; echo out 2>/dev/null",
    "(exit 3); echo $?; ! true; echo $?",
    "{ echo grouped; echo twice; } | wc -l | grep -c 2",
    "printf '%s-%s\\n' a b; echo -n x; echo",
    "test 3 -lt 4 && [ a = a ] && echo compared",
    "i=; while [ \"$i\" != xxx ]; do i=x$i; echo $i; done",
    "echo 'a;b' \"c|d\" e\\ f # comment",
    "nosuchcommand 2>/dev/null; echo $?",
    "exit 7",
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_same_output_and_status_as_a_real_shell(tmp_path: Path, script: str) -> None:
    real = subprocess.run(["sh", "-c", script], capture_output=True, check=False)
    host = build_host("amd", tmp_path)
    out, err = Collect(), Collect()
    status = host.shell.run_text(script, Context(Fixed(), out, err))
    assert (bytes(out.data), status) == (real.stdout, real.returncode)


@pytest.mark.parametrize("script", ["echo `date`", "cat <<X\nX", "echo $((1+1))", "echo 'open", "if true; then"])
def test_what_it_does_not_know_is_refused(tmp_path: Path, script: str) -> None:
    host = build_host("amd", tmp_path)
    err = Collect()
    assert host.shell.run_text(script, Context(Fixed(), Collect(), err)) == 2
    assert b"Syntax error" in err.data


def test_what_a_file_is_changes_with_whatever_is_done_to_it(tmp_path: Path) -> None:
    host = build_host("amd", tmp_path)

    def said(script: str) -> bytes:
        out = Collect()
        assert host.shell.run_text(script, Context(Fixed(), out, Collect())) == 0
        return bytes(out.data)

    look = "; stat -f '%d %i %z %Fm %Fc' /tmp/x"
    seen = [said(f"{change}{look}") for change in ("echo a >/tmp/x", "echo b >/tmp/x", "chmod 600 /tmp/x")]
    seen.append(said(f"echo b >/tmp/y; mv /tmp/y /tmp/x{look}"))
    assert len(set(seen)) == 4
    assert said(f"true{look}") == seen[-1]
    inodes = [line.split()[1] for line in seen]
    assert inodes[0] == inodes[1] == inodes[2] != inodes[3]


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    host = build_host("amd", tmp_path)
    host.files.size = host.files.used() + 10
    err = Collect()
    assert host.shell.run_text("echo much too long a line for it >/tmp/x", Context(Fixed(), Collect(), err)) == 1
    assert b"No space left on device" in err.data
