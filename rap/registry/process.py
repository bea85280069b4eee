"""Marks of processes: whether the process that wrote a registration still runs.

A process that was killed leaves its registration behind until the lease expires. A new process at
the same address has to know that the former one is gone, or two servers with the same address by
mistake would replace each other for ever. It knows if both run on the same machine, in the same
namespace of process ids: the mark has the id of the process, and when that process was started.
"""

import os
from functools import cache
from hashlib import blake2s

__all__ = ["MARK", "has_ended", "process_mark"]

MARK = "process"
"""The name of the mark in `Endpoint.metadata`."""

_STATE, _START = 2, 21  # fields 3 and 22 of /proc/<pid>/stat (proc(5)), from 0
_ENDED = b"ZXx"  # states of a process that has ended, and that its parent may not know of yet


def process_mark() -> str:
    """Return the mark of this process; empty where there is none, as on systems without /proc."""
    try:
        return f"{_machine(os.getpid())}/{os.getpid()}/{_started(os.getpid())}"
    except (OSError, ValueError):
        return ""


def has_ended(mark: str) -> bool:
    """Return whether the process with this mark is known to have ended."""
    machine, _, process = mark.partition("/")
    pid, _, started = process.partition("/")
    try:
        if not (pid.isdigit() and started) or machine != _machine(os.getpid()):
            return False
        return _started(int(pid)) != started
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False


@cache
def _machine(_: int) -> str:
    """Return a hash that this boot of the machine and namespace of process ids has to itself.

    Args:
        _: Id of this process: a forked child may have another namespace.
    """
    with open("/proc/sys/kernel/random/boot_id", "rb") as file:
        boot = file.read()
    namespace = os.readlink("/proc/self/ns/pid").encode()
    return blake2s(boot + namespace, digest_size=8).hexdigest()


def _started(pid: int) -> str:
    """Return when a process was started, in clock ticks since the boot; empty if it has ended.

    Raises:
        FileNotFoundError: There is no such process.
    """
    with open(f"/proc/{pid}/stat", "rb") as file:
        head, _, rest = file.read().rpartition(b") ")  # the name before it may have anything
    fields = [b"", b"", *rest.split()]
    return "" if not head or fields[_STATE] in _ENDED else fields[_START].decode()
