"""Runs a program that is killed when the process that started it dies.

This module is run as a script, ``python parent_death.py PID PROGRAM ARGUMENT…``: it asks Linux to
kill it with its parent (PR_SET_PDEATHSIG of prctl(2)), and then becomes the program. On other
systems the program outlives its parent.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

__all__ = ["become", "dying_with_parent"]

_PR_SET_PDEATHSIG = 1


def dying_with_parent(program: Sequence[str]) -> list[str]:
    """Return a command line that runs a program until it ends or this process dies."""
    return [sys.executable, "-I", __file__, str(os.getpid()), *program]


def become(parent: int, program: Sequence[str]) -> None:
    """Replace this process with `program`, which is killed when the process `parent` dies.

    Raises:
        OSError: The program cannot be run.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call of prctl
            raise SystemExit(1)
    os.execv(program[0], list(program))


if __name__ == "__main__":
    become(int(sys.argv[1]), sys.argv[2:])
