"""Which hosts a lab has, checked before anything is touched."""

from harness.inventory.load import dump_host, json_schema, load_inventory, select_hosts
from harness.inventory.model import BareHost, EmulatedHost, FreebsdHost, Host, Inventory
from harness.inventory.secrets import Secret
from harness.inventory.select import hosts_matching

__all__ = [
    "BareHost",
    "EmulatedHost",
    "FreebsdHost",
    "Host",
    "Inventory",
    "Secret",
    "dump_host",
    "hosts_matching",
    "json_schema",
    "load_inventory",
    "select_hosts",
]
