"""bhyve, bhyvectl and libvmmapi beside the module under test: the host's own, or some that were built with the module.

Which ones a run uses is proven before anything is changed on the host: tools of another tree than the module's fail in
ways that look like the hypervisor's.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ConfigError, ModuleRefused
from harness.hosts import Facts, Host
from harness.hosts.abi import Ioctl, header_ioctls, library_ioctls, module_version, tool_version, undeclared
from harness.lab.undertest import UnderTest

_PROGRAMS = ("bhyve", "bhyvectl")
#: How the module file of the reference hypervisor begins.
_REFERENCE = b"vmmcheck reference "
_LIBRARY = "libvmmapi.so.*"
#: Where an installed tree and a build keep them, below the folder that is named.
_PLACES = ("", "usr/sbin", "usr/lib", "usr.sbin/bhyve", "usr.sbin/bhyvectl", "lib/libvmmapi")
_HOSTS_LIBRARY = re.compile(r"^SHA256 \((/usr/lib/libvmmapi\.so(?:\.\d+)?)\) = ", re.MULTILINE)
_REBUILD = (
    "Build vmm.ko, libvmmapi, bhyve and bhyvectl from one tree, that of the kernel which runs there, and name the"
    " folder of the three tools with 'userland'."
)


@dataclass(frozen=True, slots=True)
class Userland:
    """Tools that go along for a run: the content of each by its file's name; ``version`` is their __FreeBSD_version."""

    files: dict[str, bytes]
    version: int

    @classmethod
    def read(cls, folder: Path) -> Userland:
        """The three tools out of a folder; raises :class:`ConfigError` for what is missing or not of one release."""
        found = {name: _find(folder, name) for name in (*_PROGRAMS, _LIBRARY)}
        missing = [name.replace("*", "N") for name, path in found.items() if path is None]
        if missing:
            raise ConfigError(
                f"The folder '{folder}' of 'userland' has no {' and no '.join(missing)}.",
                help="Name the folder where bhyve, bhyvectl and libvmmapi.so.N were installed to (its root will do).",
            )
        paths = [path for path in found.values() if path is not None]
        try:
            files = {path.name: path.read_bytes() for path in paths}
        except OSError as error:
            raise ConfigError(f"The tools in '{folder}' cannot be read: {error.strerror}.") from None
        versions = {name: tool_version(data, name) for name, data in files.items()}
        if len(set(versions.values())) != 1:
            said = ", ".join(f"{name} {version}" for name, version in versions.items())
            raise ConfigError(f"The tools in '{folder}' are of different releases ({said}).", help=_REBUILD)
        return cls(files, next(iter(versions.values())))

    @property
    def library(self) -> bytes:
        return next(data for name, data in self.files.items() if name.startswith("libvmmapi"))

    def stage(self, host: Host) -> None:
        """Put them into our folder on the host and make every later command there use them."""
        folder = f"{host.folder}/userland"
        host.change(f"mkdir -m 700 {shlex.quote(folder)}")
        for name, data in self.files.items():
            host.put(f"{folder}/{name}", data, mode="700")
        host.transport.prelude = prelude(folder)

    def as_dict(self) -> dict[str, str]:
        """For the report."""
        hashes = [f"{name} {hashlib.sha256(data).hexdigest()}" for name, data in self.files.items()]
        return {"userland_origin": "staged for the run", "userland_sha256": "\n".join(hashes)}


def prelude(folder: str) -> str:
    """What stands before every command, so that ``bhyve`` is the one in ``folder``, with its own libvmmapi."""
    quoted = shlex.quote(folder)
    return f"PATH={quoted}:$PATH; LD_LIBRARY_PATH={quoted}; export PATH LD_LIBRARY_PATH; "


def _find(folder: Path, pattern: str) -> Path | None:
    for place in _PLACES:
        for path in sorted((folder / place).glob(pattern)):
            if path.is_file() and not path.name.endswith((".debug", ".full")):
                return path
    return None


def require_fit(host: Host, facts: Facts, module: UnderTest, tools: Userland | None) -> dict[str, str]:
    """Compare kernel, module and tools; what was compared, for the report. Nothing is changed on the host.

    Raises :class:`ModuleRefused` in one sentence for what does not belong together.
    """
    kernel, userland = facts.kernel, tools.version if tools is not None else facts.userland
    whose = "The tools of 'userland' are" if tools is not None else "The host's bhyve, bhyvectl and libvmmapi are"
    built = _module_version(host, module)
    if built is not None and built != kernel:
        raise ModuleRefused(
            f"The module under test was built from sources of {built}, and kernel {kernel} runs there"
            " (__FreeBSD_version): the layouts of the kernel's structures differ, which nothing else would notice.",
            help="Build it from the sources of the kernel that runs there.",
        )
    if tools is not None and userland != kernel:
        raise ModuleRefused(f"{whose} of {userland}, kernel and module of {kernel}.", help=_REBUILD)
    if userland // 100000 != kernel // 100000:
        raise ModuleRefused(f"{whose} of {userland}, the kernel of {kernel}.", help=_REBUILD)
    told = {"module_version": str(built) if built is not None else "", "userland_version": str(userland)}
    if tools is None and not module.header:
        return {**told, "userland_origin": "the host's own"}
    return {**told, **_require_ioctls(host, facts, module, tools)}


def _require_ioctls(host: Host, facts: Facts, module: UnderTest, tools: Userland | None) -> dict[str, str]:
    own = _hosts_ioctls(host, facts)
    used = library_ioctls(tools.library) if tools is not None else own
    told = {"userland_origin": "the host's own"} if tools is None else tools.as_dict()
    if module.header and used:
        strange = undeclared(used, header_ioctls(module.header))
        if strange:
            raise ModuleRefused(
                f"libvmmapi issues {_listed(strange)}, which the vmm_dev.h of the module's sources does not declare.",
                help=_REBUILD,
            )
        told["ioctls"] = f"{len(used)} of libvmmapi, all declared by the vmm_dev.h of the module's sources"
    if tools is not None and own:
        other = sorted(used ^ own)
        told["ioctls_of_hosts_tools"] = f"others: {_listed(other)}" if other else "the same"
    return told


def _module_version(host: Host, module: UnderTest) -> int | None:
    if module.data is not None:
        return _version_inside(module.data)
    if module.stock:
        return None
    return _version_inside(host.get(module.path), module.path)


def _version_inside(data: bytes, name: str = "vmm.ko") -> int | None:
    """None also for the module of an emulated host: a text, which the kernel there takes as it is."""
    return None if data.startswith(_REFERENCE) else module_version(data, name)


def _hosts_ioctls(host: Host, facts: Facts) -> frozenset[Ioctl]:
    names = _HOSTS_LIBRARY.findall(facts.answers["hashes"])
    return library_ioctls(host.get(names[0])) if names else frozenset()


def _listed(ioctls: list[Ioctl]) -> str:
    shown = ", ".join(map(str, ioctls[:4]))
    return f"{shown} and {len(ioctls) - 4} more" if len(ioctls) > 4 else shown
