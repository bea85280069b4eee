"""The dialer: opens the connections of a client, with TLS, limits and the Hello."""

import logging
import ssl
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any

from rap.address import Address
from rap.client.config import ClientConfig, token_of
from rap.clock import Clock
from rap.errors import ExceptionTypes
from rap.registry import Endpoint
from rap.transport import Connection, ConnectionOptions, KeepaliveOptions
from rap.transport.dial import dial
from rap.transport.metering import CountedConnection, Traffic
from rap.transport.tls import check_paths, client_context, pinned_certificate
from rap.wire.hello import Limits

__all__ = ["Dialer", "OnChange", "OnLoad"]

_log = logging.getLogger("rap.client")

OnChange = Callable[[Connection], None]
OnLoad = Callable[[Connection, bytes], None]


class Dialer:
    """Opens the connections of one client.

    Args:
        config: Options of the client.
        clock: Source of time.
        types: Exception types that remote errors may become.
        reports: Whether servers are asked to report their load.
        pinned_path: PEM file of the only certificate that servers may present.
        ca_path: PEM file of the authorities of the certificates of servers.
        crt_path: PEM file of the client's own certificate.
        key_path: PEM file of its key.

    Attributes:
        traffic: Where new connections count their bytes; `None`: nowhere.

    Raises:
        ValueError: A file cannot be used; the message names the option.
    """

    def __init__(
        self,
        config: ClientConfig,
        clock: Clock,
        types: ExceptionTypes,
        *,
        reports: bool = False,
        pinned_path: str | None,
        ca_path: str | None,
        crt_path: str | None,
        key_path: str | None,
    ) -> None:
        check_paths(
            ssl_crt_path=pinned_path,
            ssl_ca_path=ca_path,
            ssl_client_crt_path=crt_path,
            ssl_client_key_path=key_path,
        )
        if key_path is not None and crt_path is None:
            raise ValueError("ssl_client_key_path needs ssl_client_crt_path")
        if pinned_path is not None and ca_path is not None:
            raise ValueError("give ssl_crt_path (one pinned certificate) or ssl_ca_path, not both")
        self._config = config
        self._clock = clock
        self._types = types
        self._pinned = None if pinned_path is None else pinned_certificate(pinned_path)
        self._tls_files = {
            "pinned_path": pinned_path,
            "ca_path": ca_path,
            "crt_path": crt_path,
            "key_path": key_path,
        }
        self.traffic: Traffic | None = None
        self._always_tls = any(path is not None for path in self._tls_files.values())
        self._context: ssl.SSLContext | None = None
        if self._always_tls:
            self._context = client_context(**self._tls_files)
        self._options = ConnectionOptions(
            limits=Limits(
                max_message=config.max_message,
                max_frame=config.max_frame,
                stream_window=config.stream_window,
                connection_window=config.connection_window,
                max_unfinished=config.max_unfinished,
            ),
            hello={"load": True} if reports else {},
            stall_timeout=config.stall_timeout,
            message_timeout=config.message_timeout,
            min_message_rate=config.min_message_rate,
            max_pings=config.max_pings,
            keepalive=KeepaliveOptions(
                idle=config.ping_sleep_time,
                busy=config.ping_busy_time,
                timeout=config.ping_timeout,
                failures=config.ping_fail_cnt,
            ),
        )

    def announce(self, abilities: Iterable[str]) -> None:
        """Let the Hello of future connections name these abilities."""
        hello = {**self._options.hello, "abilities": sorted(abilities)}
        self._options = self._options.replace(hello=hello)

    def count_traffic(self) -> None:
        """Count the bytes of connections that are made from now on."""
        if self.traffic is None:
            self.traffic = Traffic()

    def dial(
        self,
        endpoint: Endpoint,
        on_change: OnChange,
        on_load: OnLoad | None = None,
        on_suspect: OnChange | None = None,
    ) -> Coroutine[Any, Any, Connection]:
        """Return a connection to an endpoint whose server has said Hello.

        Args:
            endpoint: The server.
            on_change: Called when a Hello or a GoAway has come, and when the connection has ended.
            on_load: Takes load reports.
            on_suspect: Called when the server is suspected to be gone, and when it was heard again;
                without it, it is never suspected.

        Raises:
            Unavailable: The server could not be reached.
            Unauthenticated: The server rejected this client, or there is no token.
        """
        if self._config.token is None:
            return self._dial(endpoint.address, self._options, on_change, on_load, on_suspect)
        return self._dial_with_token(endpoint.address, on_change, on_load, on_suspect)

    async def _dial_with_token(
        self,
        address: Address,
        on_change: OnChange,
        on_load: OnLoad | None,
        on_suspect: OnChange | None,
    ) -> Connection:
        assert self._config.token is not None
        hello = {**self._options.hello, "token": await token_of(self._config.token)}
        options = self._options.replace(hello=hello)
        return await self._dial(address, options, on_change, on_load, on_suspect)

    def _dial(
        self,
        address: Address,
        options: ConnectionOptions,
        on_change: OnChange,
        on_load: OnLoad | None,
        on_suspect: OnChange | None,
    ) -> Coroutine[Any, Any, Connection]:
        context = None
        if address.scheme == "tls" or (self._always_tls and address.scheme == "tcp"):
            if self._context is None:
                self._context = client_context()
            context = self._context
        traffic = self.traffic
        make = partial(
            Connection if traffic is None else partial(CountedConnection, traffic),
            options,
            clock=self._clock,
            log=_log,
            on_load=on_load,
            on_change=on_change,
            on_lost=on_change,
            on_suspect=on_suspect,
            exception_types=self._types,
        )
        return dial(
            address,
            make,
            timeout=self._config.connect_timeout,
            context=context,
            pinned=self._pinned,
            clock=self._clock,
        )
