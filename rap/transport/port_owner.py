"""Finds out who listens on a port, for the error of a server that cannot.

Linux says in `/proc/net` which socket listens on a port, and in `/proc/PID/fd` which process has
the socket open. Elsewhere, or for processes of other users, nothing is found.
"""

import os
import re
from pathlib import Path

from rap.foreign import one_line

__all__ = ["owner_of_port"]

_LISTENS = "0A"  # TCP_LISTEN of the kernel, as /proc/net/tcp shows it
_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_MAX_NAME = 15  # characters that Linux keeps


def owner_of_port(port: int) -> str:
    """Return the process that listens on a TCP port of this machine, such as ``process 7 (nginx)``.

    It is ``another process`` if it cannot be found.
    """
    try:
        sockets = {f"socket:[{inode}]" for inode in _listening(port)}
        for process in Path("/proc").iterdir() if sockets else ():
            if process.name.isdigit() and _has_open(process, sockets):
                if int(process.name) == os.getpid():
                    return "this process"
                return f"process {process.name} ({_command(process)})"
    except OSError:  # there is no /proc
        pass
    return "another process"


def _listening(port: int) -> list[str]:
    """Return the inodes of the sockets that listen on a port."""
    found = []
    for table in filter(os.path.exists, _TABLES):
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == _LISTENS and int(local.rpartition(":")[2], 16) == port:
                found.append(rest[5])
    return found


def _has_open(process: Path, sockets: set[str]) -> bool:
    try:
        return any(os.readlink(each) in sockets for each in (process / "fd").iterdir())
    except OSError:  # of another user, or it has ended
        return False


def _command(process: Path) -> str:
    """Return the name of a program; its arguments may be secret."""
    name = one_line((process / "comm").read_bytes().decode(errors="replace"), _MAX_NAME)
    return re.sub(r"[^\w .+-]", "?", name)
