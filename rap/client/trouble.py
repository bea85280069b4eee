"""What is wrong when no server takes a call, for the error that says so."""

import asyncio
from collections.abc import Collection
from itertools import islice

from rap.client.node import Node
from rap.errors import Unauthenticated, Unavailable

__all__ = ["closed", "denial_of", "waited", "why_none"]

_MOST_TOLD = 10  # of very many nodes nobody reads more


def why_none(
    service: str, nodes: Collection[Node], known: bool, max_in_flight: int, trouble: str
) -> str:
    """Return one sentence on what is wrong with each node; of many, with the first ones.

    Args:
        service: Its name; empty for a list of addresses.
        nodes: All that there are.
        known: The registry has answered.
        max_in_flight: Unary calls that one may have.
        trouble: What the registry says is wrong with it.
    """
    of = f" of service {service!r}" if service else ""
    if not nodes:
        why = "the registry lists none" if known else "the registry has not answered"
        return f"no server{of}: {why}" + (f": {trouble}" if trouble else "")
    parts = []
    for node in islice(nodes, _MOST_TOLD):
        full = node.stats.in_flight >= max_in_flight
        why = "its max_in_flight is reached" if full else f"{node.state}: {node.pool.error}"
        parts.append(f"{node.key} ({why})")
    if len(nodes) > _MOST_TOLD:
        parts.append(f"and {len(nodes) - _MOST_TOLD} more")
    return f"no usable server{of}: " + "; ".join(parts)


def closed(loop: asyncio.AbstractEventLoop) -> Unavailable:
    """Return the error of a call that finds the client closed, by its user or with its loop."""
    text = "the client was closed"
    if loop.is_closed():
        text += " with the event loop that it was connected in: keep it to one asyncio.run()"
    return Unavailable(text, unserved=True)


def waited(seconds: float, *, is_call: bool) -> str:
    """Return how long somebody waited for a server, and which timeout ended that.

    Args:
        seconds: How long.
        is_call: The deadline of a call had come.
    """
    which = "the timeout of the call" if is_call else "option connect_timeout"
    return f"waited {round(max(seconds, 0.0), 3):g} s ({which})"


def denial_of(nodes: Collection[Node]) -> Unauthenticated | None:
    """Return why no server takes this client, if that is what all of them say."""
    denials = [node.pool.denial for node in nodes]
    return denials[0] if all(denials) and denials else None
