"""What the system lets this process use: memory and descriptors.

The limits are read when the server starts to listen.
"""

import contextlib
import os
from collections.abc import Iterator

__all__ = [
    "default_max_connections",
    "default_max_memory",
    "memory_in_use",
    "return_freed_memory",
]

_LEAST_MEMORY = 32 * 1024 * 1024  # bytes; a smaller budget would refuse ordinary calls
_UNLIMITED = 1 << 60  # bytes from which on a limit of cgroup v1 means that there is none
_LEAST_RESERVE = 64  # descriptors
_RESERVED = 8  # one of so many descriptors is for other things than connections of clients
_FEWEST = 8  # connections, however low the limit is


def default_max_memory(processes: int = 1, *, root: str = "/") -> int:
    """Return the default of `Server(max_memory=)` in bytes.

    It is half of the memory that the control group of this process allows, or a quarter of the
    memory of the machine if that is less.

    Args:
        processes: Number of processes that share it.
        root: Where the files of the system are.
    """
    found = [limit // 2 for limit in _cgroup_limits(root)]
    machine = _machine_memory()
    if machine:
        found.append(machine // 4)
    return max(_LEAST_MEMORY, min(found, default=_UNLIMITED) // processes)


def memory_in_use() -> int:
    """Return the resident memory of this process in bytes; 0 if the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def return_freed_memory() -> None:
    """Return memory to the system that was freed but is kept for later; glibc only."""
    import ctypes  # most servers never need it

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def default_max_connections() -> tuple[int | None, str]:
    """Return how many connections the limit of descriptors has room for, and why.

    A reserve is left for health page, registry, calls of other servers and files: an eighth of the
    limit, 64 at least. `None` means that there is no limit.
    """
    try:
        import resource
    except ImportError:  # not on Windows
        return None, ""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return None, ""
    room = limit - _open_descriptors() - max(_LEAST_RESERVE, limit // _RESERVED)
    return max(_FEWEST, room), f"it may open {limit} files (ulimit -n, RLIMIT_NOFILE)"


def _open_descriptors() -> int:
    for path in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(os.listdir(path))
        except OSError:
            continue
    return 0


def _machine_memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0


def _cgroup_limits(root: str) -> Iterator[int]:
    """Yield the limits of the control groups of this process and those above, version 1 and 2."""
    try:
        with open(os.path.join(root, "proc/self/cgroup")) as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, name = "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, name = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # In a container the path may be that of the host, which is not there; its top always is.
        parts = [part for part in path.split("/") if part]
        for count in range(len(parts) + 1):
            yield from _limit_in(os.path.join(root, top, *parts[:count], name))


def _limit_in(path: str) -> Iterator[int]:
    try:
        with open(path) as file:
            text = file.read().strip()
    except OSError:
        return
    if text.isdecimal() and int(text) < _UNLIMITED:
        yield int(text)
