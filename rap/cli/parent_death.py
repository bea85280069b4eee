"""Become another program that dies with the one that started it.

It is run as a script, ``python tied.py program argument…``, between a parent and a program that
knows nothing of its parent, and costs nothing once the program runs. Linux tells of the death of
the parent (prctl(2), PR_SET_PDEATHSIG); elsewhere the program runs untied.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

__all__ = ["become", "tied_command"]

_PR_SET_PDEATHSIG = 1


def tied_command(program: Sequence[str]) -> list[str]:
    """Return the command line that runs a program tied to the caller."""
    return [sys.executable, "-I", __file__, str(os.getpid()), *program]


def become(parent: int, program: Sequence[str]) -> None:
    """Replace this process by `program`, killed when the process `parent` is no more.

    Raises:
        OSError: The program cannot be run.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the kernel was asked
            raise SystemExit(1)
    os.execv(program[0], list(program))


if __name__ == "__main__":
    become(int(sys.argv[1]), sys.argv[2:])
