"""Loads the plugin for every pytest run in this tree; without ``--lab`` it does nothing."""

pytest_plugins = ["harness.plugin"]
