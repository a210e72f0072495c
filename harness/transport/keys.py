"""Private keys, by reference only, and the fingerprints by which hosts are known."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import paramiko

from harness.errors import SshAuthFailed

#: A private key that was read; only the transport looks into it.
PrivateKey = paramiko.PKey

_CLASSES: tuple[type[paramiko.PKey], ...] = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)


def key_from_file(path: str) -> paramiko.PKey:
    """The private key in a file; raises :class:`SshAuthFailed` when it cannot be used."""
    try:
        return paramiko.PKey.from_path(str(Path(path).expanduser()))
    except (OSError, paramiko.SSHException, ValueError, TypeError) as error:
        raise SshAuthFailed(f"The private key '{path}' cannot be used: {error}.") from None


def key_from_text(text: str, source: str) -> paramiko.PKey:
    """The private key in ``text``. Raises :class:`SshAuthFailed`, which names ``source`` and never shows the key."""
    for cls in _CLASSES:
        try:
            return cls.from_private_key(io.StringIO(text.strip() + "\n"))
        except (paramiko.SSHException, ValueError, IndexError, TypeError):
            continue
    raise SshAuthFailed(f"What {source} gives is no private key without a passphrase in OpenSSH or PEM form.")


def keys_from_agent() -> Sequence[paramiko.PKey]:
    """The keys that the user's ssh-agent holds; raises :class:`SshAuthFailed` when there is none."""
    keys = paramiko.Agent().get_keys()
    if not keys:
        raise SshAuthFailed("The inventory says 'agent', but no ssh-agent is reachable or it holds no key.")
    return keys


def fingerprint(key: paramiko.PKey) -> str:
    """``SHA256:...`` as ssh-keygen -l prints it."""
    return str(key.fingerprint)
