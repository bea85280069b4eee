"""The dialer: opens the connections of a client, with TLS, limits and the Hello."""

import logging
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any

from rap.address import Address
from rap.client.config import ClientConfig, token_of
from rap.clock import Clock
from rap.errors import ExceptionTypes, Unauthenticated
from rap.registry import Endpoint
from rap.transport import Connection, ConnectionOptions, KeepaliveOptions
from rap.transport.dial import dial
from rap.transport.metering import CountedConnection, Traffic
from rap.transport.tls import ClientTls
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

    Attributes:
        tls: TLS of the client.
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
    ) -> None:
        self._config = config
        self._clock = clock
        self._types = types
        self.tls = ClientTls(
            pinned_path=config.ssl_crt_path,
            ca_path=config.ssl_ca_path,
            crt_path=config.ssl_client_crt_path,
            key_path=config.ssl_client_key_path,
            crl_path=config.ssl_crl_path,
            server_name=config.ssl_server_name,
            identities=config.ssl_identity,
            log=_log,
        )
        self.traffic: Traffic | None = None
        has_open_token = config.token is not None and not config.token_without_tls
        self._check = self._check_secrecy if has_open_token else None
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
        trust = None
        if address.scheme == "tls" or (self.tls.options and address.scheme != "inproc"):
            trust = self.tls.trust()
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
            trust=trust,
            check=self._check,
            clock=self._clock,
        )

    def _check_secrecy(self, conn: Connection) -> None:
        """Refuse to send the token where others may read it.

        Raises:
            Unauthenticated: The connection has no TLS, and leads to another machine.
        """
        if conn.transport.get_extra_info("ssl_object") is None and not conn.peer.is_local:
            text = (
                f"the token is not sent to {conn.peer}, because others could read it: the"
                " connection has no TLS (options ssl_ca_path, token_without_tls)"
            )
            raise Unauthenticated(text, unserved=True)
