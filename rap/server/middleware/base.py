"""The bases of middleware: override `dispatch`, and hand on with `call_next`.

Middleware stands in the order in which it is loaded, the first outermost. A chain is folded once,
when the server starts, so an instance has one place in one chain.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from rap.call import Call, Request
from rap.errors import Code, ConnectionClosed
from rap.processor.base import PlugIn
from rap.transport import Connection
from rap.transport.connection import close_all

__all__ = ["Answer", "BaseConnMiddleware", "BaseMsgMiddleware", "ConnHandler", "MsgHandler"]

_LEAVE_TIMEOUT = 1.0  # seconds for a client that was refused to close by itself

ConnHandler = Callable[[Connection], Awaitable[None]]
# Request, call id, function, positional arguments, keyword arguments → call id, result.
MsgHandler = Callable[..., Awaitable[tuple[int, Any]]]


class _Middleware(PlugIn):
    """What both kinds have in common; a subclass need not call a constructor of it."""

    service = ""  # of the server that loaded it; empty if the server has none
    loaded = False

    def mark_loaded(self, service: str) -> None:
        """Remember that a server of `service` has loaded this."""
        self.loaded = True
        self.service = service


class BaseConnMiddleware(_Middleware):
    """Admits or refuses connections; until it has admitted one, what arrives there waits unread.

    A `dispatch` that returns or raises without `call_next` refuses the connection.
    """

    call_next: ConnHandler
    refused = 0  # connections, by `refuse`

    async def dispatch(self, conn: Connection) -> None:
        """Decide on a connection: ``await self.call_next(conn)``, which returns when it has ended,
        or ``await self.refuse(conn, …)`` or ``await conn.close()``.
        """
        await self.call_next(conn)

    async def refuse(
        self, conn: Connection, message: str, code: Code = Code.RESOURCE_EXHAUSTED
    ) -> None:
        """Close a connection that was not admitted, and tell the client why.

        What the client sent already was not served; it may safely ask another server.
        """
        self.refused += 1
        conn.go_away(final=True, code=code, message=message)
        conn.admit()  # and read: closing with unread bytes would destroy the message
        await asyncio.wait([conn.ended], timeout=_LEAVE_TIMEOUT)
        await close_all([conn], ConnectionClosed(message))

    def bind(self, handler: ConnHandler) -> ConnHandler:
        """Take the place before `handler`, and return what is called then."""
        self.call_next = handler
        return self.dispatch


class Answer(NamedTuple):
    """How a unary call ended.

    Args:
        call: The call.
        error: What ended it; `None` for a result.
        duration: Seconds from its request to its answer.
        request_size: Bytes of the request's body.
        response_size: Bytes of the answer's body; 0 for an error.
    """

    call: Call
    error: BaseException | None
    duration: float
    request_size: int
    response_size: int


class BaseMsgMiddleware(_Middleware):
    """Stands around unary calls on a server; generators and channels pass it by."""

    call_next: MsgHandler

    async def dispatch(
        self, request: Request, call_id: int, func: Callable[..., Any], param: list[Any]
    ) -> tuple[int, Any]:
        """Return call id, and the result or the exception; `self.call_next` gives those.

        A subclass whose `dispatch` has one parameter more is given the keyword arguments as a
        dict there, and hands them on likewise; else they are bound to `func`.

        Args:
            request: The request, after the processors.
            call_id: Tells calls of one connection apart.
            func: What is to be called.
            param: Its positional arguments, checked and converted.
        """
        return await self.call_next(request, call_id, func, param)

    def answered(self, answer: Answer) -> None:
        """Look at how a call ended, after its answer was sent; also one that got no `dispatch`.

        Not called unless overridden. It must neither block nor raise.
        """

    def bind(self, handler: MsgHandler) -> MsgHandler:
        """Take the place before `handler`, and return what is called then."""
        self.call_next = handler
        takes_keywords = _accepts(self.dispatch, 5)

        async def run(
            request: Request,
            call_id: int,
            func: Callable[..., Any],
            param: Sequence[Any],
            default_param: Mapping[str, Any] | None = None,
        ) -> tuple[int, Any]:
            arguments = [request, call_id, func, param]
            if takes_keywords:
                arguments.append(dict(default_param or {}))
            elif default_param:
                arguments[2] = partial(func, **default_param)
            try:
                return await self.dispatch(*arguments)  # type: ignore[arg-type]  # a fifth
            except Exception as exc:
                return call_id, exc

        return run


def _accepts(func: Callable[..., Any], number: int) -> bool:
    """Whether a function can be called with so many positional arguments."""
    try:
        inspect.signature(func).bind(*range(number))
    except TypeError:
        return False
    return True
