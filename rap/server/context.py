"""The call of the current task or thread.

`context.call`, `context.request`, `context.session` and `context.priority` say what is served.
`context.draining` becomes true when the server asks the client to make new calls elsewhere: it
stops, is out of rotation, or the connection is older than `max_connection_age`. A generator without
an end should end then. `context.set_header` and `context.set_trailer` set values for the response.
"""

from typing import TYPE_CHECKING, Any

from rap.address import Peer
from rap.call import PRIORITIES, Call, CallSource, Request, current
from rap.record import Record

if TYPE_CHECKING:

    class ServedCall(Call):
        """A call that is served: it has come from a peer."""

        peer: Peer

    call: ServedCall
    draining: bool
    priority: str
    request: Request
    session: "Session | None"

__all__ = [
    "Session",
    "call",
    "draining",
    "priority",
    "request",
    "session",
    "set_header",
    "set_trailer",
]

_VALUES = ("call", "draining", "priority", "request", "session")


class Session(Record, frozen=True):
    """A session of a client: all calls with its id come over one connection.

    Args:
        id: The id that the client chose.
        peer: The client.
    """

    id: str
    peer: Peer | None

    def __repr__(self) -> str:
        return f"<Session {self.id} of {self.peer}>" if self.peer else f"<Session {self.id}>"


def set_header(name: str, value: Any) -> None:
    """Set a value in the header of the response, before its first item or message is sent.

    Args:
        name: Any text that does not start with ``:``.
        value: Any value that msgpack can carry. All values together have at most 7 KiB; header and
            trailer together have at most 936 names and values.

    Raises:
        RuntimeError: No handler runs, or the response has begun.
        ValueError: The name or the value cannot be sent.
    """
    _source("set_header").set_header(name, value)


def set_trailer(name: str, value: Any) -> None:
    """Set a value in the trailer of the response, which is sent when the call ends.

    An error has a trailer too.

    Args:
        name: Any text that does not start with ``:``.
        value: Any value that msgpack can carry. All values together have at most 7 KiB; header and
            trailer together have at most 936 names and values.

    Raises:
        RuntimeError: No handler runs, or the response has ended.
        ValueError: The name or the value cannot be sent.
    """
    _source("set_trailer").set_trailer(name, value)


def _source(name: str) -> CallSource:
    source = current.get()
    if source is None:
        raise RuntimeError(
            f"context.{name} is available only while a handler runs; in a test, call the handler in"
            f" `with rap.testing.handler_call():`"
        )
    return source


def __getattr__(name: str) -> object:
    if name not in _VALUES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    source = _source(name)
    if name == "priority":
        return PRIORITIES[source.priority]
    if name == "draining":
        return source.draining
    found = source.request()
    if name == "request":
        return found
    if name == "call":
        return found.call
    session_id = found.call.header.get("session_id")
    return Session(str(session_id), found.call.peer) if session_id is not None else None
