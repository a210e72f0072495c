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


class BareHost(Common):
    """Guest programs as firmware of an emulated CPU, without a hypervisor."""

    kind: Literal["bare"]
    vendor: Vendor


class EmulatedHost(Common):
    """A process on this machine that shows FreeBSD's command line over SSH on top of an emulated machine."""

    kind: Literal["emulated"]
    vendor: Vendor
    ncpu: Annotated[int, Field(ge=2, le=2)] = 2


class Access(Strict):
    """How a FreeBSD machine is reached: what ``[defaults]`` may say for all of them."""

    port: Port = 22
    user: str = "root"
    #: How a user who is not root becomes it, without being asked for a password.
    become: Become | None = None
    jump: Jump | None = None
    timeouts: Timeouts = Timeouts()


class Defaults(Access):
    """``[defaults]``: what every FreeBSD host has that does not say otherwise."""

    identity: Identity | None = None


class FreebsdHost(Common, Access):
    """A FreeBSD machine reached by SSH."""

    kind: Literal["freebsd"]
    address: str
    identity: Identity
    host_keys: Fingerprints
    cpu: Cpu
    ncpu: Annotated[int, Field(ge=1)] = 2
    power: Annotated[CommandPower | ManualPower, Field(discriminator="kind")] | None = None
    console: Annotated[FileConsole | CommandConsole, Field(discriminator="kind")] | None = None
    crash: Crash = Crash()
    #: The vmm.ko under test, by its path on the host. Never made the default boot's.
    module: Path = "/boot/kernel/vmm.ko"
    #: Folder on the host with ``vmmcheck_witness.ko`` and ``vmmwitness`` built for its kernel; empty: no witnesses.
    witness: Path | Literal[""] = ""

    @model_validator(mode="after")
    def _root(self) -> FreebsdHost:
        if self.user != "root" and self.become is None:
            raise ValueError(f"user '{self.user}' is not root: say how it becomes root (become = \"sudo\" or \"doas\")")
        if not self.module.endswith("/vmm.ko"):
            # The kernel goes by the base name: another one would not be in the way of a stock vmm.ko.
            raise ValueError("'module' must end in '/vmm.ko': the kernel goes by that name")
        return self


Host = BareHost | EmulatedHost | FreebsdHost


class Inventory(Strict):
    """One lab."""

    schema_: Annotated[Literal[1], Field(alias="schema")]
    lab: str
    defaults: Defaults | None = None
    host: Annotated[dict[Alias, Annotated[Host, Field(discriminator="kind")]], Field(min_length=1)]
