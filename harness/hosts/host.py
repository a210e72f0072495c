"""What the harness does on a host beside running guests."""

from __future__ import annotations

import hashlib
import re
import shlex
from dataclasses import dataclass, field

from harness.errors import CommandFailed, HostUnready, UnexpectedAnswer
from harness.timing import Deadline
from harness.transport import CommandResult, Transport

#: Seconds for a command that only asks.
QUICK = 20.0
FOLDER = "/root/.vmmcheck"


@dataclass(slots=True)
class Host:
    """One connection and the few facts that must stay true while it is used."""

    transport: Transport
    folder: str = FOLDER
    facts: dict[str, str] = field(default_factory=dict)

    def run(self, command: str, *, stdin: bytes = b"", seconds: float = QUICK) -> CommandResult:
        """Run a command whatever its status."""
        return self.transport.run(command, stdin=stdin, deadline=Deadline.after(seconds))

    def check(self, command: str, *, stdin: bytes = b"", seconds: float = QUICK) -> CommandResult:
        """Run a command that the harness needs; raises :class:`CommandFailed` for a nonzero status."""
        result = self.run(command, stdin=stdin, seconds=seconds)
        if result.status != 0:
            said = result.stderr.decode("utf-8", "replace").strip()[:300]
            raise CommandFailed(f"'{command[:160]}' ended with status {result.status}: {said or 'no message'}.")
        return result

    def put(self, path: str, data: bytes, *, mode: str = "600") -> None:
        """Write a file and prove by its hash that it arrived whole."""
        quoted = shlex.quote(path)
        result = self.check(f"cat >{quoted} && chmod {mode} {quoted} && sha256 -q {quoted}", stdin=data, seconds=60)
        if result.text != hashlib.sha256(data).hexdigest():
            raise CommandFailed(f"'{path}' did not arrive whole: {len(data)} bytes sent, sha256 {result.text} found.")

    def boot_id(self) -> str:
        """Changes at every boot; the one thing that tells a reset from a lost link."""
        text = self.check("sysctl -n kern.boot_id").text
        if not re.fullmatch(r"[0-9a-f]{32}", text):
            raise UnexpectedAnswer(f"'sysctl -n kern.boot_id' printed {text!r}; expected 32 hexadecimal digits.")
        return text

    def collect_facts(self) -> dict[str, str]:
        """Identity of the machine and of what runs on it, for the report."""
        script = "; ".join(
            f'echo "@@{name}"; {command} 2>/dev/null'
            for name, command in (
                ("uname", "uname -aKU"),
                ("release", "uname -r"),
                ("model", "sysctl -n hw.model"),
                ("ncpu", "sysctl -n hw.ncpu"),
                ("vm_guest", "sysctl -n kern.vm_guest"),
                ("vmcb_clean", "sysctl -n hw.vmm.svm.vmcb_clean"),
                ("modules", "kldstat"),
            )
        )
        for piece in self.check(script).text.split("@@")[1:]:
            name, _, value = piece.partition("\n")
            self.facts[name] = value.strip()
        return self.facts

    def loaded_path(self, module: str) -> str:
        """Path of the loaded kernel file ``module``, or an empty string."""
        result = self.run(f"kldstat -v -n {shlex.quote(module)}")
        match = re.search(rf"{re.escape(module)} \((\S+)\)", result.text)
        return match[1] if result.status == 0 and match else ""

    def load(self, path: str) -> str:
        """Load exactly this file; returns its hash. Raises :class:`HostUnready` when another one is in the way."""
        module = path.rsplit("/", 1)[-1]
        present = self.loaded_path(module)
        if present:
            raise HostUnready(
                f"'{module}' is already loaded from '{present}'; '{path}' was to be loaded.",
                help="Unload it (kldunload vmm) when no virtual machine needs it, and run again.",
            )
        self.check(f"kldload {shlex.quote(path)}", seconds=60)
        loaded = self.loaded_path(module)
        if loaded != path:
            raise HostUnready(f"After 'kldload {path}' the kernel names '{loaded}' as the file of '{module}'.")
        return self.check(f"sha256 -q {shlex.quote(path)}").text
