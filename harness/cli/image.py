"""``vmmcheck image``: FreeBSD images for virtual hosts, from the published file to an entry in the inventory."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from harness.errors import VmmcheckError
from harness.image import copy_image, look_at, prepare, verify
from harness.image.prepare import public_key

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_HOW = """\
1. Get an image. FreeBSD publishes disk images of its releases for virtual machines:

     https://download.freebsd.org/releases/VM-IMAGES/RELEASE/amd64/Latest/      releases that are supported
     http://ftp-archive.freebsd.org/pub/FreeBSD-Archive/old-releases/VM-IMAGES/RELEASE/amd64/Latest/   older ones

   with RELEASE as in 13.2-RELEASE. Take the raw image with UFS, which is called

     FreeBSD-RELEASE-amd64.raw.xz          where there is one file system only
     FreeBSD-RELEASE-amd64-ufs.raw.xz      where there are two ('-zfs' is refused)

   and CHECKSUM.SHA256 or CHECKSUM.SHA512 of the same folder. The checksums themselves are signed: the announcement of
   each release has them with the signature of FreeBSD's security or release engineering team (gpg --verify).

2. Make a key of its own:       ssh-keygen -t ed25519 -N "" -f ~/.ssh/vmmcheck_ed25519

3. Prepare a copy:              vmmcheck image prepare FreeBSD-13.2-RELEASE-amd64.raw.xz --checksum CHECKSUM.SHA512 \\
                                    --key ~/.ssh/vmmcheck_ed25519.pub --out ~/images/freebsd-13.2.img

   The copy is booted once in QEMU (apt-get install qemu-system-x86; no KVM needed), root's authorized_keys, sshd, host
   keys, the network and the serial console are set up by FreeBSD itself, and it is shut down. The published file is
   only read. What it prints at the end goes into the inventory.

4. See a guest run there:       vmmcheck doctor --lab LAB.toml
"""


@click.group()
def image() -> None:
    """Get a FreeBSD disk image and make it a virtual host."""


@image.command()
def how() -> None:
    """Tell where images come from and what to do with them."""
    click.echo(_HOW)


@image.command()
@click.argument("file", type=_FILE)
@click.option("--checksum", type=_FILE, multiple=True, help="CHECKSUM.SHA256 or CHECKSUM.SHA512 of the release.")
def check(file: Path, checksum: tuple[Path, ...]) -> None:
    """Say what a raw image holds; refuse what cannot become a virtual host."""
    for sums in checksum:
        click.echo(f"{file.name}: {verify(file, sums)}, as {sums.name} says")
    if file.suffix != ".xz":
        click.echo(f"{file.name}: {look_at(file)}")


@image.command("prepare")
@click.argument("file", type=_FILE)
@click.option("--key", required=True, type=_FILE, help="Public SSH key that shall be let in as root.")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="New raw image.")
@click.option("--checksum", type=_FILE, multiple=True, help="CHECKSUM.SHA256 or CHECKSUM.SHA512 of the release.")
@click.option("--patience", type=click.FloatRange(1, 20), default=1.0, show_default=True,
              help="Multiplies every limit, on a busy machine.")  # fmt: skip
def prepare_command(file: Path, key: Path, out: Path, checksum: tuple[Path, ...], patience: float) -> None:
    """Copy FILE (.raw or .raw.xz) to --out, boot the copy once, set up SSH, print an entry for the inventory."""
    def tell(what: str) -> None:
        click.echo(f"  {what}", err=True)

    public_key(key)
    for sums in checksum:
        tell(f"{verify(file, sums)}, as {sums.name} says")
    if not checksum:
        tell("no --checksum was given: whether this is what FreeBSD published is not known")
    out = out.absolute()
    logs = out.with_name(f"{out.name}.logs")
    copy_image(file, out)
    try:
        tell(str(look_at(out)))
        shutil.rmtree(logs, ignore_errors=True)
        logs.mkdir()
        done = prepare(out, key, logs, tell, patience)
    except (VmmcheckError, KeyboardInterrupt):
        # Half of the settings is no image to run tests on.
        out.unlink(missing_ok=True)
        raise
    click.echo(f"{done.release}, prepared in {out}")
    for kind, pin in done.fingerprints.items():
        click.echo(f"host key {kind} {pin}")
    private = key.absolute().with_suffix("") if key.suffix == ".pub" else key.absolute()
    click.echo(f"\n{done.snippet(private)}")
