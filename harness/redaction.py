"""What may be written anywhere: no secret of this process, and nothing that a file or terminal cannot take."""

from __future__ import annotations

#: Stands where a secret was.
MASK = "[redacted]"
#: Shorter strings are in every text by chance.
SHORTEST = 6

_SECRETS: list[str] = []


def keep_secret(value: str) -> None:
    """From now on no sink writes ``value``, nor any line of it (a private key is quoted line by line)."""
    for part in {value, *value.splitlines()}:
        secret = part.strip()
        if len(secret) >= SHORTEST and not secret.startswith("-----") and secret not in _SECRETS:
            _SECRETS.append(secret)
    # A secret may contain another one: the longer one first.
    _SECRETS.sort(key=len, reverse=True)


def clean(text: str) -> str:
    """``text`` without secrets; bytes that were no text and control characters are shown as escapes."""
    for secret in _SECRETS:
        if secret in text:
            text = text.replace(secret, MASK)
    if text.isprintable() or text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(
        sign if sign.isprintable() or sign in "\n\t" else _escaped(sign) for sign in text
    )


def clean_bytes(data: bytes) -> bytes:
    """``data`` without secrets; nothing else is changed, it is evidence."""
    for secret in _SECRETS:
        data = data.replace(secret.encode(), MASK.encode())
    return data


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")
