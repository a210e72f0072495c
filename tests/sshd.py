"""A real sshd on loopback, started as the current user with keys of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.errors import InfraError
from harness.timing import Deadline, wait_until
from harness.transport import Endpoint, SshTransport, key_from_file


@dataclass(frozen=True, slots=True)
class Sshd:
    """A running sshd and what a client needs for it."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path
    #: ``SHA256:...`` by key type.
    fingerprints: dict[str, str]

    @property
    def endpoint(self) -> Endpoint:
        key = key_from_file(str(self.folder / "client"))
        return Endpoint("127.0.0.1", self.port, getpass.getuser(), [key], [self.fingerprints["ed25519"]])


def _keygen(path: Path, kind: str) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(path)], check=True)
    shown = subprocess.run(["ssh-keygen", "-lf", f"{path}.pub"], check=True, capture_output=True, text=True)
    return shown.stdout.split()[1]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin")
    if program is None:
        pytest.skip("no sshd on this machine: install the package 'openssh-server' to test against a real one")
    folder = tmp_path_factory.mktemp("sshd")
    fingerprints = {kind: _keygen(folder / f"host_{kind}", kind) for kind in ("ed25519", "ecdsa", "rsa")}
    _keygen(folder / "client", "ed25519")
    _keygen(folder / "stranger", "ed25519")
    (folder / "authorized_keys").write_bytes((folder / "client.pub").read_bytes())
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # what a boot would make, and the package expects
    port = _free_port()
    config = folder / "sshd_config"
    config.write_text(
        "\n".join(
            [
                f"ListenAddress 127.0.0.1:{port}",
                *(f"HostKey {folder}/host_{kind}" for kind in fingerprints),
                f"AuthorizedKeysFile {folder}/authorized_keys",
                f"PidFile {folder}/pid",
                "StrictModes no",
                "UsePAM no",
                "PasswordAuthentication no",
                "PermitRootLogin yes",
                "AllowTcpForwarding yes",
            ]
        )
        + "\n",
        encoding="utf-8",
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "-D", "-e", "-f", str(config)], stdin=subprocess.DEVNULL, stderr=log)
    try:
        try:
            up = Deadline.after(10)
            wait_until(lambda: _listens(port) or process.poll() is not None, up, "sshd", error=InfraError)
        except InfraError:
            pytest.skip("sshd did not open its port within 10 s")
        if process.poll() is not None:
            pytest.skip(f"sshd does not start here: {(folder / 'log').read_text()[-300:]}")
        yield Sshd(process, port, folder, fingerprints)
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def transport(sshd: Sshd) -> Iterator[SshTransport]:
    link = SshTransport.connect("real", sshd.endpoint, deadline=Deadline.after(10))
    yield link
    link.close()
