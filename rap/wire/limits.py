"""The limits of one side, which it sends to the peer in its Hello (PROTOCOL.md §5)."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from rap.errors import ResourceExhausted

__all__ = ["BOUNDS", "DEFAULT_LIMITS", "Limits", "PeerLimits", "no_room", "without_limits"]

_KIB = 1024
_MIB = 1024 * 1024
_REQUESTS = 16  # default of `max_requests`, in messages of the largest size
_MESSAGES = 8  # default of `max_unfinished`, in messages of the largest size


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of one side of a connection.

    Args:
        max_frame: Bytes of meta and body in one frame. A longer one ends the connection before its
            body is read. 16 KiB to 64 MiB.
        max_message: Bytes of one message, in any number of frames. A longer one resets its call.
            1 KiB to 2 GiB.
        max_streams: Number of calls that the peer may have open. 1 to 2^20.
        stream_window: Bytes that the peer may send on one stream before user code takes a message.
            64 KiB to 1 GiB.
        connection_window: Bytes that the peer may send on all streams together; at least
            `stream_window`.
        max_unfinished: Total bytes of partially received messages. A call that would exceed it is
            reset. At least `max_message`; `None`: eight times that.
        max_requests: Total bytes of the requests above 16 KiB of open calls. A call that would
            exceed it is reset. At least `max_message`; `None`: sixteen times that.
        max_backlog: Bytes of messages that wait to be sent. Above it a server begins no call of the
            client. 1 MiB to 2^40.
        fragment: Bytes of the frames into which this side splits a large message. 1 KiB to 16 MiB.
    """

    max_frame: int = _MIB
    max_message: int = 16 * _MIB
    max_streams: int = 16384
    stream_window: int = _MIB
    connection_window: int = 8 * _MIB
    max_unfinished: int | None = None
    max_requests: int | None = None
    max_backlog: int = 64 * _MIB
    fragment: int = 128 * _KIB

    def __post_init__(self) -> None:
        """Check every value against its bounds."""
        for name, (low, high) in BOUNDS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{name} must be an integer from {low} to {high}, got {value!r}")
        if self.connection_window < self.stream_window:
            raise ValueError(
                f"connection_window must be at least stream_window ({self.stream_window}), "
                f"got {self.connection_window}"
            )
        for name in ("max_unfinished", "max_requests"):
            most, least = getattr(self, name), self.max_message
            if most is not None and (
                isinstance(most, bool) or not isinstance(most, int) or most < least
            ):
                raise ValueError(f"{name} must be at least max_message ({least}), got {most!r}")

    @property
    def most_unfinished(self) -> int:
        """`max_unfinished` in bytes, with its default applied."""
        most = self.max_unfinished
        return _MESSAGES * self.max_message if most is None else most

    @property
    def most_requests(self) -> int:
        """`max_requests` in bytes, with its default applied."""
        most = self.max_requests
        return _REQUESTS * self.max_message if most is None else most

    def to_hello(self) -> dict[str, int]:
        """Return the limits that the Hello has."""
        return {name: getattr(self, name) for name in _TOLD}


BOUNDS = {
    "max_frame": (16 * _KIB, 64 * _MIB),
    "max_message": (_KIB, 2**31),
    "max_streams": (1, 2**20),
    "stream_window": (64 * _KIB, 2**30),
    "connection_window": (64 * _KIB, 2**30),
    "max_backlog": (_MIB, 2**40),
    "fragment": (_KIB, 16 * _MIB),
}
_TOLD = ("max_frame", "max_message", "max_streams", "stream_window", "connection_window")
DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class PeerLimits:
    """The limits of the peer; the defaults hold until its Hello has arrived."""

    max_frame: int = 16 * _KIB
    max_message: int = 16 * _MIB
    max_streams: int = 16384
    stream_window: int = 64 * _KIB
    connection_window: int = 64 * _KIB

    @classmethod
    def from_hello(cls, content: Mapping[str, Any]) -> "PeerLimits":
        """Return the limits of a Hello; a limit that it leaves out keeps its default.

        Raises:
            ValueError: A value is out of bounds; the message names it.
        """
        values: dict[str, int] = {}
        for each in fields(cls):
            value = content.get(each.name, getattr(_BEFORE_HELLO, each.name))
            low, high = BOUNDS[each.name]
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"Hello: {each.name} must be {low} to {high}, got {value!r}")
            values[each.name] = value
        return _shared(cls(**values))


@functools.lru_cache(maxsize=64)
def _shared(limits: PeerLimits) -> PeerLimits:
    """Return one object for all peers with the same limits, as most have."""
    return limits


def without_limits(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a Hello without limits and version."""
    return {name: value for name, value in content.items() if name not in _KNOWN}


_KNOWN = {"rap", *_TOLD}
_BEFORE_HELLO = PeerLimits()


def no_room(calls: int, most: int, used_up: bool) -> ResourceExhausted:
    """Return the error of a call that a connection has no stream for.

    Args:
        calls: Number of open calls.
        most: Number of open calls that the peer allows.
        used_up: No stream id is left.
    """
    if used_up:
        return ResourceExhausted("the connection has used up its stream ids", unserved=True)
    what = f"the connection has {calls} calls open; the server allows {most}"
    return ResourceExhausted(what, details={"limit": "max_streams"}, unserved=True)
