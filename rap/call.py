"""The values of a call that user code and processors see.

A `Call` is one RPC from start to end. A `Request` is one message from client to server, a
`Response` is one message from server to client.
"""

from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from enum import Enum
from typing import Any, Protocol

from rap.address import Peer
from rap.clock import MAX_MARGIN, NEVER, SystemClock
from rap.errors import CallError, Code, DeadlineExceeded
from rap.foreign import one_line
from rap.misuse import OptionTypeError

__all__ = [
    "CALL_OPTIONS",
    "DEFAULT_GROUP",
    "DEFAULT_PRIORITY",
    "FORWARDED",
    "HEADER_DETAIL",
    "PRIORITIES",
    "PRIORITY",
    "RESULT",
    "TRAILER",
    "UNTRACED",
    "UNTRACED_HEADER",
    "Call",
    "CallSource",
    "Encoded",
    "Header",
    "Request",
    "Response",
    "Side",
    "StreamType",
    "canonical_group",
    "check_priority",
    "current",
    "method_path",
    "running_call",
    "split_method",
]

# Options of a call that a stub takes as keyword arguments. A parameter of the function that has the
# same name comes first.
CALL_OPTIONS = ("session", "timeout", "header", "affinity", "wait_for_ready", "priority")
DEFAULT_GROUP = "default"  # of functions for which no group is named
Encoded = bytes | memoryview  # one msgpack value
# Header name to msgpack value; names that start with ":" are rap's own.
Header = dict[str, Any]
# Header of a call that is made on behalf of another machine, as a gateway does. Private functions
# are hidden from such a call. The value names the machine.
FORWARDED = "forwarded_for"
# Header of a call that is not traced because the trace of its caller was not sampled; always true.
UNTRACED = ":untraced"
# A whole header that says only that. Calls share it, so it must not be changed.
UNTRACED_HEADER: Header = {UNTRACED: True}
# Header of the priority of a call, which is one of these, the highest first. A call without it has
# the default of its function. An overloaded server refuses the lowest first.
PRIORITY = ":priority"
PRIORITIES = ("critical", "default", "sheddable")
DEFAULT_PRIORITY = PRIORITIES.index("default")
# Headers of the outcome of a call (PROTOCOL.md §8.5). RESULT marks the message of a channel that is
# the result of the server's function, and MESSAGES_END the end of its messages if the function has
# not returned. TRAILER holds what the server says when the call ends, as a map. A Reset has no
# header, so header and trailer of a failed call are in its details, as HEADER_DETAIL and TRAILER.
RESULT = ":result"
MESSAGES_END = ":end"
TRAILER = ":trailer"
HEADER_DETAIL = ":header"


class Side(Enum):
    """An end of a connection."""

    CLIENT = "client"
    SERVER = "server"


class StreamType(Enum):
    """How many messages each side of a call may send.

    Attributes:
        client_streams: Whether the client may send more than one message.
        server_streams: Whether the server may send more than one message.
    """

    UNARY = "unary"  # one request, one response
    STREAM = "stream"  # one request, any number of responses
    CLIENT_STREAM = "client_stream"  # any number of requests, one response
    BIDI = "bidi"  # any number of requests, any number of responses
    CHANNEL = "channel"  # any number of messages both ways, and one result

    client_streams: bool
    server_streams: bool

    def __init__(self, _: str) -> None:
        self.client_streams = self.name in ("CLIENT_STREAM", "BIDI", "CHANNEL")
        self.server_streams = self.name in ("STREAM", "BIDI", "CHANNEL")


def check_priority(value: object, option: str) -> None:
    """Check the name of a priority.

    Raises:
        ValueError: There is no such priority; the message names the option.
    """
    if value not in PRIORITIES:
        kind = ValueError if isinstance(value, str) else OptionTypeError
        raise kind(f"{option} must be one of {', '.join(PRIORITIES)}, got {value!r}")


def canonical_group(group: str | None) -> str:
    """Return the only name of a group: `None` and an empty string mean `DEFAULT_GROUP`.

    Whatever depends on a group, such as a filter, has to see this name.
    """
    return group or DEFAULT_GROUP


def method_path(group: str | None, name: str) -> str:
    """Return the method of a function, ``/group/name``; see `canonical_group`."""
    return f"/{canonical_group(group)}/{name}"


def split_method(method: str) -> tuple[str, str]:
    """Return the group and the name in ``/group/name``."""
    group, _, name = method[1:].partition("/")
    return group, name


_MAX_CAUSE = 500  # characters of the error of the first attempt
# A gateway does not show their texts, which may name servers.
_OF_THE_NETWORK = (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)


class Call:
    """One RPC, on either side.

    Args:
        method: ``/group/name``.
        stream_type: How many messages each side may send.
        side: Which end this is.
        header: The header that the client sent when it opened the call.
        deadline: Seconds on the monotonic clock; `NEVER` without a deadline.
        peer: The other end; on a client `None` until a connection is picked.
        affinity: On a client, the key whose calls go to one node, or `None`.
        wait_for_ready: On a client, how long the call waits for a server; see `Client`.

    Attributes:
        answer: On a client, what has header and trailer of the answer: the meta of its frame, or
            the map of a Reset; empty before.
        attempt: The number of the attempt, from 1.
        retried: On a client, the error of the attempt before this one, or `None`.
        first_failed, first_sent: How the first attempt failed, and when it was sent; unset until
            there is another one.
        on_attempt: On a client, the observers of attempts; see `observe_attempts`.
        state: A place for processors to keep values of the call.
    """

    __slots__ = (
        "affinity",
        "answer",
        "attempt",
        "deadline",
        "first_failed",
        "first_sent",
        "header",
        "method",
        "on_attempt",
        "peer",
        "retried",
        "side",
        "state",
        "stream_type",
        "wait_for_ready",
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
        wait_for_ready: bool | float | None = None,
    ) -> None:
        self.method = method
        self.stream_type = stream_type
        self.side = side
        self.header = header
        self.deadline = deadline
        self.peer = peer
        self.affinity = affinity
        self.wait_for_ready = wait_for_ready
        self.answer: bytes | Header = b""
        self.attempt = 1
        self.retried: CallError | None = None
        self.first_failed: CallError
        self.first_sent: float
        self.on_attempt: tuple[Callable[[Call], None], ...] = ()
        self.state: dict[str, Any] = {}

    def observe_attempts(self, observer: Callable[["Call"], None]) -> None:
        """Call `observer` for each attempt on a client, once its connection is known."""
        self.on_attempt = (*self.on_attempt, observer)

    def start_attempt(self, number: int, peer: Peer, now: float) -> None:
        """Record on a client that an attempt goes to `peer`, and notify the observers.

        Args:
            number: 1 for the first attempt.
            peer: The server.
            now: Seconds on the monotonic clock.

        Raises:
            DeadlineExceeded: It is too late for an attempt.
        """
        if self.deadline <= now:
            text = f"{self.method}: the deadline passed before it was sent"
            error = DeadlineExceeded(text, unserved=True)
            self.explain_attempts(error, number, now)
            raise error
        self.attempt = number
        self.peer = peer
        if self.on_attempt:
            for tell in self.on_attempt:
                tell(self)

    def retry_after(self, error: CallError, sent: float) -> None:
        """Record on a client how an attempt failed, before the next one.

        Args:
            error: How it failed.
            sent: When it was sent, in seconds on the monotonic clock.
        """
        if self.retried is None:
            self.first_failed, self.first_sent = error, sent
        self.retried = error

    def explain_attempts(self, error: CallError, number: int, now: float) -> None:
        """Make the error of a call that was retried tell of its earlier attempts.

        The last one may have had little of the time of the call, so that its error alone misleads.
        What a handler has said stays as it is: then this is a note.

        Args:
            error: How the call failed.
            number: The number of the last attempt.
            now: Seconds on the monotonic clock.
        """
        if self.retried is None:
            return
        text = f"this was attempt {number}, {now - self.first_sent:.3g} s after the first was sent"
        first = one_line(self.first_failed, _MAX_CAUSE)
        if first not in one_line(error):
            text += f", which failed: {first}"
        if error.code in _OF_THE_NETWORK:
            error.restate(f"{error.message}; {text}")
        else:
            error.add_note(text)

    def set_answer(self, meta: bytes | Header) -> None:
        """Keep on a client what has header and trailer of the answer."""
        self.answer = meta

    def mark_untraced(self) -> None:
        """Say in the header that the call is not traced."""
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
        copy.wait_for_ready = self.wait_for_ready
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
    """The header and the body of one message, and the call it belongs to.

    A body that is still encoded is decoded when it is read for the first time.

    Args:
        call: The call.
        body: The decoded body.
        header: The header.
        encoded: The encoded body, instead of `body`.
        decode: Decodes `encoded`.
    """

    __slots__ = ("_body", "_decode", "_encoded", "call", "header")

    def __init__(
        self,
        call: Call,
        body: Any = None,
        header: Header | None = None,
        encoded: Encoded | None = None,
        decode: Callable[[Encoded], Any] = bytes,
    ) -> None:
        self.call = call
        self.header: Header = {} if header is None else header
        self._body = body
        self._encoded = encoded
        self._decode = decode

    @property
    def body(self) -> Any:
        """The decoded body. Reading it for the first time may raise a `CallError`."""
        if self._encoded is not None:
            self._body = self._decode(self._encoded)
            self._encoded = None
        return self._body

    @body.setter
    def body(self, value: Any) -> None:
        self._body = value
        self._encoded = None

    @property
    def encoded(self) -> Encoded | None:
        """The encoded body, or `None` if the body was read or set."""
        return self._encoded

    def set_encoded(self, encoded: Encoded, decode: Callable[[Encoded], Any]) -> None:
        """Replace the body by one that is decoded when it is read, if ever.

        Args:
            encoded: The new body, encoded.
            decode: Decodes it; may raise a `CallError`.
        """
        self._encoded, self._decode = encoded, decode

    @property
    def method(self) -> str:
        """The method, ``/group/name``."""
        return self.call.method

    @property
    def group(self) -> str:
        """The group of the function."""
        return split_method(self.call.method)[0]

    @property
    def func_name(self) -> str:
        """The name of the function."""
        return split_method(self.call.method)[1]

    def __repr__(self) -> str:
        encoded = self.encoded
        body = repr(self.body) if encoded is None else f"<{len(encoded)} encoded bytes>"
        return f"{type(self).__name__}({self.method!r}, header={self.header!r}, body={body})"


class Request(_Message):
    """One message from client to server.

    The body of the first message of a unary or generator call is the list of arguments.
    """

    __slots__ = ()


class Response(_Message):
    """One message from server to client."""

    __slots__ = ()


_INHERITED = MAX_MARGIN + 1e-6  # seconds; times are floats


class CallSource(Protocol):
    """The call of a running handler, whose `Call` object is made on demand."""

    deadline: float

    @property
    def method(self) -> str:
        """The function, as ``/group/name``."""
        ...

    @property
    def priority(self) -> int:
        """Index of its priority in `PRIORITIES`."""
        ...

    @property
    def header(self) -> Header:
        """The header that the client sent when it opened the call. Do not change it."""
        ...

    @property
    def draining(self) -> bool:
        """Whether the server asks its client to make new calls elsewhere."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether its handler has ended. A task that the handler has left behind goes on."""
        ...

    def excuse(self) -> None:
        """Note that the handler waits for a server that is away, so it may be late."""
        ...

    def keep_thread(self, running: "Future[Any]") -> None:
        """Remember that the handler goes on in a thread, though its task was cancelled."""
        ...

    def request(self) -> Request:
        """Return the request being served."""
        ...

    def set_header(self, name: str, value: Any) -> None:
        """Set a value in the header of the response."""
        ...

    def set_trailer(self, name: str, value: Any) -> None:
        """Set a value in the trailer of the response."""
        ...


# The call whose handler runs in this context. It holds the source instead of a `Call`, so that a
# call costs nothing if its handler does not ask for it.
current: ContextVar[CallSource | None] = ContextVar("rap_current_call", default=None)


def running_call() -> CallSource | None:
    """Return the call whose handler runs in this context; `None` if there is none.

    A task that outlives the handler by which it was started has its context, but serves no call: it
    inherits neither deadline nor anything else.
    """
    source = current.get()
    return None if source is None or source.is_over else source


def inherited_from(deadline: float) -> str:
    """Return the running call whose deadline a call made here has; empty if it has its own."""
    outer = running_call()
    if outer is None or deadline == NEVER or not 0 <= outer.deadline - deadline <= _INHERITED:
        return ""
    return outer.method
