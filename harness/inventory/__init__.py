"""Which hosts a lab has, checked before anything is touched."""

from harness.inventory.load import load_inventory, select_hosts
from harness.inventory.model import BareHost, EmulatedHost, FreebsdHost, Host, Inventory

__all__ = ["BareHost", "EmulatedHost", "FreebsdHost", "Host", "Inventory", "load_inventory", "select_hosts"]
