"""bhyve's command line (usr.sbin/bhyve, 12.1 to 15).

Why COM1 is stdio on every release, and never nmdm(4):

- From 12.1 on the uart reads descriptor 0 and writes descriptor 1 (uart_emul.c); up to 11.0 it used descriptor 0 for
  both, but those releases are refused (:data:`harness.hosts.facts.OLDEST`).
- What breaks stdio is a standard input of /dev/null (13.2 aborts: null(4) has no kqueue filter there) or one at its end
  (its readiness never goes away). Here it is the channel of our own SSH connection, a pipe that stays open until bhyve
  has ended; no tty, so that nothing is echoed or translated.
- Any backend can lose output: the descriptor does not block and nobody looks at what each write returns, which holds
  for nmdm as well. So nothing that is judged travels this way: records stay in the guest's memory and are read from
  /dev/vmm/NAME when bhyve has ended (:mod:`harness.bhyve.runscript`). The banner and the lines of the phases are what
  is left, some hundred bytes beside the 64 KiB that a pipe holds.
- nmdm would need a module loaded and unloaded on the host, two processes whose start has to be in order, and device
  nodes that outlive a broken run.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

#: Guest memory in MiB: more than the runtime uses, little enough to be given quickly.
MEMORY = 32


@dataclass(frozen=True, slots=True)
class BhyveOptions:
    """What a run of bhyve for a boot ROM varies in.

    ``name`` is the VM's (at most 31 characters up to 12.x), ``rom`` a path on the host. ``pins`` gives each vCPU its
    host CPU; empty leaves them to the scheduler. ``testdev`` adds pc-testdev's exit port, which 12.x does not have.
    """

    name: str
    rom: str
    vcpus: int = 1
    pins: tuple[int, ...] = ()
    testdev: bool = True
    #: Unknown MSRs read 0 and swallow writes (``-w``) instead of faulting.
    lenient_msrs: bool = False
    #: Port of bhyve's debug stub (``-G``); 0 for none.
    gdb: int = 0
    #: File of a saved guest that goes on (``-r``); empty for one that begins.
    restore: str = ""

    def command(self) -> str:
        """The portable command line: HLT intercepted (``-H``), unknown MSRs faulting unless asked otherwise."""
        words = ["bhyve", "-c", str(self.vcpus), "-m", f"{MEMORY}M", "-H"]
        if self.lenient_msrs:
            words.append("-w")
        for vcpu, cpu in enumerate(self.pins):
            words += ["-p", f"{vcpu}:{cpu}"]
        if self.gdb:
            words += ["-G", str(self.gdb)]
        if self.restore:
            words += ["-r", self.restore]
        words += ["-s", "0,hostbridge", "-s", "31,lpc", "-l", "com1,stdio"]
        if self.testdev:
            words += ["-l", "pc-testdev"]
        return shlex.join([*words, "-l", f"bootrom,{self.rom}", self.name])
