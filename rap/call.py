"""The values that user code and plug-ins see of a call.

A `Call` is the life of one RPC; a `Request` is one message from client to server, a `Response`
one from server to client.
"""

from collections.abc import Callable
from contextvars import ContextVar
from enum import Enum
from typing import Any, Protocol

from rap.address import Peer
from rap.clock import NEVER, SystemClock
from rap.errors import CallError

__all__ = [
    "FORWARDED",
    "UNTRACED",
    "UNTRACED_HEADER",
    "Call",
    "CallSource",
    "Header",
    "Request",
    "Response",
    "Side",
    "StreamType",
    "current",
    "method_path",
    "split_method",
]

# Header name to msgpack value; names that start with ":" are rap's own.
Header = dict[str, Any]
# Header of a call that is made for somebody on another machine, as a gateway does: private
# functions are hidden from it. Its value says for whom.
FORWARDED = "forwarded_for"
# Header of a call that is in no trace: an earlier hop has decided to keep none. Its value is true.
UNTRACED = ":untraced"
# A whole header that says only that. Calls share it, so it must not be changed.
UNTRACED_HEADER: Header = {UNTRACED: True}


class Side(Enum):
    """Which end of a connection this is."""

    CLIENT = "client"
    SERVER = "server"


class StreamType(Enum):
    """Who may send how many messages in a call."""

    UNARY = "unary"
    STREAM = "stream"
    CHANNEL = "channel"


def method_path(group: str, name: str) -> str:
    """Return the name of a function on the wire, ``/group/name``."""
    return f"/{group}/{name}"


def split_method(method: str) -> tuple[str, str]:
    """Return group and name of ``/group/name``."""
    group, _, name = method[1:].partition("/")
    return group, name


class Call:
    """The life of one RPC, on either side.

    Args:
        method: ``/group/name``.
        stream_type: How many messages each side may send.
        side: Which end this is.
        header: What the client sent when it opened the call.
        deadline: Seconds on the monotonic clock; `NEVER` without one.
        peer: The other end; on a client `None` until a connection was taken.
        affinity: On a client, the key whose calls keep to one node.
    """

    __slots__ = (
        "affinity",
        "attempt",
        "deadline",
        "header",
        "method",
        "on_attempt",
        "peer",
        "retried",
        "side",
        "state",
        "stream_type",
    )

    def __init__(
        self,
        method: str,
        stream_type: StreamType,
        side: Side,
        header: Header,
        deadline: float = NEVER,
        peer: Peer | None = None,
        affinity: str | None = None,
    ) -> None:
        self.method = method
        self.stream_type = stream_type
        self.side = side
        self.header = header
        self.deadline = deadline
        self.peer = peer
        self.affinity = affinity
        self.attempt = 1
        self.retried: CallError | None = None  # on a client: how the attempt before this one failed
        # On a client: told of each attempt, when it is known where that goes.
        self.on_attempt: tuple[Callable[[Call], None], ...] = ()
        self.state: dict[str, Any] = {}

    def start_attempt(self, number: int, peer: Peer) -> None:
        """Note on a client that an attempt goes to `peer`, and tell `on_attempt`.

        Args:
            number: 1 for the first attempt.
            peer: The server.
        """
        self.attempt = number
        self.peer = peer
        if self.on_attempt:
            for tell in self.on_attempt:
                tell(self)

    def retry_after(self, error: CallError) -> None:
        """Note on a client how an attempt failed, before the next one."""
        self.retried = error

    def mark_untraced(self) -> None:
        """Say in the header that the call is in no trace."""
        if self.header:
            self.header[UNTRACED] = True
        else:
            self.header = UNTRACED_HEADER

    def copy(self) -> "Call":
        """Return a call for a second attempt while the first is open.

        Header, deadline and observers are shared; `state` is a copy.
        """
        copy = Call(self.method, self.stream_type, self.side, self.header, self.deadline)
        copy.affinity = self.affinity
        copy.on_attempt = self.on_attempt
        copy.state = dict(self.state)
        return copy

    def settle(self, winner: "Call", attempts: int) -> None:
        """Take peer and state of the attempt that was answered.

        Args:
            winner: The call itself or a `copy` of it.
            attempts: How many attempts there were.
        """
        self.attempt = attempts
        self.peer = winner.peer
        self.state = winner.state

    def __repr__(self) -> str:
        text = f"<Call {self.method} {self.stream_type.value}"
        if self.deadline != NEVER:
            left = self.deadline - SystemClock.monotonic()
            text += f", deadline in {left:.1f} s" if left > 0 else ", deadline passed"
        return f"{text}>"


class _Message:
    """Header and body of one message, and the call it belongs to."""

    __slots__ = ("body", "call", "header")

    def __init__(self, call: Call, body: Any = None, header: Header | None = None) -> None:
        self.call = call
        self.body = body
        self.header: Header = {} if header is None else header

    @property
    def method(self) -> str:
        """``/group/name`` of the function."""
        return self.call.method

    @property
    def group(self) -> str:
        """Group of the function."""
        return split_method(self.call.method)[0]

    @property
    def func_name(self) -> str:
        """Name of the function."""
        return split_method(self.call.method)[1]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.method!r}, header={self.header!r}, body={self.body!r})"


class Request(_Message):
    """One message from client to server.

    The body of the first message of a unary or generator call is the list of arguments.
    """

    __slots__ = ()


class Response(_Message):
    """One message from server to client."""

    __slots__ = ()


class CallSource(Protocol):
    """What a running handler's context holds: enough to make its `Call` when somebody asks."""

    deadline: float

    @property
    def header(self) -> Header:
        """What the client sent when it opened the call; not to be changed."""

    def request(self) -> Request:
        """Return the request being served."""


# The call whose handler runs in this context. Holding the source, not a `Call`, makes a call
# that nobody asks about cost nothing.
current: ContextVar[CallSource | None] = ContextVar("rap_current_call", default=None)
