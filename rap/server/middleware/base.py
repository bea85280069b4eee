"""The base classes of middleware: override `dispatch`, and continue with `call_next`.

The middleware that is loaded first is the outermost. The chain is folded once, when the server
starts, so each instance can be used once.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from rap.call import Call, Request
from rap.errors import Code, ConnectionClosed
from rap.processor.base import PlugIn
from rap.schema.signature import asking_for
from rap.transport import Connection
from rap.transport.connection import close_all

__all__ = ["Answer", "BaseConnMiddleware", "BaseMsgMiddleware", "ConnHandler", "MsgHandler"]

_LEAVE_TIMEOUT = 1.0  # seconds for a refused client to close the connection itself
_KEYWORDS = "default_param"  # the parameter of `dispatch` for keyword arguments

ConnHandler = Callable[[Connection], Awaitable[None]]
# Request, call id, function, positional arguments, keyword arguments → call id, result.
MsgHandler = Callable[..., Awaitable[tuple[int, Any]]]


class _Middleware(PlugIn):
    """The common part of both kinds. A subclass need not call a constructor."""

    service = ""  # of the server that loaded it; empty if the server has none
    loaded = False

    def mark_loaded(self, service: str) -> None:
        """Remember that a server of `service` has loaded this."""
        self.loaded = True
        self.service = service


class BaseConnMiddleware(_Middleware):
    """Middleware that admits or refuses connections.

    The server reads nothing from a connection before it is admitted. A `dispatch` that returns or
    raises without `call_next` refuses the connection.
    """

    call_next: ConnHandler
    refused = 0  # connections refused with `refuse`

    async def dispatch(self, conn: Connection) -> None:
        """Decide on a connection.

        ``await self.call_next(conn)`` admits it, and returns when the connection is closed.
        ``await self.refuse(conn, …)`` refuses it with a reason, ``await conn.close()`` without.
        """
        await self.call_next(conn)

    async def refuse(
        self, conn: Connection, message: str, code: Code = Code.RESOURCE_EXHAUSTED
    ) -> None:
        """Close a connection that was not admitted, and tell the client why.

        Calls that the client has sent already were not served, so it can send them to another
        server.
        """
        self.refused += 1
        conn.go_away(final=True, code=code, message=message)
        conn.admit()  # and read: closing with unread bytes would destroy the message
        await asyncio.wait([conn.ended], timeout=_LEAVE_TIMEOUT)
        await close_all([conn], ConnectionClosed(message))

    def bind(self, handler: ConnHandler) -> ConnHandler:
        """Put this middleware around `handler`, and return the function to call instead."""
        self.call_next = handler
        return self.dispatch


class Answer(NamedTuple):
    """How a call with one response ended.

    Args:
        call: The call.
        error: The exception that ended it; `None` for a result.
        duration: Seconds from the request to the response.
        request_size: Bytes of the arguments, and of the items of a request stream that were read.
        response_size: Bytes of the response body; 0 for an error.
    """

    call: Call
    error: BaseException | None
    duration: float
    request_size: int
    response_size: int


class BaseMsgMiddleware(_Middleware):
    """Middleware that wraps calls with one response on a server: unary and client streaming.

    Attributes:
        exception_level: Level at which the server logs an exception of a handler that is not a
            `CallError`, with its traceback; `None`: not at all. It applies to calls of all types.
    """

    call_next: MsgHandler
    exception_level: int | None = logging.ERROR

    async def dispatch(
        self, request: Request, call_id: int, func: Callable[..., Any], param: list[Any]
    ) -> tuple[int, Any]:
        """Handle a call: return the call id, and the result or the exception.

        `self.call_next` returns the same. A `dispatch` with one more parameter, which is named
        `default_param` or has no default, receives the keyword arguments there, as a dict, and
        passes them on to `call_next`. Without that parameter they are bound to `func`.

        Args:
            request: The request, after the processors.
            call_id: Identifies the call on its connection.
            func: The function to call.
            param: Positional arguments, checked and converted. A request stream is among them; what
                the middleware reads from it, the function does not get.
        """
        return await self.call_next(request, call_id, func, param)

    def answered(self, answer: Answer) -> None:
        """Observe how a call ended, after the response was sent.

        It is also called for calls that did not reach `dispatch`. It must neither block nor raise.
        """

    def bind(self, handler: MsgHandler) -> MsgHandler:
        """Put this middleware around `handler`, and return the function to call instead.

        Raises:
            TypeError: `dispatch` cannot be called with these arguments.
        """
        self.call_next = handler
        with_keywords = asking_for(self.dispatch, 4, _KEYWORDS, option="dispatch")

        async def run(
            request: Request,
            call_id: int,
            func: Callable[..., Any],
            param: list[Any],
            default_param: Mapping[str, Any] | None = None,
        ) -> tuple[int, Any]:
            try:
                if with_keywords is not None:
                    keywords = dict(default_param or {})
                    answer: tuple[int, Any] = await with_keywords(
                        request, call_id, func, param, keywords
                    )
                    return answer
                if default_param:
                    func = partial(func, **default_param)
                return await self.dispatch(request, call_id, func, param)
            except Exception as exc:  # the end of the call; the result carries it
                return call_id, exc

        return run
