"""Secrets by reference: the inventory says where one is, never what it is."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

from pydantic import BaseModel, ConfigDict, SecretStr, model_validator

from harness.errors import ConfigError
from harness.redaction import keep_secret

#: Seconds that a command may take to tell a secret.
COMMAND_SECONDS = 30


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

    def __str__(self) -> str:
        """What the reference is, for messages."""
        if self.env is not None:
            return f"the environment variable '{self.env}'"
        if self.file is not None:
            return f"the file '{self.file}'"
        return f"the command '{(self.command or [''])[0]}'"

    def resolve(self) -> SecretStr:
        """The secret itself; raises :class:`ConfigError` naming the reference, never the value."""
        return read_secret(self.env, self.file, self.command)


class Identity(Strict):
    """The private SSH key: text in an environment variable, a file, the output of a command, or the ssh-agent."""

    env: str | None = None
    file: str | None = None
    command: list[str] | None = None
    agent: bool | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Identity:
        if sum(value is not None for value in (self.env, self.file, self.command, self.agent)) != 1:
            raise ValueError("name exactly one of 'env', 'file', 'command' and 'agent'")
        if self.agent is False:
            raise ValueError("'agent' is 'true' or left out")
        return self

    @property
    def secret(self) -> Secret | None:
        """The reference, or ``None`` where the agent holds the key."""
        return None if self.agent else Secret(env=self.env, file=self.file, command=self.command)


def read_secret(env: str | None, file: str | None, command: list[str] | None) -> SecretStr:
    """Resolve one reference late, into a type whose ``repr`` is stars."""
    if env is not None:
        if env not in os.environ:
            raise ConfigError(f"The environment variable '{env}' that the inventory refers to is not set.")
        return _kept(os.environ[env])
    if file is not None:
        path = Path(file).expanduser()
        try:
            mode = path.stat().st_mode
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"The secret file '{path}' cannot be read: {error.strerror}.") from None
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(f"The secret file '{path}' is open to others (mode {stat.S_IMODE(mode):o}); use 600.")
        return _kept(text.strip())
    assert command is not None, "one of the three is set"
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"The secret command '{command[0]}' could not be run: {type(error).__name__}.") from None
    if done.returncode != 0:
        raise ConfigError(f"The secret command '{command[0]}' failed with status {done.returncode}.")
    return _kept(done.stdout.strip())


def _kept(value: str) -> SecretStr:
    keep_secret(value)
    return SecretStr(value)
