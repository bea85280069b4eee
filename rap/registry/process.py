"""Marks of processes: whether the process that wrote a registration still runs.

A process that was killed leaves its registration behind until the lease expires. A new process at
the same address has to know that the former one is gone, or two servers with the same address by
mistake would replace each other for ever. Clients do not dial the former one, and watchers see it
as SUSPECT. All of them know if they run on the same machine, in the same namespace of process ids:
the mark has the id of the process, and when that process was started.
"""

import os
from functools import cache
from hashlib import blake2s

from rap.registry.base import Snapshot
from rap.registry.self_preservation import as_seen

__all__ = ["MARK", "has_ended", "process_mark", "suspect_ended", "without_ended"]

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
        return not _is_hidden(int(pid))
    except (OSError, ValueError):
        return False


def suspect_ended(snapshot: Snapshot) -> Snapshot:
    """Return a snapshot in which endpoints of processes that have ended are SUSPECT, not UP."""
    ended = _ended_marks(snapshot)
    if not ended:
        return snapshot
    return {
        key: as_seen(endpoint, 0.0) if endpoint.metadata.get(MARK, "") in ended else endpoint
        for key, endpoint in snapshot.items()
    }


def without_ended(snapshot: Snapshot) -> Snapshot:
    """Return a snapshot without the endpoints of processes that are known to have ended."""
    ended = _ended_marks(snapshot)
    if not ended:
        return snapshot
    return {
        key: endpoint
        for key, endpoint in snapshot.items()
        if endpoint.metadata.get(MARK, "") not in ended
    }


def _ended_marks(snapshot: Snapshot) -> set[str]:
    marks = {endpoint.metadata.get(MARK, "") for endpoint in snapshot.values()}
    return {mark for mark in marks if has_ended(mark)}  # a process may have many servers


def _is_hidden(pid: int) -> bool:
    """Return whether a process runs that /proc does not show, as it may be mounted (proc(5))."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # it runs, but belongs to another user
    return True


@cache
def _machine(_: int) -> str:
    """Return a hash that this boot of the machine and namespace of process ids has to itself.

    Args:
        _: Id of this process: a forked child may have another namespace.

    Raises:
        OSError: There is no /proc, or it is that of another namespace.
    """
    if os.readlink("/proc/self") != str(os.getpid()):
        raise OSError("/proc has the process ids of another namespace")
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
