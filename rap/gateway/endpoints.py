"""The endpoints of the gateway: posts that call functions, and WebSockets for channels."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from rap.call import StreamType
from rap.client import Client
from rap.client.response_stream import ResponseStream
from rap.client.unary_call import UnaryCall
from rap.errors import CallError
from rap.gateway.arrivals import Arrivals
from rap.gateway.calls import Caller
from rap.gateway.client_address import ClientAddresses
from rap.gateway.config import GatewayConfig
from rap.gateway.errors import BadRequest, ErrorReplies
from rap.gateway.guard import Guard, Hosts
from rap.gateway.places import Places
from rap.gateway.request import (
    FunctionCall,
    Parser,
    RequestOptions,
    channel_options_of,
    host_of,
    options_of,
    read_body,
)
from rap.gateway.request_lines import NDJSON, RequestLines
from rap.gateway.response import (
    EVENT_STREAM,
    EventResponse,
    error_response,
    event_response,
    left_response,
    result_response,
    to_json,
)
from rap.gateway.websocket import bridge, close_code, text_of

__all__ = ["Endpoints", "HostCheck"]

_SERVED = (
    "the gateway serves POST PREFIX/normal and POST PREFIX/call/GROUP/NAME,"
    " and WebSockets on PREFIX/channel"
)
_NORMAL = 1000  # close code of RFC 6455, section 7.4.1


class Endpoints:
    """The endpoints of one application.

    Args:
        client: Makes the calls.
        parser: Reads what the requests ask for.
        config: Options of the gateway.

    Attributes:
        normal: Calls the function named in the body of a post; see `create_app`.
        call: Calls the function named in the path of a post; see `create_app`.
        channel: Opens a channel on a WebSocket; see `create_app`.
    """

    def __init__(self, client: Client, parser: Parser, config: GatewayConfig) -> None:
        places = Places(config, client.config.max_in_flight)
        replies = ErrorReplies(config.debug)
        caller = Caller(client)
        posts = _Posts(caller, config, places, replies)
        guard = Guard(config.allowed_origins, config.authorize)
        door = _Door(guard, places, ClientAddresses(config.trusted_proxies), replies, parser)
        self.normal = _Post(posts.normal, door)
        self.call = _Post(posts.call, door, NDJSON)
        self.channel = _Channel(caller, config, door)
        self._replies = replies

    async def explain(self, request: Request, error: Exception) -> Response:
        """Return the response to a request for a path or with a method that is not served."""
        assert isinstance(error, HTTPException)
        text = f"{request.method} of this path is not served; {_SERVED}"
        refusal = BadRequest(error.status_code, text, error.headers)
        return error_response(refusal, self._replies)


class HostCheck:
    """ASGI middleware that answers no request for another host, whatever its path is.

    Redirects would name the host of the request, and CORS answers would come from it.

    Args:
        app: Serves the others.
        hosts: Names of the hosts.
        debug: As for `create_app`.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], *, debug: bool) -> None:
        self._app = app
        self._hosts = Hosts(hosts)
        self._replies = ErrorReplies(debug)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] in ("http", "websocket"):
            try:
                self._hosts.check(HTTPConnection(scope))
            except BadRequest as error:
                if scope["type"] == "http":
                    await error_response(error, self._replies)(scope, receive, send)
                else:
                    await _refuse(WebSocket(scope, receive, send), error, self._replies)
                return
        await self._app(scope, receive, send)


class _Door(NamedTuple):
    """What a request passes before it is served.

    Args:
        guard: Decides whether it is allowed.
        places: The places of the gateway.
        addresses: Finds the address of the client.
        replies: Makes the objects of errors.
        parser: Reads what the requests ask for.
    """

    guard: Guard
    places: Places
    addresses: ClientAddresses
    replies: ErrorReplies
    parser: Parser


class _Visit(NamedTuple):
    """One request while it is served.

    Args:
        request: The request; its body is in `arrivals`.
        media_type: Of its body.
        arrivals: What the client sends.
        places: Holds places until the response was sent.
        parser: Reads what the client asks for.
    """

    request: Request
    media_type: str
    arrivals: Arrivals
    places: ExitStack
    parser: Parser


class _Post:
    """An ASGI application for posts to one path; it ends when the client disconnects.

    Args:
        serve: Returns the response.
        door: What the requests pass before.
        media_types: Accepted besides JSON.
    """

    def __init__(
        self, serve: Callable[[_Visit], Awaitable[Response]], door: _Door, *media_types: str
    ) -> None:
        self._serve = serve
        self._door = door
        self._media_types = media_types

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        guard, places, addresses, replies, parser = self._door
        request = Request(addresses.resolve(scope))
        response: Response | None = None
        with ExitStack() as stack:
            try:
                guard.check(request)
                media_type = guard.check_type(request, *self._media_types)
                stack.enter_context(places.of_address(host_of(request)))
            except BadRequest as error:
                await error_response(error, replies)(scope, receive, send)
                return
            async with Arrivals(receive) as arrivals:
                try:
                    with arrivals.bound():
                        visit = _Visit(request, media_type, arrivals, stack, parser.of(request))
                        response = await self._answer(visit)
                        with suppress(OSError):  # so, too, an ASGI server may say that it has left
                            await response(scope, receive, send)
                except ClientDisconnect:
                    if response is None:
                        with suppress(OSError):
                            await left_response()(scope, receive, send)

    async def _answer(self, visit: _Visit) -> Response:
        try:
            await self._door.guard.authorize(visit.request)
            return await self._serve(visit)
        except (CallError, BadRequest) as error:
            return error_response(error, self._door.replies)


class _Posts:
    """What posts do.

    Args:
        caller: Makes the calls.
        config: Options of the gateway.
        places: The places of the gateway.
        replies: Makes the objects of errors.
    """

    def __init__(
        self,
        caller: Caller,
        config: GatewayConfig,
        places: Places,
        replies: ErrorReplies,
    ) -> None:
        self._replies = replies
        self._caller = caller
        self._config = config
        self._places = places

    async def normal(self, visit: _Visit) -> Response:
        """Return the response to a request that names the function in its body."""
        call = await visit.parser.parse(await self._body(visit))
        return await self._unary(visit, call, options_of(visit.request))

    async def call(self, visit: _Visit) -> Response:
        """Return the response to a request that names the function in its path."""
        request = visit.request
        if visit.media_type == NDJSON:
            return await self._call_with_items(visit)
        if _wants_events(request):
            visit.places.enter_context(self._places.stream())
        text = await self._body(visit)
        call = await visit.parser.parse_named(**request.path_params, text=text)
        options = options_of(request)
        if not _wants_events(request):
            return await self._unary(visit, call, options)
        with self._places.first_item():
            method = self._caller.method(call, StreamType.STREAM)
            items = self._caller.iterate(method, call, options)
            response = await self._events(visit, items)
            if isinstance(response, EventResponse):
                self._caller.confirm(method, call)
            return response

    async def _call_with_items(self, visit: _Visit) -> Response:
        request, config = visit.request, self._config
        visit.places.enter_context(self._places.stream())
        lines = RequestLines(visit.arrivals, visit.parser, config.max_body, config.max_stream)
        first = await lines.first(config.body_timeout)
        call = await visit.parser.parse_named(**request.path_params, text=first)
        items, options = lines.items(), options_of(request)
        if not _wants_events(request):
            return await self._result(visit, self._caller.start_with_items(call, items, options))
        with self._places.first_item():
            answers = self._caller.iterate_with_items(call, items, options)
            return await self._events(visit, answers)

    async def _unary(self, visit: _Visit, call: FunctionCall, options: RequestOptions) -> Response:
        method = self._caller.method(call, StreamType.UNARY)
        started = self._caller.start(method, call, options)
        return await self._result(visit, started, partial(self._caller.confirm, method, call))

    async def _result(
        self,
        visit: _Visit,
        started: UnaryCall[Any],
        confirm: Callable[[CallError | None], None] = lambda _: None,
    ) -> Response:
        try:
            result = await started
        except CallError as error:
            confirm(error)
            return error_response(error, self._replies, started)
        confirm(None)
        try:
            return await result_response(result, started, visit.parser.large)
        except CallError as error:
            return error_response(error, self._replies, started)

    async def _events(self, visit: _Visit, items: ResponseStream[Any]) -> Response:
        limit = self._config.first_item_timeout
        return await event_response(items, limit, self._replies, visit.parser.large)

    async def _body(self, visit: _Visit) -> bytes:
        return await read_body(visit.arrivals, self._config.max_body, self._config.body_timeout)


class _Channel:
    """An ASGI application for WebSockets.

    Args:
        caller: Makes the calls.
        config: Options of the gateway.
        door: What the requests pass before.
    """

    def __init__(self, caller: Caller, config: GatewayConfig, door: _Door) -> None:
        self._caller = caller
        self._config = config
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one WebSocket."""
        guard, places, addresses, replies, _ = self._door
        socket = WebSocket(addresses.resolve(scope), receive, send)
        with ExitStack() as stack:
            try:
                guard.check(socket)
                stack.enter_context(places.of_address(host_of(socket)))
                stack.enter_context(places.socket())
            except BadRequest as error:
                await _refuse(socket, error, replies)
                return
            await socket.receive()  # that it connects
            async with Arrivals(socket.receive) as arrivals:
                with suppress(ClientDisconnect, WebSocketDisconnect):  # before the response
                    await self._serve(socket, arrivals)

    async def _serve(self, socket: WebSocket, arrivals: Arrivals) -> None:
        try:
            with arrivals.bound():
                await self._door.guard.authorize(socket)
        except (CallError, BadRequest) as error:
            await _refuse(socket, error, self._door.replies)
            return
        await socket.accept()
        code, opened = _NORMAL, None
        try:
            text = await self._first_message(arrivals)
            parser = self._door.parser.of(socket)
            call = await parser.parse(text, is_channel=True)
            method = self._caller.method(call, StreamType.CHANNEL)
            opened = self._caller.channel(method, call, channel_options_of(socket))
            client = self._caller.client
            config, as_json = self._config, call.json_messages
            await bridge(client, opened, socket, arrivals, config, parser, as_json=as_json)
            self._caller.confirm(method, call)
        except (CallError, BadRequest) as error:
            reply = self._door.replies.reply(error, opened)
            code = close_code(reply["code"])
            await socket.send_text(to_json(reply))
        if socket.client_state is WebSocketState.CONNECTED:
            await socket.close(code)

    async def _first_message(self, arrivals: Arrivals) -> str:
        config = self._config
        try:
            async with asyncio.timeout(config.body_timeout):
                return text_of(await arrivals.message(), config.max_body) or ""
        except TimeoutError:
            text = f"no message arrived within {config.body_timeout:g} s"
            raise BadRequest(408, text) from None


async def _refuse(socket: WebSocket, error: CallError | BadRequest, replies: ErrorReplies) -> None:
    """Refuse a WebSocket: with a response if the ASGI server can send one, otherwise with 403."""
    if "websocket.http.response" in socket.scope.get("extensions", {}):
        await socket.send_denial_response(error_response(error, replies))
    else:
        await socket.close()


def _wants_events(request: Request) -> bool:
    return EVENT_STREAM in request.headers.get("accept", "")
