"""``python -m harness.trouble.board SOCKET on|off|status|console``: a board controller's client, as a lab has one."""

from __future__ import annotations

import sys
from pathlib import Path

from harness.lab.power import SimulatedPower


def main() -> int:
    board, verb = SimulatedPower(Path(sys.argv[1])), sys.argv[2]
    match verb:
        case "on":
            board.on()
        case "off":
            board.off()
        case "status":
            print(f"Chassis power is {'on' if board.is_on() else 'off'}")
        case "console":
            print(board.console(), end="")
        case _:
            print(f"'{verb}' is none of on, off, status, console", file=sys.stderr)
            return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
