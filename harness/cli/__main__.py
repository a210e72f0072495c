"""``python -m harness.cli``: the same as ``vmmcheck``."""

from harness.cli import main

main()
