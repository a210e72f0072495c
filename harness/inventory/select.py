"""Choosing hosts by what they are: ``vendor == amd and family >= 25``."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from harness.errors import ConfigError, NoHosts
from harness.inventory.model import FreebsdHost, Host, Inventory, QemuHost

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
}
_FACTS = ("alias", "kind", "vendor", "family", "model", "stepping", "class", "purpose", "emulated")


def facts_of(alias: str, host: Host) -> dict[str, Any]:
    """What an expression can ask. Facts that a kind of host does not have are ``None``."""
    facts: dict[str, Any] = {
        **dict.fromkeys(_FACTS),
        "alias": alias,
        "kind": host.kind,
        "purpose": host.purpose,
        "emulated": not isinstance(host, (FreebsdHost, QemuHost)),
    }
    if not isinstance(host, FreebsdHost):
        facts["vendor"] = host.vendor
    else:
        cpu = host.cpu
        vendor = "intel" if cpu.vendor == "GenuineIntel" else "amd"
        facts |= {"vendor": vendor, "family": cpu.family, "model": cpu.model, "stepping": cpu.stepping}
        facts["class"] = cpu.class_
    return facts


def hosts_matching(inventory: Inventory, expression: str) -> dict[str, Host]:
    """Hosts for which ``expression`` holds.

    Comparisons (``== != < <= > >= in``), ``and``, ``or``, ``not`` over the facts; a word that is no fact stands for
    itself. Raises :class:`ConfigError` for what is no such expression, :class:`NoHosts` when nothing matches.
    """
    try:
        # 'class' is a word of Python's.
        tree = ast.parse(_words(expression), mode="eval").body
    except SyntaxError as error:
        raise ConfigError(f"'{expression}' is no expression over facts of hosts: {error.msg}.", help=_HELP) from None
    found = {
        alias: host for alias, host in inventory.host.items() if _truth(tree, facts_of(alias, host), expression)
    }
    if not found:
        there = "; ".join(
            f"{alias}: " + " ".join(f"{key}={value}" for key, value in facts_of(alias, host).items() if value)
            for alias, host in inventory.host.items()
        )
        raise NoHosts(f"No host of lab '{inventory.lab}' matches '{expression}'. There are: {there}.", help=_HELP)
    return found


_HELP = f"Write something like 'vendor == amd and family >= 25'; facts are {', '.join(_FACTS)}."


def _words(expression: str) -> str:
    return " ".join("class_" if word == "class" else word for word in expression.split())


def _truth(node: ast.expr, facts: Mapping[str, Any], text: str) -> bool:
    match node:
        case ast.BoolOp(op=ast.And(), values=values):
            return all(_truth(value, facts, text) for value in values)
        case ast.BoolOp(op=ast.Or(), values=values):
            return any(_truth(value, facts, text) for value in values)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _truth(operand, facts, text)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARE:
            return _compare(op, _value(left, facts, text), _value(right, facts, text))
        case ast.Name():
            return bool(_value(node, facts, text))
    raise ConfigError(f"'{text}' uses what an expression over facts of hosts does not have.", help=_HELP)


def _compare(op: ast.cmpop, left: Any, right: Any) -> bool:
    if isinstance(op, (ast.Eq, ast.NotEq)):
        return _COMPARE[type(op)](left, right)
    try:
        return _COMPARE[type(op)](left, right)
    except TypeError:
        return False  # a fact that this host does not have


def _value(node: ast.expr, facts: Mapping[str, Any], text: str) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return facts.get("class" if name == "class_" else name, name)
    raise ConfigError(f"'{text}' uses what an expression over facts of hosts does not have.", help=_HELP)
