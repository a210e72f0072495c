"""The transport against a real OpenSSH server: nothing here is simulated."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from harness.errors import CommandTimeout, HostKeyMismatch, SshAuthFailed, SshLost, SshUnreachable
from harness.recording import NullRecorder
from harness.timing import Deadline
from harness.transport import Endpoint, Framed, SshTransport, key_from_file, key_from_text, shown_key
from tests.sshd import Sshd


class Kept(NullRecorder):
    """Keeps commands as (text, status, stdout)."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, int | None, bytes]] = []

    def add_command(
        self, argv: str, status: int | None, stdout: bytes, stderr: bytes, started: float, seconds: float
    ) -> None:
        self.commands.append((argv, status, stdout))


def soon(seconds: float = 10) -> Deadline:
    return Deadline.after(seconds)


def test_status_and_both_streams(transport: SshTransport) -> None:
    transport.recorder = kept = Kept()
    result = transport.run("echo out; echo err >&2; exit 3", deadline=soon())
    assert (result.status, result.stdout, result.stderr) == (3, b"out\n", b"err\n")
    assert kept.commands == [("echo out; echo err >&2; exit 3", 3, b"out\n")]
    assert transport.channels == 1


def test_large_output_on_both_streams_does_not_deadlock(transport: SshTransport) -> None:
    command = "head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2"
    result = transport.run(command, deadline=soon(30))
    assert (len(result.stdout), len(result.stderr)) == (3_000_000, 3_000_000)


def test_input_arrives_whole(transport: SshTransport) -> None:
    data = os.urandom(1 << 20)
    result = transport.run("wc -c", stdin=data, deadline=soon(30))
    assert result.text.strip() == str(len(data))


def test_text_passes_unchanged_through_the_login_shell(transport: SshTransport) -> None:
    text = "a'b\"c $HOME `id` !x \\ %s é"
    quoted = text.replace("'", "'\\''")
    assert transport.run(f"printf '%s' '{quoted}'", deadline=soon()).stdout.decode() == text


def test_a_deadline_holds_whatever_the_command_prints(transport: SshTransport) -> None:
    transport.recorder = kept = Kept()
    began = time.monotonic()
    with pytest.raises(CommandTimeout, match="did not end within"):
        transport.run("while :; do echo x; sleep 0.05; done", deadline=soon(0.5))
    assert time.monotonic() - began < 3
    assert kept.commands[0][1] is None


def test_a_signal_is_a_status_and_no_lost_link(transport: SshTransport) -> None:
    # The shell itself dies here, so that sshd reports the signal and no status.
    assert transport.run("kill -KILL $$", deadline=soon()).status == 137
    assert transport.run("kill -TERM $$", deadline=soon()).status == 143
    assert transport.run("true", deadline=soon()).status == 0


def test_a_running_process_takes_input_and_ends_with_it(transport: SshTransport) -> None:
    process = transport.start("cat; exit 5", deadline=soon())
    process.write(b"one\n")
    deadline = soon()
    while process.stdout != b"one\n" and process.read(deadline):
        pass
    process.write(b"two\n")
    process.close_stdin()
    result = process.wait(soon())
    assert (result.status, result.stdout) == (5, b"one\ntwo\n")


def test_several_commands_in_one_round_trip(transport: SshTransport) -> None:
    framed = Framed({"first": "echo 1; echo bad >&2; exit 4", "quiet": "printf unfinished", "none": "false"})
    result = transport.run(framed.script(), deadline=soon())
    answers = framed.parse(result.stdout, result.started, result.seconds)
    assert {name: (one.status, one.stdout) for name, one in answers.items()} == {
        "first": (4, b"1\nbad\n"),
        "quiet": (0, b"unfinished"),
        "none": (1, b""),
    }
    assert transport.channels == 1


def test_a_link_that_breaks_is_lost_and_nothing_is_repeated(sshd: Sshd, tmp_path: Path) -> None:
    link = SshTransport.connect("real", sshd.endpoint, deadline=soon())
    session = int(link.run("echo $PPID", deadline=soon()).text)
    marker = tmp_path / "runs"
    process = link.start(f"echo x >>{marker}; sleep 30", deadline=soon())
    while not marker.exists():
        process.read(soon(0.05))
    os.kill(session, signal.SIGKILL)
    with pytest.raises(SshLost, match="outcome is unknown"):
        process.wait(soon())
    with pytest.raises(SshLost, match="before"):
        link.run("true", deadline=soon())
    assert not link.alive()
    assert marker.read_text() == "x\n"
    link.close()


def test_a_host_that_shows_another_key_is_refused(sshd: Sshd) -> None:
    wrong = dataclasses.replace(sshd.endpoint, host_keys=["SHA256:" + "A" * 43])
    with pytest.raises(HostKeyMismatch) as caught:
        SshTransport.connect("real", wrong, deadline=soon())
    assert all(key in caught.value.message for key in sshd.fingerprints.values())


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_any_of_the_hosts_keys_may_be_pinned(sshd: Sshd, kind: str) -> None:
    endpoint = dataclasses.replace(sshd.endpoint, host_keys=[sshd.fingerprints[kind]])
    link = SshTransport.connect("real", endpoint, deadline=soon())
    assert link.run("true", deadline=soon()).status == 0
    link.close()
    assert shown_key("real", sshd.endpoint, soon()) in sshd.fingerprints.values()


def test_a_key_that_the_host_does_not_know_is_refused(sshd: Sshd) -> None:
    stranger = key_from_file(str(sshd.folder / "stranger"))
    endpoint = dataclasses.replace(sshd.endpoint, keys=[stranger])
    with pytest.raises(SshAuthFailed, match="refused the key for user"):
        SshTransport.connect("real", endpoint, deadline=soon())
    # A second key may be the right one.
    endpoint = dataclasses.replace(sshd.endpoint, keys=[stranger, *sshd.endpoint.keys])
    SshTransport.connect("real", endpoint, deadline=soon()).close()


def test_keys_that_cannot_be_used(tmp_path: Path, sshd: Sshd) -> None:
    with pytest.raises(SshAuthFailed, match="cannot be used"):
        key_from_file(str(tmp_path / "missing"))
    with pytest.raises(SshAuthFailed, match="the environment variable 'X' gives") as caught:
        key_from_text("canary-7777", "the environment variable 'X'")
    assert "canary" not in str(caught.value)
    text = (sshd.folder / "client").read_text()
    assert key_from_text(text, "x").fingerprint == key_from_file(str(sshd.folder / "client")).fingerprint


def test_nobody_at_the_port() -> None:
    with pytest.raises(SshUnreachable, match=r"does not answer SSH at 127\.0\.0\.1:1"):
        SshTransport.connect("gone", Endpoint("127.0.0.1", 1, "root", [], []), deadline=soon(3))


def test_a_port_that_accepts_and_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(SshUnreachable, match="does not answer SSH"):
            SshTransport.connect("mute", Endpoint("127.0.0.1", port, "root", [], []), deadline=soon(0.5))


def test_through_a_jump_host(sshd: Sshd) -> None:
    endpoint = dataclasses.replace(sshd.endpoint, jump=sshd.endpoint)
    link = SshTransport.connect("behind", endpoint, deadline=soon())
    result = link.run("echo $SSH_CONNECTION", deadline=soon())
    assert result.text.startswith("127.0.0.1 ")
    link.close()
    wrong = dataclasses.replace(sshd.endpoint, host_keys=["SHA256:" + "A" * 43])
    with pytest.raises(HostKeyMismatch, match="the jump host of behind"):
        SshTransport.connect("behind", dataclasses.replace(sshd.endpoint, jump=wrong), deadline=soon())


def test_becoming_another_user_stands_before_the_shell(sshd: Sshd) -> None:
    link = SshTransport.connect("real", sshd.endpoint, deadline=soon(), become=["env", "WHO=root"])
    assert link.run("echo $WHO", deadline=soon()).text == "root"
    link.close()
