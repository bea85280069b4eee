"""A Starlette application through which HTTP and WebSocket clients call functions.

Private functions cannot be called through the gateway, even if it runs on the server's machine.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection
from starlette.routing import Route, WebSocketRoute

from rap.client import Client
from rap.gateway.config import GatewayConfig
from rap.gateway.endpoints import Endpoints, HostCheck
from rap.gateway.request import PRIORITY_HEADER, TIMEOUT_HEADER, TRACE_HEADERS, Parser
from rap.options import checks_options

__all__ = ["create_app"]

# Those of requests that browsers do not allow by themselves.
_REQUEST_HEADERS = [
    "Authorization",
    "Content-Type",
    TIMEOUT_HEADER,
    PRIORITY_HEADER,
    *TRACE_HEADERS,
]


@checks_options(GatewayConfig)
def create_app(
    prefix: str,
    client: Client,
    private_filter: bool | None = None,
    group_filter: Collection[str] | None = None,
    *,
    max_body: int = 1024 * 1024,
    max_stream: int = 1024 * 1024 * 1024,
    body_timeout: float = 30.0,
    first_item_timeout: float | None = 30.0,
    close_grace: float = 10.0,
    max_open_streams: int = 1024,
    max_sockets: int = 1024,
    max_per_address: int = 128,
    trusted_proxies: Collection[str] = (),
    allowed_origins: Collection[str] | None = None,
    allowed_hosts: Collection[str] | None = None,
    cors: bool | Mapping[str, Any] = False,
    authorize: Callable[[HTTPConnection], object] | None = None,
    debug: bool = False,
) -> Starlette:
    """Return an application that calls functions for HTTP clients.

    ``POST {prefix}/normal`` and ``POST {prefix}/call/{group}/{name}`` call a function; the latter
    also sends the items of a generator as server-sent events, and takes those of a request stream
    as lines of JSON. ``{prefix}/channel`` opens a channel on a WebSocket. The application connects
    the client when it starts and closes it when it stops, unless the client was connected before.
    A call is cancelled when the HTTP client that asked for it disconnects.

    Args:
        prefix: Prefix of all paths: empty, or a path that begins with ``/``.
        client: The client that makes the calls.
        private_filter: Accepted for older programs. Private functions can never be called, and
            `False` raises.
        group_filter: Names of groups that cannot be called. ``default`` stands for the functions
            that a request names without a group, or with an empty one.
        max_body: Maximum bytes of a request body, of a line of a request stream, or of a WebSocket
            message. Default 1,048,576 bytes, at least 1.
        max_stream: Maximum bytes of a request body with the items of a request stream. Default
            1,073,741,824 bytes, at least 1.
        body_timeout: Seconds for a request body, the first line of a request stream, or the first
            WebSocket message to arrive. Default 30.0 seconds, more than 0.
        first_item_timeout: Seconds until a call that is answered with events must have its first
            item. After that, the gateway answers status 504. `None` means no limit. Default 30.0
            seconds, more than 0.
        close_grace: Seconds that the function of a channel has to end after the client has closed
            its WebSocket or was lost. After that, the call is cancelled. Default 10.0 seconds, more
            than 0.
        max_open_streams: Maximum requests at the same time that are answered with events or send a
            request stream. At most half of the client's `max_in_flight` of them may wait for their
            first item, so that unary calls always have the other half. The next one is answered
            with status 503. Default 1,024 requests, at least 1.
        max_sockets: Maximum WebSockets at the same time. The next one is refused with status 503.
            Default 1,024 WebSockets, at least 1.
        max_per_address: Maximum requests and WebSockets of one client address at the same time
            (IPv6: of one /64). The next one is answered with status 429. Behind a proxy, set
            `trusted_proxies`. Default 128 requests, at least 1.
        trusted_proxies: Addresses and networks of proxies whose header `X-Forwarded-For` names the
            client: `10.0.0.7`, `10.0.0.0/8`, or `unix` for connections without an address. From
            anyone else, the header is ignored. Default ().
        allowed_origins: Origins of web pages that may call functions and open channels, such as
            `https://app.example.com`, or `*` for all. `None` means the host that the request names.
            Requests without the header `Origin` do not come from a web page and are not affected.
            Others are answered with status 403. Default None.
        allowed_hosts: Names of hosts, or `*.domain`, that the header `Host` of a request may have.
            `None` means any. Other requests are answered with status 421. Default None.
        cors: Whether browsers may show answers to pages of `allowed_origins`, by the headers of
            CORS. A mapping has further arguments of Starlette's `CORSMiddleware`, such as
            `allow_credentials`. Default False.
        authorize: Called with each request, a `starlette.requests.HTTPConnection`, before its body
            is read; `def` or `async def`. It returns `True` if the request may be served, and
            `False` for status 401, or raises `PermissionDenied` for 403. Default None.
        debug: Whether clients get the texts of all errors. By default, they get only the code and a
            trace id for errors whose texts show the inside: exceptions, addresses, signatures.
            Default False.

    Raises:
        ValueError: An option has an invalid value; the message names it.
        TypeError: `client` is not a `Client`, or an option does not exist; the message suggests the
            one that was meant.
    """
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be a string such as '/api', got {prefix!r}")
    if prefix and not prefix.startswith("/"):
        raise ValueError(f"prefix must be empty or begin with '/', got {prefix!r}")
    if not isinstance(client, Client):
        raise TypeError(f"client must be a Client, got {client!r}")
    if private_filter is False:
        raise ValueError("private_filter=False: private functions are for clients on one machine")
    if isinstance(group_filter, str) or not all(isinstance(it, str) for it in group_filter or ()):
        raise ValueError(f"group_filter must be a collection of names, got {group_filter!r}")
    config = GatewayConfig(
        max_body=max_body,
        max_stream=max_stream,
        body_timeout=body_timeout,
        first_item_timeout=first_item_timeout,
        close_grace=close_grace,
        max_open_streams=max_open_streams,
        max_sockets=max_sockets,
        max_per_address=max_per_address,
        trusted_proxies=trusted_proxies,
        allowed_origins=allowed_origins,
        allowed_hosts=allowed_hosts,
        cors=cors,
        authorize=authorize,
        debug=debug,
    )
    endpoints = Endpoints(client, Parser(group_filter or ()), config)
    path = prefix.rstrip("/")
    return Starlette(
        routes=[
            Route(f"{path}/normal", endpoints.normal, methods=["POST"]),
            Route(f"{path}/call/{{group}}/{{name}}", endpoints.call, methods=["POST"]),
            WebSocketRoute(f"{path}/channel", endpoints.channel),
        ],
        middleware=[*_hosts(config), *_cors(config)],
        lifespan=_lifespan(client),
        exception_handlers={404: endpoints.explain, 405: endpoints.explain},
    )


def _hosts(config: GatewayConfig) -> list[Middleware]:
    """Return the middleware for the option `allowed_hosts`."""
    if config.allowed_hosts is None:
        return []
    return [Middleware(HostCheck, hosts=config.allowed_hosts, debug=config.debug)]


def _cors(config: GatewayConfig) -> list[Middleware]:
    """Return the middleware for the option `cors`.

    Raises:
        ValueError: It does not fit `allowed_origins`.
    """
    if config.cors is False:
        return []
    origins = config.allowed_origins
    if origins is None:
        raise ValueError("cors needs allowed_origins: pages of the same host need no CORS")
    arguments: dict[str, Any] = {
        "allow_origins": list(origins),
        "allow_methods": ["POST"],
        "allow_headers": _REQUEST_HEADERS,
        "expose_headers": ["Retry-After"],
    }
    if isinstance(config.cors, Mapping):
        arguments |= config.cors
    if "*" in arguments["allow_origins"] and arguments.get("allow_credentials"):
        raise ValueError(
            "cors: allow_credentials with the origin '*' would let every page act for its users"
        )
    return [Middleware(CORSMiddleware, **arguments)]


def _lifespan(client: Client) -> Callable[[Any], contextlib.AbstractAsyncContextManager[None]]:
    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        if client.connected is not None:
            yield
            return
        async with client:
            yield

    return lifespan
