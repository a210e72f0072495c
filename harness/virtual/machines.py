"""The machine behind a virtual host: Bochs, or QEMU with nested virtualisation."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Protocol

from harness.bochs import BochsMachine
from harness.bochs.disk import DiskConfig
from harness.errors import EmulatorFailed, ToolMissing
from harness.inventory import BochsHost, QemuHost, VirtualHost

#: QEMU's own name of the option that shows the guest the processor with its virtualisation extension.
_CPU = {"kvm": "host", "tcg": "max"}


class Machine(Protocol):
    """One machine that can be switched; its console is recorded in a file, across power cycles."""

    def on(self) -> None:
        """Switch it on; raises :class:`ToolMissing`, :class:`EmulatorFailed`."""

    def off(self) -> None:
        """Cut its power, as a hand at the plug does."""

    def is_on(self) -> bool: ...

    def cpu_seconds(self) -> float:
        """CPU time used by the emulator so far."""

    def why_off(self) -> str:
        """The emulator's last words when it ended by itself."""


class BochsBehind:
    """A FreeBSD image in Bochs."""

    def __init__(self, entry: BochsHost, image: Path, folder: Path, port: int) -> None:
        self._entry, self._image, self._folder, self._port = entry, image, folder, port
        self._machine: BochsMachine | None = None
        self._boots = 0
        self._spent = 0.0

    def on(self) -> None:
        if self.is_on():
            return
        self._count()
        self._boots += 1
        # Bochs begins a serial file anew: one each.
        serial = self._folder / f"serial.{self._boots}"
        entry = self._entry
        config = DiskConfig(
            entry.vendor, self._folder, self._image, self._port, serial, ncpu=entry.ncpu, memory=entry.memory,
            ips=entry.ips,
        )  # fmt: skip
        # Left by a machine whose power was cut; the emulator would take it for another one that runs.
        config.changes.with_name(f"{config.changes.name}.lock").unlink(missing_ok=True)
        self._machine = BochsMachine(config)

    def off(self) -> None:
        if self._machine is not None:
            self._machine.kill()

    def is_on(self) -> bool:
        return self._machine is not None and self._machine.alive()

    def cpu_seconds(self) -> float:
        return self._spent + (self._machine.cpu_seconds() if self._machine is not None else 0.0)

    def why_off(self) -> str:
        log = self._folder / "bochs.log"
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
        return " / ".join(lines[-3:])

    def _count(self) -> None:
        if self._machine is not None:
            self._spent += self._machine.cpu_seconds()


def qemu_command(entry: QemuHost, disk: Path, folder: Path, port: int, serial: Path) -> list[str]:
    """QEMU's command line: a disk, one network that leads to SSH and nowhere else, COM1 into a file, no window."""
    return [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
        "-machine", f"q35,accel={entry.accel}", "-cpu", _CPU[entry.accel], "-smp", str(entry.ncpu),
        "-m", str(entry.memory),
        "-drive", f"file={disk},if=none,id=disk,format=qcow2", "-device", "ide-hd,drive=disk",
        "-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22", "-device", "e1000,netdev=net",
        "-serial", f"file:{serial}", "-pidfile", str(folder / "qemu.pid"),
    ]  # fmt: skip


def nested_problem(vendor: str, cpuinfo: str) -> str:
    """Why a guest of KVM could not run bhyve here, by ``/proc/cpuinfo``; empty: nothing is in its way.

    A KVM alone does not say so: there are ones that offer no virtualisation extension to anybody.
    """
    extension = {"intel": "vmx", "amd": "svm"}[vendor]
    flags = next((line.split() for line in cpuinfo.splitlines() if line.startswith("flags")), [])
    return "" if extension in flags else f"this processor shows no {extension.upper()} here"


def _magic(image: Path) -> bytes:
    with image.open("rb") as stream:
        return stream.read(4)


class QemuBehind:
    """A FreeBSD image in QEMU; what it writes goes to an overlay, which lives as long as the run."""

    def __init__(self, entry: QemuHost, image: Path, folder: Path, port: int) -> None:
        self._entry, self._image, self._folder, self._port = entry, image, folder, port
        self._process: subprocess.Popen[bytes] | None = None
        self._boots = 0

    def on(self) -> None:
        if self.is_on():
            return
        if self._entry.accel == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
            raise ToolMissing(
                "There is no KVM here that this user may use (/dev/kvm), which a host of kind 'qemu' needs.",
                help="Load kvm_intel or kvm_amd with nested=1 and join the group 'kvm', or use kind 'bochs'.",
            )
        if self._entry.accel == "kvm":
            problem = nested_problem(self._entry.vendor, Path("/proc/cpuinfo").read_text(encoding="utf-8"))
            if problem:
                raise ToolMissing(
                    f"A host of kind 'qemu' cannot run bhyve on this machine: {problem}.",
                    help="Take a machine of that vendor with nested virtualisation, or use kind 'bochs'.",
                )
        overlay = self._folder / "disk.qcow2"
        if not overlay.exists():
            format = "qcow2" if _magic(self._image) == b"QFI\xfb" else "raw"
            self._tool(
                ["qemu-img", "create", "-q", "-f", "qcow2", "-F", format, "-b", str(self._image), str(overlay)]
            )
        self._boots += 1
        command = qemu_command(
            self._entry, overlay, self._folder, self._port, self._folder / f"serial.{self._boots}"
        )
        program = shutil.which(command[0])
        if program is None:
            raise ToolMissing(f"'{command[0]}' is not installed.", help="apt-get install qemu-system-x86 qemu-utils")
        with (self._folder / "qemu.log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, *command[1:]], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def off(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def is_on(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def cpu_seconds(self) -> float:
        if self._process is None or self._process.poll() is not None:
            return 0.0
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii")
            fields = text.rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return 0.0

    def why_off(self) -> str:
        log = self._folder / "qemu.log"
        return log.read_text(encoding="utf-8", errors="replace").strip()[-300:] if log.exists() else ""

    def _tool(self, command: list[str]) -> None:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        except FileNotFoundError:
            raise ToolMissing(f"'{command[0]}' is not installed.", help="apt-get install qemu-utils") from None
        if done.returncode != 0:
            raise EmulatorFailed(f"'{command[0]}' refused the image '{self._image}': {done.stderr.strip()[:200]}.")


def machine_for(entry: VirtualHost, folder: Path, port: int) -> Machine:
    """The machine for an entry of the inventory; raises :class:`EmulatorFailed` when its image is not there."""
    image = Path(entry.image).expanduser().resolve()
    if not image.is_file():
        raise EmulatorFailed(
            f"The disk image '{entry.image}' does not exist.",
            help="Get one with 'vmmcheck image', and name it with 'image' in the inventory.",
        )
    if isinstance(entry, BochsHost):
        return BochsBehind(entry, image, folder, port)
    if isinstance(entry, QemuHost):
        return QemuBehind(entry, image, folder, port)
    raise EmulatorFailed(f"Nothing here boots a host of type {type(entry).__name__}.")
