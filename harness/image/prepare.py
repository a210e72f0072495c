"""Makes a FreeBSD image ready to be a virtual host, by FreeBSD itself: Linux cannot write to its file system.

The copy is booted once. The loader is told to use the serial line and to come up in single-user mode (an image whose
console is the serial line already is logged in to as root, who has no password on images as they are published). There
a few lines of sh do what an administrator would do, and the machine is shut down in order.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ConfigError, EmulatorFailed
from harness.image.machine import QemuMachine
from harness.image.partitions import look_at
from harness.timing import Deadline

#: Settings of the loader, in a file of its own that is read after loader.conf on all releases. The devices are ones
#: that an emulated machine has no use for, and whose probing takes minutes in Bochs, where DELAY() goes by a clock that
#: CPUID announces and the emulator does not keep.
_LOADER = (
    'console="comconsole"', 'boot_serial="YES"', 'boot_multicons="NO"', 'autoboot_delay="1"', 'beastie_disable="YES"',
    'hint.fdc.0.disabled="1"', 'hint.fd.0.disabled="1"', 'hint.ppc.0.disabled="1"', 'hint.uart.1.disabled="1"',
    'hint.psm.0.disabled="1"', 'hint.atkbdc.0.disabled="1"', 'hint.atkbd.0.disabled="1"', 'hint.uhci.0.disabled="1"',
    'hw.usb.no_boot_wait="1"',
)  # fmt: skip
_RC = (
    "sshd_enable=YES", "ifconfig_em0=SYNCDHCP", "growfs_enable=NO", "sendmail_enable=NONE", "cron_enable=NO",
    "background_fsck=NO", "fsck_y_enable=YES", "defaultroute_delay=0", "firstboot_freebsd_update_enable=NO",
)  # fmt: skip
_KEY = re.compile(r"^(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp\d+) [A-Za-z0-9+/=]+( [^\r\n']*)?$")
#: A line of a terminal has room for a good thousand characters.
_PIECE = 200
_MENU = re.compile(r"Autoboot in|\[?Esc\]?ape to loader prompt|Hit \[Enter\] to boot")
_HELP = "The console's whole text is in console.log, in the folder of logs beside the image."
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A host that can be reached: its release, and the fingerprints of its keys by type (``ED25519``)."""

    image: Path
    release: str
    fingerprints: dict[str, str]

    def snippet(self, key: Path) -> str:
        """An entry for an inventory; ``key`` is the private half."""
        pins = ", ".join(f'"{pin}"' for pin in self.fingerprints.values())
        return "\n".join(
            (
                "schema = 1", 'lab = "virtual"', "",
                "[host.fbsdamd]", 'kind = "bochs"', 'vendor = "amd"                # or "intel"',
                f'image = "{self.image}"', f'identity = {{ file = "{key}" }}', f"host_keys = [{pins}]",
            )
        )  # fmt: skip


def public_key(path: Path) -> str:
    """The one public key in ``path``; raises :class:`ConfigError` for anything else, never showing it."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        lines = []
    if len(lines) != 1 or not _KEY.match(lines[0]):
        raise ConfigError(
            f"'{path}' holds no single public SSH key (ed25519, ecdsa or rsa).",
            help="Make a pair with 'ssh-keygen -t ed25519 -f KEY -N \"\"' and name KEY.pub.",
        )
    return lines[0]


def prepare(disk: Path, key: Path, folder: Path, tell: Callable[[str], None], patience: float = 1.0) -> Prepared:
    """Boot ``disk`` (a raw copy: it is written), let ``key``'s owner in as root, and shut it down.

    ``folder`` takes the logs, ``patience`` multiplies limits. Raises :class:`ConfigError` when this FreeBSD does not
    let itself be prepared, :class:`EmulatorFailed` when it does not come up.
    """
    public = public_key(key)
    look_at(disk)
    with QemuMachine(disk, folder) as machine:
        single = _reach_shell(machine, tell, patience)
        release = _check(machine, patience)
        tell(f"{release}: settings")
        _settle(machine, public, patience)
        fingerprints = _host_keys(machine, patience)
        tell("shutting down")
        machine.console.run("sync", 60 * patience)
        machine.console.send("halt -p\r" if single else "shutdown -p now\r")
        machine.wait(Deadline.after(180 * patience))
    if not look_at(disk).clean:
        raise EmulatorFailed("The machine went off, but its file system was not left clean.")
    return Prepared(disk, release, fingerprints)


def _reach_shell(machine: QemuMachine, tell: Callable[[str], None], patience: float) -> bool:
    """Get to a root shell on the serial line; whether it is single-user mode's."""
    console = machine.console
    deadline = Deadline.after(600 * patience)
    _wait_for_loader(machine, tell, deadline)
    seen = console.expect(
        {"single": rb"pathname of shell", "login": rb"login: ", "password": rb"Enter root password",
         "mountroot": rb"mountroot> ", "panic": rb"(?m)^panic: "},
        deadline, "FreeBSD did not come up",
    )  # fmt: skip
    if seen in ("password", "mountroot", "panic"):
        raise ConfigError(
            f"This FreeBSD cannot be prepared: it stops at '{seen}' while it boots.",
            help="Take an image as FreeBSD publishes it, whose root has no password and whose console is secure.",
        )
    if seen == "single":
        console.settle(1.0, Deadline.after(30 * patience))
        console.send("/bin/sh\r")
        console.expect({"shell": rb"# "}, Deadline.after(120 * patience), "No shell in single-user mode")
    else:
        tell("logging in as root on the console")
        console.send("root\r")
        answer = console.expect(
            {"shell": rb"[#%>] $", "password": rb"Password:"}, Deadline.after(120 * patience), "No login on the console"
        )
        if answer == "password":
            raise ConfigError(
                "root has a password on this image: nobody can log in on its console without it.",
                help="Take an image as FreeBSD publishes it.",
            )
    console.settle(3.0, Deadline.after(60 * patience))
    if seen == "login":
        # root's shell may be csh.
        console.send("exec /bin/sh\r")
        console.settle(3.0, Deadline.after(60 * patience))
    # No prompt, no echo, no editing of lines: what comes is what commands print.
    status, _ = console.run("set +o emacs +o vi 2>/dev/null; PS1=; PS2=; stty -echo; export TERM=dumb", 60 * patience)
    if status != 0:
        said = console.last_words()
        raise EmulatorFailed(f"The shell on the console does not answer in order: {said!r}.", help=_HELP)
    if seen == "single":
        for command in ("fsck -p / || fsck -y /", "mount -u -o rw /", "mount -a -t ufs || true"):
            _do(machine, command, 300 * patience)
    return seen == "single"


def _wait_for_loader(machine: QemuMachine, tell: Callable[[str], None], deadline: Deadline) -> None:
    """Answer the loader on the screen, unless the machine speaks on its serial line by itself."""
    console = machine.console
    while not deadline.expired():
        console.poll(0.5)
        if console.closed:
            raise EmulatorFailed(f"QEMU ended before FreeBSD came up: {machine.why()}")
        if re.search(rb"Loading kernel|Copyright|login: |/boot/kernel/kernel", console.pending):
            tell("booting; its console is the serial line")
            return
        screen = machine.screen()
        if any(_MENU.search(line) for line in screen):
            tell("loader: single-user mode on the serial line")
            machine.type("\x1b")
            _prompt(machine, deadline)
            machine.type("set console=comconsole\n")
            console.expect({"prompt": rb"OK "}, deadline, "The loader did not take the serial line")
            console.send("set boot_serial=YES\r")
            console.expect({"prompt": rb"OK "}, deadline, "The loader does not answer")
            console.send("boot -s\r")
            return
        if any("Missing boot loader" in line or "No bootable device" in line for line in screen):
            raise ConfigError("The BIOS finds nothing to boot on this image.")
    said = " / ".join(line for line in machine.screen() if line)
    raise EmulatorFailed(f"No loader showed itself; the screen says: {said[:300]!r}.", help="Try a larger --patience.")


def _prompt(machine: QemuMachine, deadline: Deadline) -> None:
    while not deadline.expired():
        lines = [line for line in machine.screen() if line]
        if any(line.strip() == "OK" for line in lines):
            return
        machine.console.poll(0.3)
    raise EmulatorFailed("The loader's menu does not lead to its prompt.")


def _do(machine: QemuMachine, command: str, seconds: float) -> str:
    status, output = machine.console.run(command, seconds)
    if status != 0:
        raise EmulatorFailed(f"'{command[:80]}' failed on the image with status {status}: {output[-300:]}.", help=_HELP)
    return output


def _check(machine: QemuMachine, patience: float) -> str:
    """It has to be what the suite can use; raises :class:`ConfigError`."""
    release = _do(machine, "uname -srm", 60 * patience).splitlines()[-1]
    if not release.startswith("FreeBSD ") or not release.endswith(" amd64"):
        raise ConfigError(f"This image runs '{release}', not FreeBSD on amd64.")
    for path in ("/boot/kernel/vmm.ko", "/usr/sbin/bhyve", "/usr/sbin/bhyvectl", "/usr/sbin/sshd"):
        if machine.console.run(f"test -e {path}", 60 * patience)[0] != 0:
            raise ConfigError(f"This image of {release} has no {path}: there is nothing to test on it.")
    return release.removesuffix(" amd64")


def _settle(machine: QemuMachine, public: str, patience: float) -> None:
    keys, sshd, loader = "/root/.ssh/authorized_keys", "/etc/ssh/sshd_config", "/boot/loader.conf.local"
    steps = ["mkdir -p -m 700 /root/.ssh", f"touch {keys}", f"chmod 600 {keys}", f"printf '\\n' >> {keys}"]
    steps += [f"printf '%s' '{public[at:at + _PIECE]}' >> {keys}" for at in range(0, len(public), _PIECE)]
    steps += [f"printf '\\n' >> {keys}", "rm -f /firstboot", f": > {loader}"]
    steps += [f"echo '{line}' >> {loader}" for line in _LOADER]
    # sysrc(8) would do this, but needs parts of bsdconfig that small images do not have.
    names = "|".join(line.partition("=")[0] for line in _RC)
    rc = "/etc/rc.conf"
    steps += [f"touch {rc}", f"names='{names[:120]}'", f"names=$names'{names[120:]}'"]
    steps += [f'sed -E "/^($names)=/d" {rc} > {rc}.new', f"cat {rc}.new > {rc}", f"rm {rc}.new"]
    steps += [f"""echo '{name}="{value}"' >> {rc}""" for name, _, value in (line.partition("=") for line in _RC)]
    # The first value counts for sshd: ours stand above everything else.
    steps += [
        f"sed -E '/^#?(PermitRootLogin|UseDNS) /d' {sshd} > {sshd}.new",
        f"(echo 'PermitRootLogin prohibit-password'; echo 'UseDNS no'; cat {sshd}.new) > {sshd}",
        f"rm {sshd}.new",
    ]
    for step in steps:
        _do(machine, step, 60 * patience)


def _host_keys(machine: QemuMachine, patience: float) -> dict[str, str]:
    _do(machine, "ssh-keygen -A > /dev/null", 600 * patience)
    _do(machine, "/usr/sbin/sshd -t", 60 * patience)
    found: dict[str, str] = {}
    for kind in ("ed25519", "ecdsa", "rsa"):
        status, output = machine.console.run(f"ssh-keygen -lf /etc/ssh/ssh_host_{kind}_key.pub", 60 * patience)
        match = _FINGERPRINT.search(output)
        if status == 0 and match:
            found[kind.upper()] = match[0]
    if "ED25519" not in found and "RSA" not in found:
        raise EmulatorFailed("The image has no host key of a known type after 'ssh-keygen -A'.")
    return found
