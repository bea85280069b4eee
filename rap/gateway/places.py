"""How many requests and WebSockets the gateway serves at the same time."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from rap.gateway.config import GatewayConfig
from rap.gateway.errors import BadRequest
from rap.gateway.large_json import SOON, network_of

__all__ = ["Places"]


class Places:
    """The places of one gateway. Whoever finds none is refused, and does not wait.

    Args:
        config: Options of the gateway.
        max_in_flight: That of the client that makes the calls.
    """

    def __init__(self, config: GatewayConfig, max_in_flight: int) -> None:
        self._streams = _Limit(
            config.max_open_streams, "streams are open, which is max_open_streams"
        )
        self._first_items = _Limit(
            max(1, max_in_flight // 2),
            "requests wait for their first item, which is half of the client's max_in_flight",
        )
        self._sockets = _Limit(config.max_sockets, "WebSockets are open, which is max_sockets")
        self._max_per_address = config.max_per_address
        self._open: dict[str, int] = {}  # by network

    @contextmanager
    def of_address(self, host: str) -> Iterator[None]:
        """Take one of the places of an address for the block.

        Raises:
            BadRequest: All are taken.
        """
        network = network_of(host)
        count = self._open.get(network, 0)
        if count >= self._max_per_address:
            text = f"{count} requests of this address are open, which is max_per_address"
            raise BadRequest(429, text, SOON)
        self._open[network] = count + 1
        try:
            yield
        finally:
            self._open[network] -= 1
            if not self._open[network]:
                del self._open[network]

    def stream(self) -> AbstractContextManager[None]:
        """Take the place of a request with events or a request stream for the block.

        Raises:
            BadRequest: All are taken.
        """
        return self._streams.taken()

    def first_item(self) -> AbstractContextManager[None]:
        """Take the place of a call that waits for its first item for the block.

        Such a call takes one of the client's places for unary calls, so that without this limit
        there might be none left for those.

        Raises:
            BadRequest: All are taken.
        """
        return self._first_items.taken()

    def socket(self) -> AbstractContextManager[None]:
        """Take the place of a WebSocket for the block.

        Raises:
            BadRequest: All are taken.
        """
        return self._sockets.taken()


class _Limit:
    """A number of places.

    Args:
        most: The number.
        text: What is taken, after the number, for the error.
    """

    def __init__(self, most: int, text: str) -> None:
        self._most = most
        self._text = text
        self._count = 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        if self._count >= self._most:
            raise BadRequest(503, f"{self._count} {self._text}", SOON)
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1
