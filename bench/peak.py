"""`python -m bench.peak COMMAND...`: runs a command and prints its largest resident size in bytes.

A process of its own, and a small one: a system counts what its parent held before a program began.
"""

from __future__ import annotations

import os
import sys


def main(command: list[str]) -> int:
    """The exit code of the command, whose output goes to nowhere."""
    nowhere = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
    number = os.posix_spawnp(command[0], command, os.environ, file_actions=[nowhere])
    _, status, usage = os.wait4(number, 0)
    print(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
