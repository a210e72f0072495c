"""Kernel modules by path (kld(4)), with the refusals that FreeBSD does not make by itself.

The kernel goes by a file's base name: 'kldload -n /other/vmm.ko' succeeds while the old code stays, and
'kldload vmm' succeeds although the processor's extension cannot be used. So what is loaded is looked at, never assumed.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from harness.errors import HostUnready, ModuleRefused
from harness.hosts.host import NO_PROOF, FileProof, Host
from harness.timing import CLOCK, Deadline

_FILE = re.compile(r"^\s*(\d+)\s+\d+\s+0x[0-9a-f]+\s+\S+\s+(\S+)(?: \((\S+)\))?$")
_CONTAINED = re.compile(r"^\s+\d+ (\S+)$")


@dataclass(frozen=True, slots=True)
class LoadedFile:
    """A kernel linker file as ``kldstat -v`` shows it: id, name, path, names of the modules in it."""

    id: int
    name: str
    path: str
    modules: tuple[str, ...]


def parse_kldstat(text: str) -> list[LoadedFile]:
    """Files of a ``kldstat -v`` listing, in its order."""
    files: list[tuple[int, str, str, list[str]]] = []
    for line in text.splitlines():
        header = _FILE.match(line)
        contained = _CONTAINED.match(line)
        if header:
            files.append((int(header[1]), header[2], header[3] or "", []))
        elif contained and files:
            files[-1][3].append(contained[1])
    return [LoadedFile(id, name, path, tuple(modules)) for id, name, path, modules in files]


def identity_command(path: str) -> str:
    """Prints what changes whenever a file does: device, inode, size, times. Nobody sets the last of them (stat(2))."""
    return f"stat -f '%d %i %z %Fm %Fc' {shlex.quote(path)} 2>/dev/null"


def hash_command(path: str, proof: FileProof = NO_PROOF) -> str:
    """Prints the SHA-256 of a file, or nothing when there is none.

    A file that is the very one of ``proof`` is not read again, which took a seventh of a cell's time on a slow machine.
    """
    whole = f"sha256 -q {shlex.quote(path)} 2>/dev/null"
    if not (proof.identity and proof.sha256):
        return whole
    same = f'test "$({identity_command(path)})" = {shlex.quote(proof.identity)}'
    return f"if {same}; then echo {proof.sha256}; else {whole}; fi"


class Modules:
    """Loads, proves and unloads modules of one host."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def loaded(self, name: str) -> LoadedFile | None:
        """The loaded file ``name`` (``vmm.ko``), if there is one."""
        result = self._host.run(f"kldstat -v -n {shlex.quote(name)}")
        if result.status != 0:
            return None
        return next((file for file in parse_kldstat(result.text) if file.name == name), None)

    def load(self, path: str, module: str) -> LoadedFile:
        """Load exactly the file ``path`` and prove that it is the one in the kernel and that ``module`` registered.

        Raises :class:`HostUnready`: another file of that name is loaded, the kernel refuses it, or the module inside
        did not come up (for vmm: the processor's extension is not usable).
        """
        name = path.rsplit("/", 1)[-1]
        present = self.loaded(name)
        if present is not None:
            raise HostUnready(
                f"'{name}' is already loaded from '{present.path}'; '{path}' was to be loaded.",
                help=f"Unload it (kldunload {name.removesuffix('.ko')}) when nothing needs it, and run again.",
            )
        # Never -n: it would hide that another file of the same name stays.
        result = self._host.try_change(f"kldload {shlex.quote(path)}")
        if result.status != 0:
            raise ModuleRefused(f"The kernel refuses '{path}': {result.errors}.{self._messages()}", help=_REFUSED_HELP)
        file = self.loaded(name)
        if file is None or file.path != path:
            found = file.path if file is not None else "nothing"
            raise HostUnready(f"After 'kldload {path}' the kernel names '{found}' as the file of '{name}'.")
        if module not in file.modules:
            self.unload(name)
            raise HostUnready(
                f"'{path}' was loaded, but its module '{module}' did not come up.{self._messages()}",
                help=(
                    "What the kernel said names what is missing: VT-x or SVM switched off in a machine's firmware, or"
                    " not offered to this guest by the emulator or hypervisor that the host runs in."
                ),
            )
        return file

    def unload(self, name: str, *, seconds: float = 0) -> None:
        """Unload a file; raises :class:`HostUnready` when it is in use, naming what may hold it.

        ``seconds`` is how long it may stay in use by what is about to end (a dtrace whose connection is gone takes its
        probes away by itself, but not at once).
        """
        limit = Deadline.after(seconds * self._host.patience)
        while True:
            result = self._host.try_change(f"kldunload {shlex.quote(name.removesuffix('.ko'))}")
            if result.status == 0 or "can't find file" in result.errors:
                return
            if limit.expired() or "busy" not in result.errors or self._host.names_in("/dev/vmm"):
                break
            CLOCK.sleep(min(1.0, limit.remaining()))
        machines = self._host.names_in("/dev/vmm")
        held = f" Virtual machines: {', '.join(machines)}." if machines else " No virtual machine exists."
        raise HostUnready(
            f"'{name}' cannot be unloaded: {result.errors}.{held}",
            help="End what uses it (virtual machines, DTrace probes in it); only a reboot helps otherwise.",
        )

    def sha256(self, path: str) -> str:
        """Hash of a module's file."""
        return self._host.check(f"sha256 -q {shlex.quote(path)}").text

    def _messages(self) -> str:
        last = self._host.run("dmesg | tail -n 4").text.strip()
        return f" The kernel said: {last}" if last else ""


_REFUSED_HELP = (
    "Build the module from the sources and with the options of the kernel that runs there; with kern.securelevel above"
    " 0 no module can be loaded."
)
