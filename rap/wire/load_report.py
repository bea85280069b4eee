"""The load report of a server, and its frame (PROTOCOL.md §3.8)."""

from math import isfinite
from typing import NamedTuple

from rap.wire.codec import pack, unpack_small
from rap.wire.frames import LOAD, Frame

__all__ = ["ASK_FOR_LOAD", "ServerLoad", "load_frame", "read_load"]

ASK_FOR_LOAD = Frame(LOAD, 0, 0).encode()
"""The frame by which a client requests a report."""


class ServerLoad(NamedTuple):
    """The load of a server, for all its clients together.

    Args:
        in_flight: Open calls.
        latency: Seconds that calls take with about as many open calls; `None`: unknown.
        util: CPU use of its process, 1.0 is one core; more than 1 with several threads.
        draining: The server asks for no new calls.
        clients: Open connections.
        calls: Calls that were opened so far; `None`: unknown, as of older servers.
    """

    in_flight: int
    latency: float | None = None
    util: float = 0.0
    draining: bool = False
    clients: int = 0
    calls: int | None = None


def load_frame(load: ServerLoad) -> bytes:
    """Return a report as the bytes of its frame."""
    return Frame(LOAD, 0, 0, b"", pack(load._asdict())).encode()


def read_load(body: bytes) -> ServerLoad:
    """Return the report in the body of a frame; unknown entries are ignored.

    Raises:
        ValueError: It is not a map, or has an invalid value.
    """
    content = unpack_small(body)
    if not isinstance(content, dict):
        raise ValueError(f"a load report must be a map, got {type(content).__name__}")
    known = {name: content[name] for name in ServerLoad._fields if name in content}
    load = ServerLoad(**{"in_flight": None, **known})
    for name, value in load._asdict().items():
        if not _fits(name, value):
            raise ValueError(f"a load report cannot have {name} {value!r}")
    return load


def _fits(name: str, value: object) -> bool:
    if name == "draining":
        return isinstance(value, bool)
    if name in ("latency", "calls") and value is None:
        return True
    kinds = int if name in ("in_flight", "clients", "calls") else int | float
    known = isinstance(value, kinds) and not isinstance(value, bool)
    return known and isfinite(value) and value >= 0  # type: ignore[arg-type,operator]  # a number
