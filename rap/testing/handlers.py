"""Unit tests of handlers: `rap.context` says what the test says."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from rap.address import Peer
from rap.call import (
    DEFAULT_PRIORITY,
    PRIORITIES,
    Call,
    Header,
    Request,
    Side,
    StreamType,
    check_priority,
    current,
    method_path,
)
from rap.clock import Clock, clock_of, deadline_after
from rap.server.dispatch import ResponseMetadata

__all__ = ["HandlerCall", "handler_call"]


@contextmanager
def handler_call(
    name: str = "handler",
    args: Sequence[Any] = (),
    *,
    group: str | None = None,
    header: Header | None = None,
    identity: Any = None,
    client_host: str = "127.0.0.1",
    session_id: str | None = None,
    priority: str = "default",
    timeout: float | None = None,
    stream_type: StreamType = StreamType.UNARY,
    clock: Clock | None = None,
) -> "Iterator[HandlerCall]":
    """Run a block as if a server had called a handler: `rap.context` has what is given here.

    The handler is called directly, so its arguments are not checked.

    Args:
        name: Name of the function.
        args: Arguments in `context.request`.
        group: Group of the function.
        header: Header that the client sent.
        identity: Identity of the client, as `verify_token` would return it.
        client_host: IP address of the client.
        session_id: Id of the session that the call is in; `None`: of none.
        priority: ``critical``, ``default`` or ``sheddable``.
        timeout: Seconds until the deadline; `None`: there is none. Calls that the handler makes
            inherit it.
        stream_type: Type of the function.
        clock: Source of time; `None` means the clock of this machine.

    Returns:
        What the handler has set: `response_header` and `response_trailer`.

    Raises:
        ValueError: There is no such priority.
    """
    check_priority(priority, "priority")
    sent = dict(header or {})
    if session_id is not None:
        sent["session_id"] = session_id
    peer = Peer.from_sockname((client_host, 0), identity)
    deadline = deadline_after(timeout, clock_of(clock))
    call = Call(method_path(group, name), stream_type, Side.SERVER, sent, deadline, peer)
    source = HandlerCall(Request(call, list(args), sent), PRIORITIES.index(priority))
    token = current.set(source)
    try:
        yield source
    finally:
        source.end()
        current.reset(token)


class HandlerCall:
    """The call of a handler that a test calls; `handler_call` makes it.

    Args:
        request: The request.
        priority: Index of its priority in `PRIORITIES`.

    Attributes:
        draining: What `context.draining` is; the test may set it.
    """

    def __init__(self, request: Request, priority: int = DEFAULT_PRIORITY) -> None:
        self.deadline = request.call.deadline
        self.priority = priority
        self.draining = False
        self.is_over = False
        self._request = request
        self._metadata = ResponseMetadata()

    @property
    def method(self) -> str:
        """The function, as ``/group/name``."""
        return self._request.method

    @property
    def header(self) -> Header:
        """The header that the client sent."""
        return self._request.header

    @property
    def response_header(self) -> Header:
        """What the handler has set by `context.set_header`."""
        return self._metadata.header

    @property
    def response_trailer(self) -> Header:
        """What the handler has set by `context.set_trailer`."""
        return self._metadata.trailer

    def excuse(self) -> None:
        """Do nothing: no server judges how long the handler takes."""

    def keep_thread(self, running: "Future[Any]") -> None:
        """Do nothing: no server waits for the thread."""

    def request(self) -> Request:
        """Return the request."""
        return self._request

    def set_header(self, name: str, value: Any) -> None:
        """Set a value in the header of the response."""
        self._metadata.set_header(name, value)

    def set_trailer(self, name: str, value: Any) -> None:
        """Set a value in the trailer of the response."""
        self._metadata.set_trailer(name, value)

    def end(self) -> None:
        """Note that the handler has ended: tasks that it has left behind serve no call."""
        self.is_over = True
