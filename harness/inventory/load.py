"""Reads an inventory and reports everything that is wrong with it at once."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from harness.errors import InventoryInvalid, NoHosts
from harness.inventory.model import SCHEMA, BareHost, Cpu, EmulatedHost, FreebsdHost, Host, Inventory, Secret

_KEYS = sorted(
    {
        field.alias or name
        for model in (Inventory, BareHost, EmulatedHost, FreebsdHost, Cpu, Secret)
        for name, field in model.model_fields.items()
    }
)


def load_inventory(path: Path) -> Inventory:
    """Read and check the lab file; raises :class:`InventoryInvalid` with one line a mistake."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InventoryInvalid(
            f"The lab file '{path}' cannot be read: {error.strerror}.",
            help="Name an existing file with --lab; 'labs/emulated.toml' needs no hardware.",
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise InventoryInvalid(f"The lab file '{path}' is not TOML: {error}.") from None
    schema = data.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise InventoryInvalid(
            f"The lab file '{path}' has schema {schema}; this vmmcheck reads schema {SCHEMA}.",
            help="Install the vmmcheck that wrote it, or go back to schema 1.",
        )
    try:
        return Inventory.model_validate(data)
    except ValidationError as error:
        mistakes = "\n".join(f"  {line}" for line in _explain(error, data))
        raise InventoryInvalid(f"The lab file '{path}' has {error.error_count()} mistakes:\n{mistakes}\n") from None


def _explain(error: ValidationError, data: Mapping[str, Any]) -> Iterable[str]:
    for item in error.errors():
        # pydantic puts the chosen kind into the path; a reader of the file does not see it there.
        words = [str(word) for word in item["loc"]]
        if len(words) > 2 and words[0] == "host" and words[2] in ("bare", "emulated", "freebsd"):
            del words[2]
        where, key = ".".join(words), words[-1] if words else ""
        if item["type"] == "extra_forbidden":
            close = difflib.get_close_matches(key, _KEYS, n=1)
            yield f"{where}: unknown key" + (f"; did you mean '{close[0]}'?" if close else "")
        elif item["type"] == "missing":
            yield f"{where}: missing"
        elif key == "[key]":
            yield f"{words[-2]}: a host's name is a lower-case letter followed by lower-case letters and digits"
        else:
            yield f"{where}: {item['msg'].removeprefix('Value error, ')} (found {item.get('input')!r})"


def select_hosts(inventory: Inventory, wanted: Iterable[str]) -> dict[str, Host]:
    """Hosts by alias, all of them when ``wanted`` is empty; raises :class:`NoHosts` for a name that is not there."""
    names = list(dict.fromkeys(wanted))
    unknown = [name for name in names if name not in inventory.host]
    if unknown:
        raise NoHosts(
            f"Lab '{inventory.lab}' has no host '{unknown[0]}'; it has {', '.join(inventory.host)}.",
            help="Name one of these with --host, or leave --host out.",
        )
    return {name: host for name, host in inventory.host.items() if not names or name in names}


def dump_host(host: Host) -> dict[str, Any]:
    """Plain data of a host entry, for the run's recipe; references stay references."""
    model: BaseModel = host
    return model.model_dump(mode="json", by_alias=True)
