"""What a forked child does with the sockets that it inherits: it lets go of them.

A child has copies of all descriptors. As long as it lives, the peer of a connection does not see
that its parent has closed it or has died, and an address that the parent listened on stays in use.
Python closes nothing in a child that does not execute another program, such as a worker of a
`ProcessPoolExecutor`.

The descriptors are replaced with the null device instead of being closed. Objects of the parent
that the child has copies of then do no harm when they use or close these numbers.
"""

import contextlib
import os
from collections.abc import Callable
from typing import Protocol
from weakref import WeakSet

__all__ = ["SocketHolder", "let_go_in_children", "replace_descriptors"]


class SocketHolder(Protocol):
    """An object that has sockets."""

    def let_go(self) -> list[int]:
        """In a forked child, return the descriptors to release, and use them no more."""
        ...


_holders: "WeakSet[SocketHolder]" = WeakSet()


let_go_in_children: Callable[[SocketHolder], None] = _holders.add
"""Let forked children release the sockets of an object, as long as it lives."""


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
    descriptors = [each for holder in holders for each in holder.let_go()]
    if descriptors:
        replace_descriptors(descriptors)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
