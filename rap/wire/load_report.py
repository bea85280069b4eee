"""A server's report of its load, as it travels (PROTOCOL.md §3.8)."""

from math import isfinite
from typing import NamedTuple

from rap.wire.codec import pack, unpack
from rap.wire.frames import LOAD, Frame

__all__ = ["ASK_FOR_LOAD", "ServerLoad", "load_frame", "read_load"]

ASK_FOR_LOAD = Frame(LOAD, 0, 0).encode()
"""What a client sends to have a report now."""


class ServerLoad(NamedTuple):
    """How loaded a server is, for all its clients together.

    Args:
        in_flight: Calls that are open.
        latency: Seconds that calls took which came when about as many were open; `None`: unknown.
        util: Share of one processor that it uses; more than 1 with several threads.
        draining: New calls are not welcome.
        clients: Connections that are open.
    """

    in_flight: int
    latency: float | None = None
    util: float = 0.0
    draining: bool = False
    clients: int = 0


def load_frame(load: ServerLoad) -> bytes:
    """Return the frame of a report."""
    return Frame(LOAD, 0, 0, b"", pack(load._asdict())).encode()


def read_load(body: bytes) -> ServerLoad:
    """Return what a report says; entries that are not known are ignored.

    Raises:
        ValueError: It is no such map.
    """
    content = unpack(body)
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
    if name == "latency" and value is None:
        return True
    kinds = int if name in ("in_flight", "clients") else int | float
    known = isinstance(value, kinds) and not isinstance(value, bool)
    return known and isfinite(value) and value >= 0  # type: ignore[arg-type,operator]  # a number
