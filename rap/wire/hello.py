"""The Hello, the first frame of each side: its limits and everything else it says (PROTOCOL.md §5).

`Limits` are those of this side, most of which its Hello has. `PeerLimits` are those of a peer.
"""

import functools
from collections.abc import Mapping
from typing import Any

from rap.foreign import one_line
from rap.record import Record
from rap.wire.codec import pack, unpack
from rap.wire.frames import HEADER, HELLO

__all__ = [
    "BOUNDS",
    "DEFAULT_LIMITS",
    "VERSIONS",
    "Limits",
    "PeerLimits",
    "Versions",
    "decode_hello",
    "hello_frame",
    "read_hello",
]

_KIB = 1024
_MIB = 1024 * 1024
_MAX_TEXT = 32  # characters of versions; a registry has them
_REQUESTS = 32  # default of `max_requests`, in messages of the largest size
_MAX_DEPTH = 2  # of a Hello: a map with scalars and arrays of them
_MAX_ELEMENTS = 64  # of a Hello; one of rap has some 35
_MESSAGES = 8  # default of `max_unfinished`, in messages of the largest size


class Versions(Record, frozen=True):
    """The versions of the protocol that one side speaks: all from the lowest to the highest."""

    low: int
    high: int

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"

    def common(self, other: "Versions") -> int | None:
        """Return the version that both sides use: the highest that both speak."""
        version = min(self.high, other.high)
        return version if version >= max(self.low, other.low) else None

    def to_hello(self) -> dict[str, int]:
        """Return what the Hello says."""
        return (
            {"rap": self.low} if self.low == self.high else {"rap": self.low, "rap_max": self.high}
        )

    @classmethod
    def of_hello(cls, content: Mapping[str, Any]) -> "Versions":
        """Return what a Hello says.

        Raises:
            ValueError: It is not two integers in order.
        """
        low = content.get("rap")
        high = content.get("rap_max", low)
        if type(low) is not int or type(high) is not int or not 1 <= low <= high:
            found = one_line(f"{low!r} and {high!r}")
            raise ValueError(f"Hello: rap and rap_max must be versions, got {found}")
        return cls(low, high)

    @classmethod
    def parse(cls, text: str) -> "Versions | None":
        """Return the versions that `str` has written; `None` for any other text."""
        low, dash, high = text.partition("-")
        high = high if dash else low
        is_written = len(text) <= _MAX_TEXT and low.isdecimal() and high.isdecimal()
        return cls(int(low), int(high)) if is_written else None


VERSIONS = Versions(1, 1)


class Limits(Record, frozen=True, kw_only=True):
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
            exceed it is reset. At least `max_message`; `None`: 32 times that.
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
        told = {name: getattr(self, name) for name in _TOLD}
        return {**told, "max_unfinished": self.most_unfinished}


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


class PeerLimits(Record, frozen=True):
    """The limits of the peer; the defaults hold until its Hello has arrived."""

    max_frame: int = 16 * _KIB
    max_message: int = 16 * _MIB
    max_streams: int = 16384
    stream_window: int = 64 * _KIB
    connection_window: int = 64 * _KIB
    max_unfinished: int | None = None


@functools.lru_cache(maxsize=64)
def _shared(limits: PeerLimits) -> PeerLimits:
    """Return one object for all peers with the same limits, as most have."""
    return limits


def hello_frame(content: Mapping[str, Any]) -> bytes:
    """Return the frame of a Hello."""
    body = pack(dict(content))
    return HEADER.pack(len(body), HELLO, 0, 0, 0) + body


def decode_hello(body: bytes) -> dict[str, Any]:
    """Return the content of a Hello, unchecked.

    Raises:
        ValueError: It is not a flat map with string keys and few elements.
    """
    content = unpack(body, max_depth=_MAX_DEPTH, max_elements=_MAX_ELEMENTS)
    if not isinstance(content, dict):
        raise ValueError(f"a Hello must be a map, got {type(content).__name__}")
    return content


def read_hello(content: Mapping[str, Any]) -> tuple[PeerLimits, dict[str, Any]]:
    """Return the limits of the peer's Hello, and what else it says besides its versions.

    A limit that it leaves out keeps its default.

    Raises:
        ValueError: A limit is out of bounds.
    """
    limits: dict[str, int] = {}
    rest: dict[str, Any] = {}
    for name, value in content.items():
        if name in _TOLD:
            low, high = BOUNDS[name]
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(
                    f"Hello: {name} must be {low} to {high}, got {one_line(repr(value))}"
                )
            limits[name] = value
        elif name == "max_unfinished":
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                found = one_line(repr(value))
                raise ValueError(f"Hello: {name} must be an integer from 1 on, got {found}")
            limits[name] = value
        elif name not in ("rap", "rap_max"):
            rest[name] = value
    return _shared(PeerLimits(**limits)), rest
