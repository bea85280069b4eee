"""A Starlette application through which HTTP and WebSocket clients call functions.

Private functions cannot be called through the gateway, even if it runs on the server's machine.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from rap.client import Client
from rap.client.response_stream import ResponseStream
from rap.client.unary_call import UnaryCall
from rap.clock import check_timeout
from rap.errors import CallError
from rap.gateway.calls import Caller
from rap.gateway.request import FunctionCall, Parser, options_of, read_body
from rap.gateway.request_lines import NDJSON, RequestLines
from rap.gateway.response import (
    EVENT_STREAM,
    BadRequest,
    error_object,
    error_response,
    event_response,
    left_response,
    result_response,
    to_json,
)
from rap.gateway.websocket import bridge, close_code, receive_text
from rap.tasks import start_task

__all__ = ["create_app"]

_MAX_BODY = 1024 * 1024  # bytes
_MAX_STREAM = 1024 * 1024 * 1024  # bytes
_BODY_TIMEOUT = 30.0  # seconds
_NORMAL = 1000  # close code of RFC 6455, section 7.4.1


def create_app(
    prefix: str,
    client: Client,
    private_filter: bool | None = None,
    group_filter: Collection[str] | None = None,
    *,
    max_body: int = _MAX_BODY,
    max_stream: int = _MAX_STREAM,
    body_timeout: float = _BODY_TIMEOUT,
) -> Starlette:
    """Return an application that calls functions for HTTP clients.

    ``POST {prefix}/normal`` and ``POST {prefix}/call/{group}/{name}`` call a function; the latter
    also sends the items of a generator as server-sent events, and takes those of a request stream
    as lines of JSON. ``{prefix}/channel`` opens a channel on a WebSocket. The application connects
    the client when it starts and closes it when it stops, unless the client was connected before.

    Args:
        prefix: Prefix of all paths: empty, or a path that begins with ``/``.
        client: The client that makes the calls.
        private_filter: Accepted for older programs. Private functions can never be called, and
            `False` raises.
        group_filter: Names of groups that cannot be called. ``default`` stands for the functions
            that a request names without a group, or with an empty one.
        max_body: Maximum bytes of a request body, of a line of a request stream, or of a WebSocket
            message; at least 1.
        max_stream: Maximum bytes of a request body with the items of a request stream; at least 1.
        body_timeout: Seconds for a request body, the first line of a request stream, or the first
            WebSocket message to arrive.

    Raises:
        ValueError: An option has an invalid value; the message names it.
        TypeError: `client` is not a `Client`.
    """
    if prefix and not prefix.startswith("/"):
        raise ValueError(f"prefix must be empty or begin with '/', got {prefix!r}")
    if not isinstance(client, Client):
        raise TypeError(f"client must be a Client, got {client!r}")
    if private_filter is False:
        raise ValueError("private_filter=False: private functions are for clients on one machine")
    if isinstance(group_filter, str) or not all(isinstance(it, str) for it in group_filter or ()):
        raise ValueError(f"group_filter must be a collection of names, got {group_filter!r}")
    for name, size in (("max_body", max_body), ("max_stream", max_stream)):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {size!r}")
    timeout = check_timeout("body_timeout", body_timeout)
    if timeout is None:
        raise ValueError("body_timeout must be a number of seconds, got None")
    gateway = _Gateway(client, Parser(group_filter or ()), max_body, max_stream, timeout)
    path = prefix.rstrip("/")
    return Starlette(
        routes=[
            Route(f"{path}/normal", gateway.normal, methods=["POST"]),
            Route(f"{path}/call/{{group}}/{{name}}", gateway.call, methods=["POST"]),
            WebSocketRoute(f"{path}/channel", gateway.channel),
        ],
        lifespan=_lifespan(client),
    )


class _Gateway:
    """The endpoints of one application."""

    def __init__(
        self, client: Client, parser: Parser, max_body: int, max_stream: int, body_timeout: float
    ) -> None:
        self._client = client
        self._caller = Caller(client)
        self._parser = parser
        self._max_body = max_body
        self._max_stream = max_stream
        self._body_timeout = body_timeout

    async def normal(self, request: Request) -> Response:
        """Call the function named in the body; see `create_app`."""
        try:
            call = self._parser.parse(await read_body(request, self._max_body, self._body_timeout))
            return await self._call(request, call)
        except (CallError, BadRequest) as error:
            return error_response(error)

    async def call(self, request: Request) -> Response:
        """Call the function named in the path; see `create_app`."""
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            if media_type == NDJSON:
                return await self._call_with_items(request)
            body = await read_body(request, self._max_body, self._body_timeout)
            call = self._parser.parse_named(**request.path_params, text=body)
            if not _wants_events(request):
                return await self._call(request, call)
            return await event_response(self._caller.iterate(call, None, options_of(request)))
        except (CallError, BadRequest) as error:
            return error_response(error)

    async def channel(self, socket: WebSocket) -> None:
        """Open a channel; see `create_app`."""
        await socket.accept()
        with contextlib.suppress(WebSocketDisconnect):  # the client left before the response
            code = _NORMAL
            try:
                call = self._parser.parse(await self._first_message(socket), is_channel=True)
                await bridge(self._client, call, socket, self._max_body)
            except (CallError, BadRequest) as error:
                reply = error_object(error)
                code = close_code(reply["code"])
                await socket.send_text(to_json(reply))
            if socket.client_state is WebSocketState.CONNECTED:
                await socket.close(code)

    async def _first_message(self, socket: WebSocket) -> str:
        try:
            async with asyncio.timeout(self._body_timeout):
                return await receive_text(socket, self._max_body) or ""
        except TimeoutError:
            raise BadRequest(408, f"no message arrived within {self._body_timeout:g} s") from None

    async def _call(self, request: Request, call: FunctionCall) -> Response:
        started = self._caller.start(call, options_of(request))
        return await _answer(started)

    async def _call_with_items(self, request: Request) -> Response:
        """Call a function with a request stream; the call ends if the client disconnects."""
        lines = RequestLines(request, self._max_body, self._max_stream)
        leaving: asyncio.Task[None] | None = None
        try:
            first = await lines.first(self._body_timeout)
            call = self._parser.parse_named(**request.path_params, text=first)
            items, options = lines.items(), options_of(request)
            started: UnaryCall[Any] | ResponseStream[Any]
            if _wants_events(request):
                started = self._caller.iterate(call, items, options)
            else:
                started = self._caller.start_with_items(call, items, options)
            leaving = start_task(lines.wait_disconnected(), name="rap gateway leaving")
            leaving.add_done_callback(lambda task: task.cancelled() or started.cancel())
            if isinstance(started, UnaryCall):
                return await _answer(started)
            response = await event_response(started, leaving)
            leaving = None  # it belongs to the response
            return response
        except ClientDisconnect:
            return left_response()
        except asyncio.CancelledError:
            if leaving is None or not leaving.done():
                raise
            return left_response()
        finally:
            if leaving is not None:
                leaving.cancel()
                await asyncio.wait([leaving])


async def _answer(started: UnaryCall[Any]) -> Response:
    try:
        return result_response(await started, started)
    except CallError as error:
        return error_response(error, started)


def _wants_events(request: Request) -> bool:
    return EVENT_STREAM in request.headers.get("accept", "")


def _lifespan(client: Client) -> Callable[[Any], contextlib.AbstractAsyncContextManager[None]]:
    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        if client.connected is not None:
            yield
            return
        async with client:
            yield

    return lifespan
