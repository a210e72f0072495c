"""The inventory file as types. Unknown keys are errors; secrets are references, never values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from harness.inventory.secrets import Identity, Secret, Strict

SCHEMA = 1

Alias = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*$")]
Fingerprint = Annotated[str, StringConstraints(pattern=r"^SHA256:[A-Za-z0-9+/]{43}$")]
Fingerprints = Annotated[tuple[Fingerprint, ...], Field(min_length=1, strict=False)]
Port = Annotated[int, Field(gt=0, lt=65536)]
Path = Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9._/+-]+$")]
Words = Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
Seconds = Annotated[float, Field(gt=0, strict=False)]
Vendor = Literal["intel", "amd"]
Become = Literal["sudo", "doas"]
#: A kernel environment variable; nothing that a shell would look at.
Tunable = Annotated[str, StringConstraints(pattern=r"^hw\.vmm\.[a-z0-9_.]+$")]

#: The module that a FreeBSD boots with.
STOCK_MODULE = "/boot/kernel/vmm.ko"


class Cpu(Strict):
    """The processor that is declared, compared with the one that is found. ``class`` heads the report's column."""

    vendor: Literal["GenuineIntel", "AuthenticAMD", "HygonGenuine"]
    family: int
    model: int
    stepping: int
    class_: Annotated[str, Field(alias="class")]


class Jump(Strict):
    """A host whose SSH connection carries ours."""

    address: str
    port: Port = 22
    user: str
    identity: Identity
    host_keys: Fingerprints


class CommandPower(Strict):
    """Power by commands of the controller's; ``secret`` reaches them in the environment variable ``secret_env``."""

    kind: Literal["command"]
    on: Words
    off: Words
    status: Words
    #: Regular expression: found in the output of ``status`` when power is on.
    is_on: str = r"(?i)\bon\b"
    secret: Secret | None = None
    secret_env: str = "VMMCHECK_POWER_SECRET"
    #: How long switching off may take until ``status`` says so.
    off_seconds: Seconds = 60.0


class ManualPower(Strict):
    """A person at the machine, asked on the terminal; without a terminal there is no power control."""

    kind: Literal["manual"]


class FileConsole(Strict):
    """A file on the controller to which something else (conserver, a serial line logger) writes the host's console."""

    kind: Literal["file"]
    path: str


class CommandConsole(Strict):
    """A command on the controller that prints the host's console as far as it was recorded."""

    kind: Literal["command"]
    command: Words


class Crash(Strict):
    """What a panic leaves behind: ``savecore`` and ``textdump`` write to ``folder``."""

    kind: Literal["savecore", "textdump", "none"] = "savecore"
    folder: Path = "/var/crash"


class Timeouts(Strict):
    """Seconds. ``connect`` for the first connection, ``comeback`` until a host that went down by itself answers
    again, ``boot`` after power was switched on, ``lease`` to wait for somebody else's run to end.

    ``patience`` multiplies the limit of every command and guest: a FreeBSD that itself runs in an emulator needs it.
    """

    connect: Seconds = 30.0
    comeback: Seconds = 600.0
    boot: Seconds = 900.0
    lease: Seconds = 60.0
    patience: Annotated[float, Field(ge=1, le=100, strict=False)] = 1.0

    @model_validator(mode="after")
    def _nested(self) -> Timeouts:
        if self.connect >= self.comeback:
            raise ValueError("'connect' must be smaller than 'comeback': limits nest")
        return self


class Common(Strict):
    purpose: Annotated[tuple[str, ...], Field(strict=False)] = ()
    notes: str = ""
    #: Hosts that name the same pool are alike and share the work: each cell runs on one of them.
    pool: str = ""
    #: Percentage of its cells that may be skipped before a run of everything is no longer called complete.
    skip_budget: Annotated[int | None, Field(ge=0, le=100)] = None
    #: Cases that may take the host down are run there when a run asks for them (``--hazards``).
    hazards: bool = False


class BareHost(Common):
    """Guest programs as firmware of an emulated CPU, without a hypervisor."""

    kind: Literal["bare"]
    vendor: Vendor


class EmulatedHost(Common):
    """A process on this machine that shows FreeBSD's command line over SSH on top of an emulated machine."""

    kind: Literal["emulated"]
    vendor: Vendor
    ncpu: Annotated[int, Field(ge=2, le=2)] = 2


class Login(Strict):
    """Who we are on a FreeBSD machine, and how long things may take there."""

    user: str = "root"
    #: How a user who is not root becomes it, without being asked for a password.
    become: Become | None = None
    timeouts: Timeouts = Timeouts()


class Access(Login):
    """How a FreeBSD machine is reached: what ``[defaults]`` may say for all of them."""

    port: Port = 22
    jump: Jump | None = None


class Defaults(Access):
    """``[defaults]``: what every FreeBSD host has that does not say otherwise."""

    identity: Identity | None = None


class Builder(Strict):
    """Builds the vmm.ko under test on the controller, from sources: ``command`` with these placeholders.

    ``{source}`` is a private copy of ``source`` (the tree's ``sys/amd64/vmm`` or a whole tree) with ``patches``
    applied, ``{output}`` the vmm.ko that the command has to write. ``ref`` takes the sources out of a git repository.
    """

    command: Words
    source: str
    patches: Annotated[tuple[str, ...], Field(strict=False)] = ()
    ref: str = ""
    seconds: Seconds = 3600.0

    @model_validator(mode="after")
    def _placeholders(self) -> Builder:
        text = " ".join(self.command)
        for name in ("{source}", "{output}"):
            if name not in text:
                raise ValueError(f"'command' must hold {name}: it says where the builder reads and writes")
        return self


class FreebsdMachine(Common, Login):
    """What every machine with a FreeBSD on it has, whatever the machine is."""

    identity: Identity
    host_keys: Fingerprints
    ncpu: Annotated[int, Field(ge=1)] = 2
    crash: Crash = Crash()
    #: The vmm.ko under test, by its path on the host. Never made the default boot's.
    module: Path = "/boot/kernel/vmm.ko"
    #: The same as a file on the controller, which is uploaded for the run; empty: ``module`` is used.
    module_file: str = ""
    #: The same, built for the run.
    builder: Builder | None = None
    #: Folder on the controller with bhyve, bhyvectl and libvmmapi.so.N that were built with the module (or the root
    #: they were installed to); they go along for the run. Empty: the host's own.
    userland: str = ""
    #: kenv variables set before the module is loaded, put back afterwards.
    tunables: dict[Tunable, str] = Field(default_factory=dict)
    #: Folder on the host with ``vmmcheck_witness.ko`` built for its kernel; empty: what looks at the registers of a
    #: host CPU is not run. The witness program needs no folder: it is built here and goes along.
    witness: Path | Literal[""] = ""
    #: The same module as a file on the controller, which is uploaded for the run.
    witness_file: str = ""

    @model_validator(mode="after")
    def _root(self) -> FreebsdMachine:
        if self.user != "root" and self.become is None:
            raise ValueError(f"user '{self.user}' is not root: say how it becomes root (become = \"sudo\" or \"doas\")")
        if not self.module.endswith("/vmm.ko"):
            # The kernel goes by the base name: another one would not be in the way of a stock vmm.ko.
            raise ValueError("'module' must end in '/vmm.ko': the kernel goes by that name")
        named = [
            key
            for key, is_set in (
                ("module", self.module != STOCK_MODULE),
                ("module_file", bool(self.module_file)),
                ("builder", self.builder is not None),
            )
            if is_set
        ]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)} all name the vmm.ko under test: keep one")
        if self.witness and self.witness_file:
            raise ValueError("'witness' and 'witness_file' both name the witness module: keep one")
        return self


class FreebsdHost(FreebsdMachine, Access):
    """A FreeBSD machine reached by SSH."""

    kind: Literal["freebsd"]
    address: str
    cpu: Cpu
    power: Annotated[CommandPower | ManualPower, Field(discriminator="kind")] | None = None
    console: Annotated[FileConsole | CommandConsole, Field(discriminator="kind")] | None = None


class VirtualHost(FreebsdMachine):
    """A FreeBSD disk image that is booted for the run. What the run writes goes beside it and is dropped at the end."""

    #: Path on the controller; ``~`` is expanded.
    image: str
    #: MiB.
    memory: Annotated[int, Field(ge=256, le=65536)] = 1024


class BochsHost(VirtualHost):
    """A FreeBSD image in Bochs: real vmm.ko and bhyve on an emulated CPU; slow, and possible everywhere.

    An emulated machine takes ten times as long for everything, so its limits are longer by default.
    """

    kind: Literal["bochs"]
    vendor: Vendor
    timeouts: Timeouts = Timeouts(connect=900.0, comeback=1200.0, boot=1200.0, patience=10.0)
    #: Emulated instructions a second: what the machine's own clock goes by.
    ips: Annotated[int, Field(ge=1_000_000)] = 50_000_000


class QemuHost(VirtualHost):
    """A FreeBSD image in QEMU with KVM: the real processor, one level down (nested virtualisation)."""

    kind: Literal["qemu"]
    vendor: Vendor
    timeouts: Timeouts = Timeouts(connect=300.0, comeback=600.0, boot=600.0, patience=2.0)
    #: ``kvm``, or ``tcg`` to see whether an image boots at all: no guest can run on it.
    accel: Literal["kvm", "tcg"] = "kvm"


Host = BareHost | EmulatedHost | FreebsdHost | BochsHost | QemuHost


def vendor_of(host: Host) -> str:
    """``intel`` or ``amd``, as declared."""
    return host.cpu.vendor if isinstance(host, FreebsdHost) else host.vendor


class Inventory(Strict):
    """One lab."""

    schema_: Annotated[Literal[1], Field(alias="schema")]
    lab: str
    defaults: Defaults | None = None
    host: Annotated[dict[Alias, Annotated[Host, Field(discriminator="kind")]], Field(min_length=1)]

    @model_validator(mode="after")
    def _alike(self) -> Inventory:
        first: dict[str, str] = {}
        for alias, host in self.host.items():
            known = first.setdefault(host.pool, alias) if host.pool else alias
            if (host.kind, vendor_of(host)) != (self.host[known].kind, vendor_of(self.host[known])):
                raise ValueError(
                    f"host.{alias} shares pool '{host.pool}' with host.{known}, but is of another kind or vendor:"
                    " a cell may run on either of them"
                )
        return self

