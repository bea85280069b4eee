"""Tells systemd that the servers of ``rap serve`` listen (``Type=notify``, sd_notify(3)).

A separate module, because a single server and the parent of workers both tell it.
"""

import logging
import os
import socket

__all__ = ["notify_ready"]

_log = logging.getLogger("rap.server")


def notify_ready() -> None:
    """Tell the service manager that clients can call, if there is one that asks for it.

    It is told only once, and processes that are started later do not get its address.
    """
    address = os.environ.pop("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # the name of an abstract socket
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.sendto(b"READY=1", address)
    except OSError as exc:
        _log.warning("NOTIFY_SOCKET: cannot tell the service manager: %s", exc)
