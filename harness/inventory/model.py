"""The inventory file as types. Unknown keys are errors; secrets are references, never values."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, model_validator

from harness.errors import ConfigError

SCHEMA = 1

Alias = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]*$")]
Fingerprint = Annotated[str, StringConstraints(pattern=r"^SHA256:[A-Za-z0-9+/]{43}$")]
Vendor = Literal["intel", "amd"]


class Strict(BaseModel):
    """No unknown keys, no silent conversion, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Secret(Strict):
    """Where a secret is: exactly one of an environment variable, a file only its owner can read, a command."""

    env: str | None = None
    file: str | None = None
    command: list[str] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Secret:
        if sum(value is not None for value in (self.env, self.file, self.command)) != 1:
            raise ValueError("name exactly one of 'env', 'file' and 'command'")
        return self

    def resolve(self) -> SecretStr:
        """The secret itself; raises :class:`ConfigError` naming the reference, never the value."""
        if self.env is not None:
            if self.env not in os.environ:
                raise ConfigError(f"The environment variable '{self.env}' that the inventory refers to is not set.")
            return SecretStr(os.environ[self.env])
        if self.file is not None:
            path = Path(self.file).expanduser()
            try:
                mode = path.stat().st_mode
                text = path.read_text(encoding="utf-8")
            except OSError as error:
                raise ConfigError(f"The secret file '{path}' cannot be read: {error.strerror}.") from None
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise ConfigError(f"The secret file '{path}' is open to others (mode {stat.S_IMODE(mode):o}); use 600.")
            return SecretStr(text.strip())
        assert self.command is not None
        done = subprocess.run(self.command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ConfigError(f"The secret command '{self.command[0]}' failed with status {done.returncode}.")
        return SecretStr(done.stdout.strip())


class Cpu(Strict):
    """The processor that is declared, compared with the one that is found."""

    vendor: Literal["GenuineIntel", "AuthenticAMD", "HygonGenuine"]
    family: int
    model: int
    stepping: int
    class_: Annotated[str, Field(alias="class")]


class Common(Strict):
    purpose: tuple[str, ...] = Field(default=(), strict=False)
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


class FreebsdHost(Common):
    """A FreeBSD machine reached by SSH."""

    kind: Literal["freebsd"]
    address: str
    port: Annotated[int, Field(gt=0, lt=65536)] = 22
    user: str = "root"
    identity: Secret
    host_keys: Annotated[tuple[Fingerprint, ...], Field(min_length=1, strict=False)]
    cpu: Cpu


Host = BareHost | EmulatedHost | FreebsdHost


class Inventory(Strict):
    """One lab."""

    schema_: Annotated[Literal[1], Field(alias="schema")]
    lab: str
    host: Annotated[dict[Alias, Annotated[Host, Field(discriminator="kind")]], Field(min_length=1)]
