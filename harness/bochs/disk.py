"""A Bochs machine with firmware, a disk and a network: what a whole operating system needs.

The image is never written: what the machine writes goes to a log of changes beside it, which lives as long as the
run, so that a lease, a crash dump and a file survive a power cycle as on a real disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.bochs.machine import CPU_MODELS
from harness.errors import ToolMissing

#: Where distributions keep the firmware that belongs to Bochs.
_FIRMWARE = (Path("/usr/share/bochs"), Path("/usr/local/share/bochs"))
_BIOS = "BIOS-bochs-latest"
_VGABIOS = ("VGABIOS-lgpl-latest", "VGABIOS-lgpl-latest.bin")
#: Address that the emulator's DHCP server gives to its only client.
GUEST_ADDRESS = "10.0.2.15"


def firmware(folders: tuple[Path, ...] = _FIRMWARE) -> tuple[Path, Path]:
    """BIOS and VGA BIOS; raises :class:`ToolMissing`."""
    for folder in folders:
        bios = folder / _BIOS
        video = next((folder / name for name in _VGABIOS if (folder / name).exists()), None)
        if bios.exists() and video is not None:
            return bios, video
    raise ToolMissing(
        f"The firmware of Bochs ({_BIOS}, {_VGABIOS[0]}) is in none of {', '.join(map(str, folders))}.",
        help="Install it with: apt-get install bochsbios vgabios",
    )


@dataclass(frozen=True, slots=True)
class DiskConfig:
    """What the machine is made of; implements :class:`harness.bochs.machine.MachineConfig`.

    ``memory`` is in MiB, ``ips`` the instructions that make a second of the machine's own time, ``port`` the one on
    127.0.0.1 that leads to its SSH. The network is closed otherwise: the machine reaches nothing.
    """

    vendor: str
    folder: Path
    image: Path
    port: int
    serial: Path | None
    ncpu: int = 2
    memory: int = 1024
    ips: int = 50_000_000

    @property
    def changes(self) -> Path:
        """The log of what was written to the disk."""
        return self.folder / "disk.changes"

    def render(self, serial_device: str) -> str:
        """The text of bochsrc; writes the network's configuration beside it."""
        bios, video = firmware()
        network = self.folder / "slirp.conf"
        # The first line is how Bochs knows the file.
        network.write_text(
            "# slirp config\nrestricted = 1\nnet = 10.0.2.0\nmask = 255.255.255.0\nhost = 10.0.2.2\n"
            f"dhcpstart = {GUEST_ADDRESS}\ndns = 10.0.2.3\nhostfwd = tcp:127.0.0.1:{self.port}-{GUEST_ADDRESS}:22\n",
            encoding="ascii",
        )
        lines = [
            "plugin_ctrl: e1000=1, unmapped=1, biosdev=1, speaker=0",
            f"cpu: model={CPU_MODELS[self.vendor]}, count={self.ncpu}, ips={self.ips},"
            # A triple fault of the host is a reset without a word, as on any machine.
            " reset_on_triple_fault=1, ignore_bad_msrs=1",
            f"memory: guest={self.memory}, host={self.memory}",
            f"romimage: file={bios}",
            f"vgaromimage: file={video}",
            "display_library: term",
            "vga: update_freq=1",
            "pci: enabled=1, chipset=i440fx, slot1=e1000",
            f"e1000: enabled=1, mac=52:54:00:12:34:56, ethmod=slirp, script={network}",
            "ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14",
            f"ata0-master: type=disk, mode=undoable, path={self.image}, journal={self.changes}",
            "boot: disk",
            f"com1: enabled=1, mode={'file' if self.serial is not None else 'term'}, dev={serial_device}",
            "clock: sync=none",
            "mouse: enabled=0",
            "sound: driver=dummy",
            f"log: {self.folder / 'bochs.log'}",
            "panic: action=fatal",
            # A line for every VM exit would take longer than the exit.
            "error: action=ignore",
            "info: action=ignore",
            "debug: action=ignore",
        ]
        return "\n".join(lines) + "\n"
