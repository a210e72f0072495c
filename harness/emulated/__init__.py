"""The emulated host: FreeBSD's command surface over SSH, answered by a hypervisor that runs in an emulator.

It is a process of its own (``python -m harness.emulated``). Nothing here knows what an answer should be: values
come from the reference hypervisor (``kernel/reference``), which runs on the emulated processor.
"""
