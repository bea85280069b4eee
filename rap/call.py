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
# Header of a call that is in no trace: somebody before has decided to keep none. Its value is true.
UNTRACED = ":untraced"


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
    ) -> None:
        self.method = method
        self.stream_type = stream_type
        self.side = side
        self.header = header
        self.deadline = deadline
        self.peer = peer
        self.affinity: str | None = None  # on a client: key whose calls keep to one node
        self.attempt = 1
        self.retried: CallError | None = None  # on a client: how the attempt before this one failed
        # On a client: told of each attempt, when it is known where that goes.
        self.on_attempt: tuple[Callable[[Call], None], ...] = ()
        self.state: dict[str, Any] = {}

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
