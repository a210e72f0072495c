"""``vmmcheck probe``: what an inventory has to say of a FreeBSD machine, asked of the machine itself."""

from __future__ import annotations

import re
from dataclasses import replace

import click

from harness.hosts import Facts, Host, collect_facts
from harness.timing import Deadline
from harness.transport import Endpoint, SshTransport, key_from_file, keys_from_agent, shown_key

#: Seconds for the connection.
_CONNECT = 30.0


@click.command()
@click.argument("address")
@click.option("--port", type=click.IntRange(1, 65535), default=22, show_default=True)
@click.option("--user", default="root", show_default=True, help="Who logs in there.")
@click.option("--become", type=click.Choice(["sudo", "doas"]), help="How a user who is not root becomes it.")
@click.option("--identity", metavar="FILE", help="Private key (default: those of the ssh-agent).")
@click.option("--name", "alias", metavar="ALIAS", help="Its name in the inventory (default: of its address).")
def probe(address: str, port: int, user: str, become: str | None, identity: str | None, alias: str | None) -> None:
    """Print a [host.NAME] entry for a FreeBSD machine: its host key, its processor, how it is reached.

    Nothing is changed there. The key is the one that the machine at ADDRESS shows now: compare it with its console
    (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub) before you keep the entry.

    Exit status: 0 printed, 4 it cannot be reached or is no FreeBSD.
    """
    keys = [key_from_file(identity)] if identity is not None else list(keys_from_agent())
    endpoint = Endpoint(address, port, user, keys, [])
    deadline = Deadline.after(_CONNECT)
    key = shown_key(address, endpoint, deadline)
    click.echo(f"'{address}' shows the key {key}: compare it with the machine's console.", err=True)
    transport = SshTransport.connect(
        address, replace(endpoint, host_keys=[key]), deadline=deadline, become=(become, "-n") if become else ()
    )
    try:
        facts = collect_facts(Host(transport))
    finally:
        transport.close()
    click.echo("\n".join(_entry(alias or _alias(address), address, port, user, become, identity, key, facts)))


def _entry(
    alias: str, address: str, port: int, user: str, become: str | None, identity: str | None, key: str, facts: Facts
) -> list[str]:
    cpu = facts.cpu
    lines = [f"[host.{alias}]", 'kind = "freebsd"', f'address = "{address}"']
    lines += [f"port = {port}"] if port != 22 else []
    lines += [f'user = "{user}"'] if user != "root" else []
    lines += [f'become = "{become}"'] if become else []
    lines.append(f'identity = {{ file = "{identity}" }}' if identity is not None else "identity = { agent = true }")
    return [
        *lines,
        f'host_keys = ["{key}"]',
        f"ncpu = {facts.ncpu}",
        f"# {facts.answers['uname']}",
        "",
        f"[host.{alias}.cpu]",
        f"# {facts.answers['model']}",
        f'vendor = "{cpu.vendor}"',
        f"family = {cpu.family}",
        f"model = {cpu.model}",
        f"stepping = {cpu.stepping}",
        f'class = "family{cpu.family}model{cpu.model}"    # heads the column: alike processors share one',
    ]


def _alias(address: str) -> str:
    """Lower-case letters and digits, a letter first, as an inventory wants it."""
    first = address if re.fullmatch(r"[0-9.:]+", address) else address.partition(".")[0]
    name = re.sub(r"[^a-z0-9]", "", first.lower())
    return name if name[:1].isalpha() else f"host{name}"
