"""vmmcheck: drives FreeBSD hosts, runs tiny guests on their bhyve and judges what came back.

Layers, lowest first; a module imports from its own layer or from one before it:

``errors verdicts timing``      vocabulary: what can go wrong, what a cell can end as, deadlines
``build bochs``                 the pinned toolchain and the emulator process
``guest``                       guest programs, their ROM images and the records they send
``inventory transport``         which hosts there are and how to run a command on them
``hosts bhyve``                 FreeBSD's command line as Python: kld, sysctl, bhyvectl, bhyve
``subjects``                    where a guest program runs: under bhyve on a host, or bare in Bochs
``cases expect results``        case metadata, judged expectations, events, evidence and reports
``lab``                         sessions, health, recovery
``plugin cli``                  pytest and the command line
``emulated``                    the emulated host (its own process; nothing above imports it but the lab launcher)
"""

__version__ = "0.1.0"
