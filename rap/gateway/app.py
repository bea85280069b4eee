"""A Starlette application through which HTTP and WebSocket clients call functions.

The gateway is no local client: private functions stay private behind it.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from rap.client import Client
from rap.errors import CallError
from rap.gateway.bridge import bridge, close_code, receive_text
from rap.gateway.reply import BadRequest, failure_of, success_of, to_json
from rap.gateway.request import Target, Targets, read_body, timeout_of
from rap.message import FORWARDED

__all__ = ["create_app"]

_MAX_BODY = 1024 * 1024  # bytes
_NORMAL = 1000  # close code of RFC 6455, section 7.4.1


def create_app(
    prefix: str,
    client: Client,
    private_filter: bool | None = None,
    group_filter: Collection[str] | None = None,
    *,
    max_body: int = _MAX_BODY,
) -> Starlette:
    """Return an application; it connects the client when it starts, and closes it when it ends.

    ``POST {prefix}/normal`` calls a function, ``{prefix}/channel`` opens a channel on a WebSocket.
    A client that was connected before is left connected.

    Args:
        prefix: Of the paths: empty, or a path that begins with ``/``.
        client: Makes the calls.
        private_filter: Private functions are left out; `False` is refused.
        group_filter: Names of groups that are left out too.
        max_body: Bytes of a request's body, or of one message of a WebSocket.

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
    gateway = _Gateway(client, Targets(group_filter or ()), max_body)
    path = prefix.rstrip("/")
    return Starlette(
        routes=[
            Route(f"{path}/normal", gateway.normal, methods=["POST"]),
            WebSocketRoute(f"{path}/channel", gateway.channel),
        ],
        lifespan=_lifespan(client),
    )


class _Gateway:
    """The endpoints of one application."""

    def __init__(self, client: Client, targets: Targets, max_body: int) -> None:
        self._client = client
        self._targets = targets
        self._max_body = max_body

    async def normal(self, request: Request) -> Response:
        """Call a function; see `create_app`."""
        try:
            timeout = timeout_of(request)
            target = self._targets.read(await read_body(request, self._max_body))
            host = request.client.host if request.client is not None else ""
            text = await self._call(target, host, timeout)
        except (CallError, BadRequest) as error:
            answer = failure_of(error)
            return _json(to_json(answer), int(answer["code"]))
        return _json(text)

    async def channel(self, socket: WebSocket) -> None:
        """Open a channel; see `create_app`."""
        await socket.accept()
        with contextlib.suppress(WebSocketDisconnect):  # it has left before it was told
            code = _NORMAL
            try:
                target = self._targets.read(await receive_text(socket, self._max_body))
                await bridge(self._client, target, socket, self._max_body)
            except (CallError, BadRequest) as error:
                answer = failure_of(error)
                code = close_code(answer["code"])
                await socket.send_text(to_json(answer))
            if socket.client_state is WebSocketState.CONNECTED:
                await socket.close(code)

    async def _call(self, target: Target, host: str, timeout: float | None) -> str:
        result = await self._client.raw_call(
            target.name,
            group=target.group,
            header={FORWARDED: host},
            timeout=timeout,
            arg_param=target.args,
            kwarg_param=target.kwargs,
        )
        return to_json(success_of(result))


def _json(text: str, status: int = 200) -> Response:
    return Response(text, status, media_type="application/json")


def _lifespan(client: Client) -> Callable[[Any], contextlib.AbstractAsyncContextManager[None]]:
    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        if client.connected is not None:
            yield
            return
        async with client:
            yield

    return lifespan
