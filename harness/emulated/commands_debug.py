"""What looks into a guest from the emulated host: nc(1) to its debug stub, od(1) of its memory."""

from __future__ import annotations

from harness.emulated.host import EmulatedHost
from harness.emulated.shell import Context, Program
from harness.emulated.streams import read_all


class DebugPrograms:
    """Methods are programs; :meth:`table` names them."""

    def __init__(self, host: EmulatedHost) -> None:
        self.host = host

    def table(self) -> dict[str, Program]:
        return {"nc": self.nc, "od": self.od}

    def od(self, context: Context, argv: list[str]) -> int:
        """``od -An -v -tx1``: bytes in hexadecimal, sixteen a line."""
        if argv[1:] != ["-An", "-v", "-tx1"]:
            context.err("usage: od -An -v -tx1\n")
            return 1
        data = read_all(context.stdin)
        for at in range(0, len(data), 16):
            context.out("".join(f"           {byte:02x}"[-4:] for byte in data[at : at + 16]) + "\n")
        return 0

    def nc(self, context: Context, argv: list[str]) -> int:
        """``nc -N[v] localhost PORT``; nothing but debug stubs listens here. Status 1 where none does."""
        words = [word for word in argv[1:] if not word.startswith("-")]
        if len(words) != 2 or not words[1].isdigit():
            context.err("usage: nc [-N] [destination] [port]\n")
            return 1
        stub = self.host.debug_stubs.get(int(words[1])) if words[0] in ("127.0.0.1", "localhost") else None
        to = f"{words[0]} {'port ' if stub is None else ''}{words[1]}"
        if any(word.startswith("-") and "v" in word for word in argv[1:]):
            if stub is None:
                context.err(f"nc: connect to {to} (tcp) failed: Connection refused\n")
            else:
                context.err(f"Connection to {to} port [tcp/*] succeeded!\n")
        # One that is busy with another debugger hangs up, as FreeBSD's does.
        return 0 if stub is not None and stub.serve(context.stdin, context.stdout) else 1
