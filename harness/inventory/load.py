"""Reads an inventory and reports everything that is wrong with it at once."""

from __future__ import annotations

import difflib
import fnmatch
import json
import tomllib
import typing
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from harness.errors import InventoryInvalid, NoHosts
from harness.inventory.model import SCHEMA, Defaults, Host, Inventory

#: Keys of ``[defaults]`` that speak of hosts behind an address; an image that we boot has none.
_OF_ADDRESSES = ("port", "jump")
_VIRTUAL = ("bochs", "qemu")
_KINDS = ("bare", "emulated", "freebsd", "bochs", "qemu", "command", "manual", "file")


def load_inventory(path: Path) -> Inventory:
    """Read and check the lab file; raises :class:`InventoryInvalid` with one line a mistake."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InventoryInvalid(
            f"The lab file '{path}' cannot be read: {error.strerror}.",
            help="Name an existing file with --lab; 'labs/emulated.toml' needs no hardware.",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InventoryInvalid(f"The lab file '{path}' is not TOML: {error}.") from None
    return check_inventory(data, str(path))


def check_inventory(data: dict[str, Any], name: str) -> Inventory:
    """The same for a file that was read already; ``name`` stands for it in messages."""
    schema = data.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise InventoryInvalid(
            f"The lab file '{name}' has schema {schema}; this vmmcheck reads schema {SCHEMA}.",
            help="Install the vmmcheck that wrote it, or go back to schema 1.",
        )
    if isinstance(schema, int) and schema < SCHEMA:
        warnings.warn(f"The lab file '{name}' has the old schema {schema}; it is read as {SCHEMA}.", stacklevel=2)
        data = {**data, "schema": SCHEMA}
    merged = _with_defaults(data)
    try:
        return Inventory.model_validate(merged)
    except ValidationError as error:
        mistakes = list(dict.fromkeys(_explain(error, data)))
        listed = "\n".join(f"  {line}" for line in mistakes)
        many = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        raise InventoryInvalid(f"The lab file '{name}' has {many}:\n{listed}\n") from None


def _with_defaults(data: dict[str, Any]) -> dict[str, Any]:
    """Give each FreeBSD host what ``[defaults]`` says and it does not."""
    defaults, hosts = data.get("defaults"), data.get("host")
    if not isinstance(defaults, dict) or not isinstance(hosts, dict):
        return data
    known = {key: value for key, value in defaults.items() if key in Defaults.model_fields}
    # The times of an emulated machine are its own.
    for_images = {key: value for key, value in known.items() if key not in (*_OF_ADDRESSES, "timeouts")}
    given = {"freebsd": known, **dict.fromkeys(_VIRTUAL, for_images)}
    return {
        **data,
        "host": {
            alias: {**given.get(str(entry.get("kind")), {}), **entry} if isinstance(entry, dict) else entry
            for alias, entry in hosts.items()
        },
    }


def _explain(error: ValidationError, data: Mapping[str, Any]) -> Iterator[str]:
    items = error.errors()
    for item in items:
        if item["type"] == "too_short" and any(_below(other["loc"], item["loc"]) for other in items):
            continue  # it only looks empty because what is in it is wrong, which is told
        words = _as_written(item["loc"], data)
        if words[:1] == ["host"] and len(words) > 2 and _came_from_defaults(words, data):
            words = ["defaults", *words[2:]]
        where, key = ".".join(words), words[-1] if words else ""
        kind = item["type"]
        if kind == "extra_forbidden":
            close = difflib.get_close_matches(key, _keys(), n=1)
            yield f"{where}: unknown key" + (f"; did you mean '{close[0]}'?" if close else "")
        elif kind == "missing":
            yield f"{where}: missing"
        elif kind == "union_tag_not_found":
            yield f"{where}.kind: missing"
        elif kind == "union_tag_invalid":
            yield _wrong_kind(where, item)
        elif key == "[key]" and "tunables" in words:
            yield f"{'.'.join(words[:-1])}: only tunables below hw.vmm are set here, in lower case"
        elif key == "[key]":
            host = ".".join(words[:-1])
            yield f"{host}: a host's name is a lower-case letter followed by lower-case letters and digits"
        else:
            yield f"{where}: {item['msg'].removeprefix('Value error, ')}" + _found(item.get("input"))


def _below(inner: tuple[int | str, ...], outer: tuple[int | str, ...]) -> bool:
    return len(inner) > len(outer) and inner[: len(outer)] == outer


def _found(value: object) -> str:
    """The offending value, unless it is a table: then the message says it."""
    return "" if isinstance(value, (dict, BaseModel)) else f" (found {value!r})"


def _wrong_kind(where: str, item: Any) -> str:
    context = item.get("ctx", {})
    tag, expected = str(context.get("tag", "")), str(context.get("expected_tags", ""))
    close = difflib.get_close_matches(tag, expected.replace("'", "").split(", "), n=1)
    return f"{where}: unknown kind '{tag}'; " + (f"did you mean '{close[0]}'?" if close else f"it is one of {expected}")


def _as_written(loc: Iterable[int | str], data: Mapping[str, Any]) -> list[str]:
    """The path as the file has it: pydantic puts the chosen kinds into it."""
    words: list[str] = []
    here: Any = data
    for part in loc:
        if isinstance(here, dict) and part not in here and part in _KINDS and here.get("kind") == part:
            continue
        words.append(str(part))
        if isinstance(here, dict):
            here = here.get(part)
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            here = here[part]
    return words


def _came_from_defaults(words: list[str], data: Mapping[str, Any]) -> bool:
    entry = data["host"].get(words[1])
    defaults = data.get("defaults", {})
    return isinstance(entry, dict) and isinstance(defaults, dict) and words[2] in defaults and words[2] not in entry


def _keys() -> list[str]:
    """Every key that the schema knows anywhere."""
    return sorted({name for model in _models(Inventory) for name in _names(model)})


def _names(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield field.alias or name


def _models(model: type[BaseModel], seen: set[type[BaseModel]] | None = None) -> set[type[BaseModel]]:
    """A model and every model that its fields hold."""
    seen = set() if seen is None else seen
    if model not in seen:
        seen.add(model)
        for field in model.model_fields.values():
            for part in _parts(field.annotation):
                _models(part, seen)
    return seen


def _parts(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _parts(argument)


def select_hosts(inventory: Inventory, wanted: Iterable[str]) -> dict[str, Host]:
    """Hosts by alias or glob (``emu*``), all of them when ``wanted`` is empty.

    Raises :class:`NoHosts` for a name or a glob that matches none.
    """
    patterns = list(dict.fromkeys(wanted))
    for pattern in patterns:
        if not fnmatch.filter(inventory.host, pattern):
            raise _no_host(inventory, pattern)
    return {
        name: host
        for name, host in inventory.host.items()
        if not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }


def _no_host(inventory: Inventory, pattern: str) -> NoHosts:
    words = [word for word in pattern.replace(",", " ").split() if word]
    if len(words) > 1:
        again = f"Repeat the option for each host: {' '.join(f'--host {word}' for word in words)}."
    else:
        again = "Name one of these with --host, or leave --host out."
    return NoHosts(f"Lab '{inventory.lab}' has no host '{pattern}'; it has {', '.join(inventory.host)}.", help=again)


def dump_host(host: Host) -> dict[str, Any]:
    """Plain data of a host entry, for the run's recipe; references stay references."""
    model: BaseModel = host
    return model.model_dump(mode="json", by_alias=True)


def json_schema() -> str:
    """The JSON Schema of the inventory, for editors that complete TOML."""
    return json.dumps(Inventory.model_json_schema(by_alias=True), indent=2) + "\n"
