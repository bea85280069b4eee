"""A Starlette application through which HTTP and WebSocket clients call functions.

The gateway is no local client: private functions stay private behind it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from rap.client import Client
from rap.clock import check_timeout
from rap.errors import CallError
from rap.gateway.bridge import bridge, close_code, receive_text
from rap.gateway.events import MEDIA_TYPE, stream_events
from rap.gateway.reply import BadRequest, failure_of, success_of, to_json
from rap.gateway.request import Target, Targets, header_of, read_body, timeout_of

__all__ = ["create_app"]

_MAX_BODY = 1024 * 1024  # bytes
_BODY_TIMEOUT = 30.0  # seconds
_NORMAL = 1000  # close code of RFC 6455, section 7.4.1


def create_app(
    prefix: str,
    client: Client,
    private_filter: bool | None = None,
    group_filter: Collection[str] | None = None,
    *,
    max_body: int = _MAX_BODY,
    body_timeout: float = _BODY_TIMEOUT,
) -> Starlette:
    """Return an application; it connects the client when it starts, and closes it when it ends.

    ``POST {prefix}/normal`` calls a function, as does ``POST {prefix}/call/{group}/{name}``, from
    generators as server-sent events; ``{prefix}/channel`` opens a channel on a WebSocket.
    A client that was connected before is left connected.

    Args:
        prefix: Of the paths: empty, or a path that begins with ``/``.
        client: Makes the calls.
        private_filter: Private functions are left out; `False` is refused.
        group_filter: Names of groups that are left out too.
        max_body: Bytes of a request's body, or of one message of a WebSocket.
        body_timeout: Seconds for a request's body, or the first message of a WebSocket, to come.

    Raises:
        ValueError: An option has a bad value; the message names it.
        TypeError: `client` is no `Client`.
    """
    if prefix and not prefix.startswith("/"):
        raise ValueError(f"prefix must be empty or begin with '/', got {prefix!r}")
    if not isinstance(client, Client):
        raise TypeError(f"client must be a Client, got {client!r}")
    if private_filter is False:
        raise ValueError("private_filter=False: private functions are for clients on one machine")
    if isinstance(group_filter, str):
        raise ValueError(f"group_filter must be a collection of names, got {group_filter!r}")
    if isinstance(max_body, bool) or not isinstance(max_body, int) or max_body < 1:
        raise ValueError(f"max_body must be an integer of at least 1, got {max_body!r}")
    patience = check_timeout("body_timeout", body_timeout)
    if patience is None:
        raise ValueError("body_timeout must be a number of seconds, got None")
    gateway = _Gateway(client, Targets(group_filter or ()), max_body, patience)
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

    def __init__(self, client: Client, targets: Targets, max_body: int, patience: float) -> None:
        self._client = client
        self._targets = targets
        self._max_body = max_body
        self._patience = patience

    async def normal(self, request: Request) -> Response:
        """Call a function that the body names; see `create_app`."""
        try:
            target = self._targets.read(await read_body(request, self._max_body, self._patience))
            return await self._call(request, target)
        except (CallError, BadRequest) as error:
            return _failure(error)

    async def call(self, request: Request) -> Response:
        """Call a function that the path names; see `create_app`."""
        try:
            body = await read_body(request, self._max_body, self._patience)
            target = self._targets.read_named(**request.path_params, text=body)
            if MEDIA_TYPE not in request.headers.get("accept", ""):
                return await self._call(request, target)
            return await stream_events(
                self._client.iterator_call(target.name, **_options(request, target))
            )
        except (CallError, BadRequest) as error:
            return _failure(error)

    async def channel(self, socket: WebSocket) -> None:
        """Open a channel; see `create_app`."""
        await socket.accept()
        with contextlib.suppress(WebSocketDisconnect):  # it has left before it was told
            code = _NORMAL
            try:
                target = self._targets.read(await self._first_message(socket))
                await bridge(self._client, target, socket, self._max_body)
            except (CallError, BadRequest) as error:
                answer = failure_of(error)
                code = close_code(answer["code"])
                await socket.send_text(to_json(answer))
            if socket.client_state is WebSocketState.CONNECTED:
                await socket.close(code)

    async def _first_message(self, socket: WebSocket) -> str:
        try:
            async with asyncio.timeout(self._patience):
                return await receive_text(socket, self._max_body)
        except TimeoutError:
            raise BadRequest(408, f"nothing came in {self._patience:g} s") from None

    async def _call(self, request: Request, target: Target) -> Response:
        result = await self._client.raw_call(
            target.name, arg_param=target.args, **_options(request, target)
        )
        return Response(to_json(success_of(result)), media_type="application/json")


def _options(request: Request, target: Target) -> dict[str, Any]:
    """Return the options of a call that is made for a request."""
    return {
        "group": target.group,
        "header": header_of(request),
        "timeout": timeout_of(request),
        "kwarg_param": target.kwargs,
    }


def _failure(error: CallError | BadRequest) -> Response:
    answer = failure_of(error)
    return Response(to_json(answer), answer["code"], media_type="application/json")


def _lifespan(client: Client) -> Callable[[Any], contextlib.AbstractAsyncContextManager[None]]:
    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        if client.connected is not None:
            yield
            return
        async with client:
            yield

    return lifespan
