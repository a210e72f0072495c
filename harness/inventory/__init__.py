"""Which hosts a lab has, checked before anything is touched."""

from harness.inventory.load import dump_host, json_schema, load_inventory, select_hosts
from harness.inventory.model import (
    BareHost,
    BochsHost,
    EmulatedHost,
    FreebsdHost,
    FreebsdMachine,
    Host,
    Inventory,
    QemuHost,
    VirtualHost,
)
from harness.inventory.secrets import Secret
from harness.inventory.select import hosts_matching

__all__ = [
    "BareHost",
    "BochsHost",
    "EmulatedHost",
    "FreebsdHost",
    "FreebsdMachine",
    "Host",
    "Inventory",
    "QemuHost",
    "Secret",
    "VirtualHost",
    "dump_host",
    "hosts_matching",
    "json_schema",
    "load_inventory",
    "select_hosts",
]
