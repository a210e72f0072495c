"""``vmmcheck doctor`` and ``vmmcheck guests``: is everything there, and what is it made of."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import click

from harness.build import build_image, toolchain_version
from harness.build.reference import build_reference_hypervisor
from harness.errors import ToolMissing, VmmcheckError
from harness.guest import EndMethod, Program, Rom
from harness.guest.rom import runtime_spec
from harness.guest.tables import exit_kinds, snippets
from harness.inventory import Host, load_inventory, select_hosts
from harness.lab import Launcher, open_session
from harness.recording import NullRecorder


def _check(what: str, probe: Callable[[], str]) -> bool:
    """One line: state, what, the fact or the remedy."""
    try:
        fact = probe()
    except VmmcheckError as error:
        click.echo(f"bad   {what}: {error}")
        return False
    click.echo(f"good  {what}: {fact}")
    return True


def _bochs() -> str:
    path = shutil.which("bochs")
    if path is None:
        raise ToolMissing("The emulator 'bochs' is not installed.", help="Run 'make emulated', which installs it.")
    return path


def _guest_answers(alias: str, host: Host) -> str:
    """Open the host as a run would, boot one guest, leave the host as it was."""
    launcher = Launcher()
    with tempfile.TemporaryDirectory(prefix="vmmcheck-doctor-") as folder:
        try:
            reach = launcher.start({alias: host}, Path(folder)).get(alias, {})
            session = open_session(alias, host, reach, Path(folder))
            facts = session.open()
            try:
                program = Program("doctor")
                program.snapshot()
                session.begin(NullRecorder()).run(program)
                session.end()
            finally:
                session.close()
        finally:
            launcher.stop()
    return f"{facts['heading']}; a guest booted and answered"


@click.command()
@click.option("--lab", type=click.Path(path_type=Path), default=Path("labs/emulated.toml"), show_default=True)
@click.option("--host", multiple=True, metavar="ALIAS", help="Only this host (repeatable).")
def doctor(lab: Path, host: tuple[str, ...]) -> None:
    """Check this machine, then each host of a lab, by booting one guest there.

    Exit status 0 when everything is good, 10 when something is not.
    """
    good = _check("emulator", _bochs)
    good &= _check("toolchain", lambda: f"ziglang {toolchain_version()}")
    good &= _check("guest runtime", lambda: build_image(runtime_spec()).key)
    good &= _check("reference hypervisor", lambda: build_reference_hypervisor()[1].key)
    for alias, entry in select_hosts(load_inventory(lab), host).items():
        good &= _check(alias, lambda alias=alias, entry=entry: _guest_answers(alias, entry))  # type: ignore[misc]
    raise SystemExit(0 if good else 10)


@click.command()
def guests() -> None:
    """Build the guest runtime and tell what programs can use: hash, exit kinds, instruction sequences."""
    rom = Rom.build(Program("empty"), EndMethod.HLT, nonce=0)
    click.echo(f"runtime sha256 {rom.runtime_sha256} (toolchain ziglang {toolchain_version()})")
    click.echo(f"exit kinds: {', '.join(exit_kinds())}")
    click.echo(f"snippets: {', '.join(snippets())}")
