"""What a forked child does with the sockets that it inherits: it lets go of them.

A child has copies of all descriptors. As long as it lives, the peer of a connection does not see
that its parent has closed it or has died, and an address that the parent listened on stays in use.
Python closes nothing in a child that does not execute another program, such as a worker of a
`ProcessPoolExecutor`.

The descriptors are replaced with the null device instead of being closed. Objects of the parent
that the child has copies of then do no harm when they use or close these numbers.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterable
from typing import Any, Protocol
from weakref import WeakSet

__all__ = [
    "ListeningServer",
    "ParentSocket",
    "SocketHolder",
    "descriptors_of",
    "descriptors_of_server",
    "let_go_in_children",
    "replace_descriptors",
]


class SocketHolder(Protocol):
    """An object that has sockets."""

    def let_go(self) -> list[int]:
        """In a forked child, return the descriptors to release, and use them no more."""
        ...


_holders: "WeakSet[SocketHolder]" = WeakSet()


let_go_in_children: Callable[[SocketHolder], None] = _holders.add
"""Let forked children release the sockets of an object, as long as it lives."""


class ParentSocket(socket.socket):
    """A socket that forked children release, for the time before it has a transport."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        let_go_in_children(self)

    def let_go(self) -> list[int]:
        """In a forked child, return the descriptor."""
        return [self.fileno()]


def descriptors_of(transport: asyncio.BaseTransport) -> list[int]:
    """Return the descriptor of the socket of a transport; none if it is closed."""
    sock = transport.get_extra_info("socket")
    return [] if sock is None else [sock.fileno()]


class ListeningServer(Protocol):
    """What listens on sockets, such as the server of an event loop."""

    @property
    def sockets(self) -> Iterable[Any]:
        """The sockets."""
        ...


def descriptors_of_server(server: ListeningServer) -> list[int]:
    """Return the descriptors that a server of an event loop listens on; none if it is closed.

    Args:
        server: That of uvloop has the methods of an `asyncio.Server`, but is none.
    """
    return [sock.fileno() for sock in server.sockets]


def replace_descriptors(descriptors: list[int]) -> None:
    """Replace descriptors with the null device."""
    null = os.open(os.devnull, os.O_RDWR)
    try:
        for each in descriptors:
            if each >= 0:
                with contextlib.suppress(OSError):
                    os.dup2(null, each, inheritable=False)
    finally:
        os.close(null)


def _after_fork() -> None:
    holders = list(_holders)
    _holders.clear()
    descriptors: list[int] = []
    errors: list[Exception] = []
    for holder in holders:
        try:
            descriptors += holder.let_go()
        except Exception as exc:  # the sockets of the others are released all the same
            errors.append(exc)
    if descriptors:
        replace_descriptors(descriptors)
    if errors:
        raise ExceptionGroup("some sockets of the parent process are kept", errors)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
