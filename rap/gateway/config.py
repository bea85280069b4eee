"""The options of `create_app`."""

from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any

from starlette.requests import HTTPConnection

from rap.gateway.client_address import check_proxies
from rap.gateway.guard import check_hosts, check_origins
from rap.options import Option, Options

__all__ = ["GatewayConfig"]


def _check_cors(value: object, *, option: str) -> None:
    if not isinstance(value, bool | Mapping):
        raise ValueError(f"{option} must be True, False or a mapping, got {value!r}")


def _check_hook(value: object, *, option: str) -> None:
    if not callable(value):
        raise ValueError(f"{option} must be a function, got {value!r}")


class GatewayConfig(Options, frozen=True, kw_only=True, eq=False):
    """The options of `create_app`.

    Raises:
        ValueError: A value is not allowed; the message names the option.
    """

    max_body: Annotated[
        int,
        Option(
            "Maximum bytes of a request body, of a line of a request stream, or of a WebSocket "
            "message.",
            "bytes",
            least=1,
        ),
    ] = 1024 * 1024
    max_stream: Annotated[
        int,
        Option(
            "Maximum bytes of a request body with the items of a request stream.", "bytes", least=1
        ),
    ] = 1024 * 1024 * 1024
    body_timeout: Annotated[
        float,
        Option(
            "Seconds for a request body, the first line of a request stream, or the first "
            "WebSocket message to arrive.",
            "seconds",
            above=0,
            finite=True,
        ),
    ] = 30.0
    first_item_timeout: Annotated[
        float | None,
        Option(
            "Seconds until a call that is answered with events must have its first item. After "
            "that, the gateway answers status 504. `None` means no limit.",
            "seconds",
            above=0,
            finite=True,
        ),
    ] = 30.0
    close_grace: Annotated[
        float,
        Option(
            "Seconds that the function of a channel has to end after the client has closed its "
            "WebSocket or was lost. After that, the call is cancelled.",
            "seconds",
            above=0,
            finite=True,
        ),
    ] = 10.0
    max_open_streams: Annotated[
        int,
        Option(
            "Maximum requests at the same time that are answered with events or send a request "
            "stream. At most half of the client's `max_in_flight` of them may wait for their first "
            "item, so that unary calls always have the other half. The next one is answered with "
            "status 503.",
            "requests",
            least=1,
        ),
    ] = 1024
    max_sockets: Annotated[
        int,
        Option(
            "Maximum WebSockets at the same time. The next one is refused with status 503.",
            "WebSockets",
            least=1,
        ),
    ] = 1024
    max_per_address: Annotated[
        int,
        Option(
            "Maximum requests and WebSockets of one client address at the same time (IPv6: of "
            "one /64). The next one is answered with status 429. Behind a proxy, set "
            "`trusted_proxies`.",
            "requests",
            least=1,
        ),
    ] = 128
    trusted_proxies: Annotated[
        Collection[str],
        Option(
            "Addresses and networks of proxies whose header `X-Forwarded-For` names the client: "
            "`10.0.0.7`, `10.0.0.0/8`, or `unix` for connections without an address. From anyone "
            "else, the header is ignored.",
            check=check_proxies,
        ),
    ] = ()
    allowed_origins: Annotated[
        Collection[str] | None,
        Option(
            "Origins of web pages that may call functions and open channels, such as "
            "`https://app.example.com`, or `*` for all. `None` means the host that the request "
            "names. Requests without the header `Origin` do not come from a web page and are not "
            "affected. Others are answered with status 403.",
            check=check_origins,
        ),
    ] = None
    allowed_hosts: Annotated[
        Collection[str] | None,
        Option(
            "Names of hosts, or `*.domain`, that the header `Host` of a request may have. `None` "
            "means any. Other requests are answered with status 421.",
            check=check_hosts,
        ),
    ] = None
    cors: Annotated[
        bool | Mapping[str, Any],
        Option(
            "Whether browsers may show answers to pages of `allowed_origins`, by the headers of "
            "CORS. A mapping has further arguments of Starlette's `CORSMiddleware`, such as "
            "`allow_credentials`.",
            check=_check_cors,
        ),
    ] = False
    authorize: Annotated[
        Callable[[HTTPConnection], object] | None,
        Option(
            "Called with each request, a `starlette.requests.HTTPConnection`, before its body is "
            "read; `def` or `async def`. It returns `True` if the request may be served, and "
            "`False` for status 401, or raises `PermissionDenied` for 403.",
            check=_check_hook,
        ),
    ] = None
    debug: Annotated[
        bool,
        Option(
            "Whether clients get the texts of all errors. By default, they get only the code and a "
            "trace id for errors whose texts show the inside: exceptions, addresses, signatures.",
        ),
    ] = False
