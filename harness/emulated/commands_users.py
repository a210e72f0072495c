"""Programs that run others as somebody else, and what the kernel lets those do."""

from __future__ import annotations

from harness.emulated.host import EmulatedHost
from harness.emulated.shell import Context, Program

#: Variable of a process that is not the superuser of the host, and what it says.
_WHO, _NOBODY, _JAIL = "VMMCHECK_WHO", "nobody", "jail"
EX_USAGE = 64


def unprivileged(context: Context) -> bool:
    """Whether the process may open no device of root's."""
    return context.variables.get(_WHO) == _NOBODY


def jailed(context: Context) -> bool:
    """Whether it is in a jail, which may do nothing with virtual machines here."""
    return context.variables.get(_WHO) == _JAIL


class UserPrograms:
    """Methods are programs; :meth:`table` names them."""

    def __init__(self, host: EmulatedHost) -> None:
        self.host = host

    def table(self) -> dict[str, Program]:
        return {"chroot": self.chroot, "jail": self.jail}

    def chroot(self, context: Context, argv: list[str]) -> int:
        """``chroot -u nobody / COMMAND``: nothing but the change of the user."""
        if argv[1:4] != ["-u", _NOBODY, "/"] or len(argv) < 5:
            context.err("usage: chroot [-g group] [-G group,group,...] [-u user] newroot [command]\n")
            return 1
        return self._run(context, _NOBODY, argv[4:])

    def jail(self, context: Context, argv: list[str]) -> int:
        """``jail -c [NAME=VALUE ...] command=COMMAND [ARGUMENT ...]``: it is gone when the command ends."""
        at = next((n for n, word in enumerate(argv) if word.startswith("command=")), 0)
        if argv[1:2] != ["-c"] or not at:
            context.err("usage: jail [-dhilqv] [-J jid_file] [-u username] -[cmr] param=value ...\n")
            return EX_USAGE
        return self._run(context, _JAIL, [argv[at].removeprefix("command="), *argv[at + 1 :]])

    def _run(self, context: Context, who: str, argv: list[str]) -> int:
        child = context.child()
        child.variables[_WHO] = who
        return self.host.shell.run_program(child, argv)
