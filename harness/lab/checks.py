"""What is looked at behind every item: the same boot, our module and its file, no machine left over."""

from __future__ import annotations

import shlex
from dataclasses import replace

from harness.bhyve import HostView
from harness.errors import CommandFailed, CommandTimeout, HostUnready, InfraError, SshLost
from harness.hosts import Boot, Host, Messages
from harness.hosts.host import BOOT_COMMAND, parse_boot
from harness.hosts.messages import TAIL_COMMAND, judge_messages
from harness.hosts.modules import hash_command, parse_kldstat
from harness.lab.provision import Prepared
from harness.timing import Deadline

#: On the host: the hazard that is about to be run there.
HAZARD_FILE = "/var/db/vmmcheck/hazard"
#: Seconds until all processors have to have run something.
_ALIVE = 5.0


def look_at(host: Host) -> HostView:
    """The host now, in one round trip; its messages are in ``tail`` only."""
    answers = host.ask(
        {
            "boot": BOOT_COMMAND,
            "module": "kldstat -v -n vmm.ko",
            "hash": hash_command(host.module, host.proof),
            "machines": "ls /dev/vmm 2>/dev/null",
            "messages": TAIL_COMMAND,
        }
    )
    files = parse_kldstat(answers["module"].text)
    return HostView(
        boot=parse_boot(answers["boot"].text),
        module=next((file for file in files if file.name == "vmm.ko"), None),
        module_sha256=answers["hash"].text,
        machines=tuple(answers["machines"].text.split()) if answers["machines"].status == 0 else (),
        messages=(),
        tail=tuple(answers["messages"].stdout.decode("utf-8", "replace").splitlines()),
    )


def stuck_processor(host: Host, ncpu: int) -> int | None:
    """The first of ``ncpu`` processors on which nothing can be run any more; ``None``: all of them are well.

    Raises what happens to the connection. A processor that a guest took with it is seen by no other command: the
    scheduler has others.
    """
    every = " ".join(str(cpu) for cpu in range(ncpu))
    deadline = Deadline.after(_ALIVE * host.patience)
    script = f"for cpu in {every}; do cpuset -l $cpu true || exit 1; echo $cpu; done"
    process = host.transport.start(script, deadline=deadline)
    try:
        status = process.wait(deadline).status
    except CommandTimeout:
        return len(process.stdout.split())
    finally:
        process.close()
    if status != 0:
        raise CommandFailed(f"'cpuset -l CPU true' ended with status {status}: {process.stderr[:200]!r}.")
    return None


def mark_hazard(host: Host, hazard: str) -> None:
    """Leave word on the host's disk of the hazard that is about to be run there; empty: take that away."""
    if hazard:
        folder = HAZARD_FILE.rpartition("/")[0]
        host.change(f"mkdir -p {folder} && echo {shlex.quote(hazard)} >{HAZARD_FILE} && sync")
    else:
        host.change(f"rm -f {HAZARD_FILE}")


def follow_reload(host: Host, prepared: Prepared) -> Prepared:
    """``prepared`` after an item that had the module loaded again itself (another tunable).

    The same file has another number in the kernel then.
    """
    reloaded, host.reloaded = host.reloaded, None
    return prepared if reloaded is None else replace(prepared, module=reloaded)


def judge(name: str, view: HostView, boot: Boot, prepared: Prepared, messages: Messages) -> None:
    """Raise what is not as it was on host ``name`` before the item.

    :class:`SshLost` for another boot, :class:`HostUnready` for another module, :class:`InfraError` for machines that
    were left over, and what :func:`judge_messages` makes of what the kernel said.
    """
    if not view.boot.same_as(boot):
        raise SshLost(f"'{name}' is on another boot than before the item: {view.boot} instead of {boot}.")
    if view.module != prepared.module:
        # The kernel numbers what it loads: the same file loaded anew is not the module that was proven.
        found = f"'{view.module.path}' (id {view.module.id})" if view.module is not None else "nothing"
        raise HostUnready(
            f"The loaded vmm.ko of '{name}' is not '{prepared.module.path}' (id {prepared.module.id}) any more,"
            f" but {found}."
        )
    if view.module_sha256 != prepared.module_sha256:
        raise HostUnready(
            f"The file '{prepared.module.path}' on '{name}' has changed under the run: SHA-256"
            f" {view.module_sha256[:16]} instead of {prepared.module_sha256[:16]}."
        )
    if view.machines:
        raise InfraError(f"Virtual machines were left over on '{name}': {' '.join(view.machines)}.")
    judge_messages(name, messages.lines)
