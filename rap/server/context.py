"""The call of the current task or thread: `context.call`, `context.request`, `context.session`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rap.address import Peer
from rap.call import Call, Request, current

if TYPE_CHECKING:
    call: Call
    request: Request
    session: "Session | None"

__all__ = ["Session", "call", "request", "session"]


@dataclass(frozen=True, slots=True, repr=False)
class Session:
    """A session of a client: all calls with its id come over one connection.

    Args:
        id: The id that the client chose.
        peer: The client.
    """

    id: str
    peer: Peer | None

    def __repr__(self) -> str:
        return f"<Session {self.id} of {self.peer}>" if self.peer else f"<Session {self.id}>"


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    source = current.get()
    if source is None:
        raise RuntimeError(f"context.{name} is available only while a handler runs")
    found = source.request()
    if name == "request":
        return found
    if name == "call":
        return found.call
    session_id = found.call.header.get("session_id")
    return Session(str(session_id), found.call.peer) if session_id is not None else None
