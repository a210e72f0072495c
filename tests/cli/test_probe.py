"""The entry that ``vmmcheck probe`` prints is one that a run can use: asked of an emulated host over real SSH."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli import cli
from harness.inventory import EmulatedHost, FreebsdHost, load_inventory
from harness.lab import Launcher, open_session


@pytest.fixture
def told(tmp_path: Path) -> Iterator[dict[str, str]]:
    launcher = Launcher()
    entry = EmulatedHost.model_validate({"kind": "emulated", "vendor": "amd"})
    try:
        yield launcher.start({"one": entry}, tmp_path / "lab")["one"]
    finally:
        launcher.stop()


def probe(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli, ["probe", *words])
    return done.exit_code, done.stdout, done.stderr


def test_the_entry_is_one_that_a_session_can_be_opened_with(told: dict[str, str], tmp_path: Path) -> None:
    status, printed, said = probe("127.0.0.1", "--port", told["port"], "--identity", told["identity"], "--name", "zen")
    assert status == 0, said
    assert f"'127.0.0.1' shows the key {told['host_key']}" in said
    lab = tmp_path / "lab.toml"
    lab.write_text(f'schema = 1\nlab = "mine"\n{printed}', encoding="utf-8")
    entry = load_inventory(lab).host["zen"]
    assert isinstance(entry, FreebsdHost)
    assert (entry.cpu.vendor, entry.ncpu, entry.host_keys) == ("AuthenticAMD", 2, (told["host_key"],))
    session = open_session("zen", entry, {}, None)
    session.open()
    assert "not_restored" not in session.close()


def test_who_does_not_answer_or_is_not_let_in_is_told_in_one_sentence(told: dict[str, str], tmp_path: Path) -> None:
    status, printed, said = probe("127.0.0.1", "--port", "1", "--identity", told["identity"])
    assert (status, printed) == (4, "")
    assert said.startswith("INFRA-SSH-UNREACHABLE: '127.0.0.1' does not answer SSH at 127.0.0.1:1: ")
    status, printed, said = probe("127.0.0.1", "--identity", str(tmp_path / "none"))
    assert (status, printed) == (4, "")
    assert "The private key" in said
