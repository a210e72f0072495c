"""Loader tunables of a module: what kenv(1) says when it is loaded is what counts, so it is loaded again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager

from harness.errors import HostUnready
from harness.hosts.host import Host
from harness.hosts.modules import parse_kldstat

_LOOK = "kldstat -v -n vmm.ko"


@contextmanager
def tunable(host: Host, name: str, value: int) -> Iterator[None]:
    """vmm.ko, loaded anew from its own path with a tunable set; with the former value again afterwards.

    No virtual machine may exist. Raises :class:`HostUnready` when the module cannot be loaded as it was.
    """
    answers = host.ask({"module": _LOOK, "before": f"kenv -q {name}"})
    loaded = [file.path for file in parse_kldstat(answers["module"].text) if file.name == "vmm.ko"]
    if len(loaded) != 1:
        raise HostUnready(f"vmm.ko is not loaded on '{host.transport.name}', so its tunables cannot be changed.")
    before = answers["before"]
    former = f"{name}={before.text}" if before.status == 0 else ""
    _load_with(host, loaded[0], f"{name}={value}", name)
    try:
        yield
    finally:
        _load_with(host, loaded[0], former, name)


def _load_with(host: Host, path: str, setting: str, name: str) -> None:
    kenv = f"kenv {shlex.quote(setting)}" if setting else f"kenv -u {name}"
    result = host.try_change(f"kldunload vmm && {kenv} >/dev/null && kldload {shlex.quote(path)} && {_LOOK}")
    files = [file for file in parse_kldstat(result.text) if file.name == "vmm.ko"]
    if result.status != 0 or [file.path for file in files] != [path] or "vmm" not in files[0].modules:
        raise HostUnready(
            f"'{path}' could not be loaded with '{setting or f'no {name}'}': {result.errors or result.text[:200]}.",
            help="End what uses the module (virtual machines, DTrace probes in it) and run again.",
        )
    host.reloaded = files[0]
