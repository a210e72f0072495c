"""A debugger at bhyve's stub (``-G``): GDB's remote protocol over a program on the host that carries bytes to the port.

Packets are ``$body#checksum``, each acknowledged by ``+`` (GDB manual, appendix E.1). FreeBSD's stub
(usr.sbin/bhyve/gdb.c) stops every vCPU when a debugger attaches.
"""

from __future__ import annotations

import re

from harness.errors import GuestHang, HostUnready, SshLost, ToolMismatch, UnexpectedAnswer
from harness.timing import Deadline
from harness.transport import RemoteProcess

#: Where stubs listen, on the host itself only.
STUB_PORT = 47110
#: General registers and RIP in the order of ``g`` (64 bits each); RFLAGS follows with 32.
_REGISTERS = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip",
)  # fmt: skip
_ACKNOWLEDGED = re.compile(rb"^[+-]*")
_REPORTED = re.compile(rb"\$[TS]05")
#: What nc says of a connection, and a shell of a program that is not there.
_CONNECTED, _NO_PROGRAM = re.compile(r"succeeded!"), re.compile(r"not found|Permission denied")
_STOPPED = re.compile(r"T05|S05")


def carry_command(port: int = STUB_PORT) -> str:
    """Standard input and output to and from a stub: nc(1) of the base system, which ends with its input (``-N``).

    It is asked to say why it could not connect (``-v``), and goes to whichever address ``localhost`` has: bhyve listens
    on the first one that the host's resolver names, ``::1`` on a FreeBSD as installed.
    """
    return f"nc -Nv localhost {port}"


def packet(body: str) -> bytes:
    data = body.encode("ascii")
    return b"$%b#%02x" % (data, sum(data) & 0xFF)


class Debugger:
    """Attached to a stub. ``process`` runs :func:`carry_command`; every wait is bounded by ``seconds``."""

    def __init__(self, process: RemoteProcess, seconds: float) -> None:
        self._process = process
        self._seconds = seconds
        self._taken = 0
        self._attached = True
        self._exchange("qSupported:swbreak+")
        self._stop("?")

    # --- run and stop ----------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Let the guest run until a breakpoint; :meth:`wait_stop` tells of it."""
        self._process.write(packet("c"))

    def wait_stop(self) -> int:
        """Wait for the next stop; RIP there. Raises :class:`GuestHang` when the guest does not stop."""
        try:
            answer = self._answer("c")
        except ToolMismatch as error:
            raise GuestHang(f"The guest did not come to a breakpoint of the debug stub: {error}") from None
        self._check_stop("c", answer)
        return self.registers()["rip"]

    def running(self) -> bool:
        """Whether nothing was heard of a stop since :meth:`resume`."""
        self._process.read(Deadline.after(0))
        return _REPORTED.search(self._process.stdout, self._taken) is None

    def step(self) -> int:
        """One instruction; RIP behind it. Raises :class:`ToolMismatch` where the stub cannot step."""
        self._stop("s")
        return self.registers()["rip"]

    def detach(self) -> None:
        """The guest runs on; the stub waits for the next debugger."""
        if self._attached:
            self._attached = False
            self._expect_ok("D")
            self.close()

    def close(self) -> None:
        """Go without a word, as a debugger that died does."""
        self._attached = False
        self._process.close_stdin()
        self._process.wait(Deadline.after(self._seconds))

    @property
    def attached(self) -> bool:
        return self._attached

    # --- state ---------------------------------------------------------------------------------------------------

    def registers(self) -> dict[str, int]:
        """General registers, ``rip`` and ``rflags`` of the vCPU that stopped."""
        text = self._exchange("g")
        wide = 16 * len(_REGISTERS)
        if not re.fullmatch(rf"[0-9a-f]{{{wide + 8},}}", text):
            raise UnexpectedAnswer(f"The debug stub answered 'g' with {text[:120]!r}, not with registers.")
        values = {
            name: int.from_bytes(bytes.fromhex(text[16 * n : 16 * n + 16]), "little")
            for n, name in enumerate(_REGISTERS)
        }
        return values | {"rflags": int.from_bytes(bytes.fromhex(text[wide : wide + 8]), "little")}

    def read_memory(self, address: int, length: int) -> bytes:
        """Guest memory at a linear address, as the stub shows it (with its own breakpoints in it)."""
        text = self._exchange(f"m{address:x},{length:x}")
        if not re.fullmatch(rf"[0-9a-f]{{{2 * length}}}", text):
            raise ToolMismatch(f"The debug stub did not read {length} bytes at {address:#x}: it answered {text!r}.")
        return bytes.fromhex(text)

    def set_breakpoint(self, address: int) -> None:
        """A software breakpoint in guest memory; raises :class:`ToolMismatch` when the stub refuses."""
        self._expect_ok(f"Z0,{address:x},1")

    def clear_breakpoint(self, address: int) -> None:
        self._expect_ok(f"z0,{address:x},1")

    # --- packets ---------------------------------------------------------------------------------------------------

    def _expect_ok(self, body: str) -> None:
        answer = self._exchange(body)
        if answer != "OK":
            raise ToolMismatch(f"The debug stub refused '{body}': it answered {answer or 'nothing (unknown to it)'!r}.")

    def _stop(self, body: str) -> None:
        self._check_stop(body, self._exchange(body))

    @staticmethod
    def _check_stop(body: str, answer: str) -> None:
        if not _STOPPED.match(answer):
            raise ToolMismatch(f"The debug stub answered '{body}' with {answer!r}; a stop (T05 or S05) was expected.")

    def _exchange(self, body: str) -> str:
        self._process.write(packet(body))
        return self._answer(body)

    def _answer(self, body: str) -> str:
        """The next packet. Raises :class:`ToolMismatch` (none comes), :class:`UnexpectedAnswer` (damaged)."""
        deadline = Deadline.after(self._seconds)
        more = True
        while True:
            rest = self._process.stdout[self._taken :]
            start = len(_ACKNOWLEDGED.match(rest)[0])  # type: ignore[index]
            end = rest.find(b"#", start)
            if 0 <= end <= len(rest) - 3:
                break
            if not more:
                said = self._process.stderr.decode("utf-8", "replace").strip()
                if _NO_PROGRAM.search(said):
                    raise HostUnready(f"The host has no nc(1) to reach a debug stub with: {said}.")
                why = "it closed the connection" if _CONNECTED.search(said) else said or "no connection, and no reason"
                raise ToolMismatch(f"The debug stub did not answer '{body}': {why}.")
            more = self._process.read(deadline)
            if more and deadline.expired():
                raise ToolMismatch(f"The debug stub did not answer '{body}' within {self._seconds:g} s.")
        self._taken += end + 3
        text, claimed = rest[start + 1 : end], rest[end + 1 : end + 3]
        if rest[start : start + 1] != b"$" or claimed.lower() != b"%02x" % (sum(text) & 0xFF):
            raise UnexpectedAnswer(f"The debug stub sent a damaged packet: {rest[: end + 3][:120]!r}.")
        try:
            self._process.write(b"+")
        except OSError:
            raise SshLost("The connection to the debug stub broke.") from None
        return text.decode("ascii", "replace")
