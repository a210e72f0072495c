"""FreeBSD images that are booted for a run: a process of its own that holds the machine and its power switch."""
