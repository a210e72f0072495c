"""Ending a guest that does not end by itself, from the gentlest way to the last (section 'Life cycle' of bhyve(8))."""

from __future__ import annotations

import shlex

from harness.errors import CommandTimeout, VmmcheckError
from harness.hosts.host import Host
from harness.timing import Deadline
from harness.transport import RemoteProcess

#: Seconds that each way is given, and its command.
_PATIENCE = 4.0
_COMMAND = 5.0
#: So many commands that do not come back are enough: where the kernel waits for the vCPU, it does so for each of them.
_STUCK = 2


def find_command(vm: str) -> str:
    """Prints the process id of the bhyve that runs ``vm``: its title is 'bhyve: NAME' once it is up."""
    return f"pgrep -f {shlex.quote(f'bhyve.* {vm}$')}"


def stop_guest(host: Host, vm: str, process: RemoteProcess) -> str:
    """End the bhyve of ``vm`` and wait for ``process``, whose script then removes the VM; which way worked.

    Raises :class:`CommandTimeout` when none did, and whatever happened to the connection.
    """
    name = shlex.quote(vm)
    ways = {
        "--force-poweroff": f"bhyvectl --vm={name} --force-poweroff",
        "SIGTERM": f"kill -TERM $({find_command(vm)})",
        "SIGKILL": f"kill -KILL $({find_command(vm)})",
        # A bhyve whose VM is destroyed ends with status 1 (13.2) or 4 (15).
        "--destroy": f"bhyvectl --vm={name} --destroy",
    }
    tried, stuck = [], 0
    for way, command in ways.items():
        tried.append(way)
        try:
            host.try_change(command, seconds=_COMMAND)
        except CommandTimeout:
            stuck += 1
            if stuck == _STUCK:
                break
            continue
        try:
            process.wait(Deadline.after(_PATIENCE * host.patience))
        except CommandTimeout:
            continue
        return way
    raise CommandTimeout(f"The guest '{vm}' survived {', '.join(tried)}.")


def remove_machine(host: Host, vm: str) -> bool:
    """Remove a VM without a process that we know of; whether its node is gone."""
    name, node = shlex.quote(vm), shlex.quote(f"/dev/vmm/{vm}")
    script = (
        f"bhyvectl --vm={name} --force-poweroff; sleep 0.2; kill -KILL $({find_command(vm)}) 2>/dev/null;"
        f" bhyvectl --vm={name} --destroy; test ! -e {node}"
    )
    try:
        return host.try_change(script, seconds=2 * _COMMAND).status == 0
    except VmmcheckError:
        return False
