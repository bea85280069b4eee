"""Large JSON, which is read and written outside the event loop, by turns of the clients.

What is small takes at most about 2 ms, and is done on the event loop.
"""

from collections.abc import Callable, Collection
from typing import Any, Self, TypeVar

from starlette.requests import HTTPConnection

from rap.address import Peer
from rap.gateway.errors import BadRequest
from rap.shared_thread import SharedThread

__all__ = ["SOON", "LargeJson", "is_large_text", "is_large_value", "network_of"]

SOON = {"Retry-After": "1"}  # headers of a refusal that may soon be none
_FEW_VALUES = 4_096
_SHORT = 1 << 20  # bytes
_VALUE = _SHORT // _FEW_VALUES  # bytes of strings that take as long as a value
_SIZED = dict, list, tuple, str, bytes, bytearray, memoryview

R = TypeVar("R")


class LargeJson:
    """Converts the large JSON of one client; all share one thread.

    The networks of the clients take turns at it, and so do the connections of each. What a client
    may have waiting is limited by `max_per_address` and `max_body`.

    Args:
        thread: The thread; by default another one. Its clients have two parts.
        network: Network of the client.
        port: Its port; 0 behind a proxy.
    """

    def __init__(
        self, thread: SharedThread | None = None, network: str = "", port: int = 0
    ) -> None:
        # One thread, so that large texts never keep more than one core from the event loop.
        self._thread = thread or SharedThread("rap gateway json", levels=2)
        self._client = network, port

    def of(self, connection: HTTPConnection) -> Self:
        """Return what converts the large JSON of the client of a request."""
        client = connection.client
        if client is None:
            return type(self)(self._thread)
        return type(self)(self._thread, network_of(client.host), client.port)

    async def run(self, convert: Callable[..., R], *args: Any) -> R:
        """Convert something when it is the client's turn.

        If the caller is cancelled before, nothing is converted.

        Raises:
            BadRequest: The machine has too many threads for now.
        """
        try:
            return await self._thread.run(self._client, convert, *args)
        except RuntimeError as exc:
            if type(exc) is not RuntimeError:  # such as a RecursionError of `convert`
                raise
            raise BadRequest(503, f"large JSON cannot be converted now: {exc}", SOON) from exc


def network_of(host: str) -> str:
    """Return the network that counts as one client."""
    try:
        return Peer(host).network
    except ValueError:  # the ASGI server names its clients otherwise
        return host


def is_large_text(data: bytes) -> bool:
    """Return whether a JSON text takes long to parse."""
    return len(data) > _SHORT or sum(map(data.count, b",:[{")) > _FEW_VALUES


def is_large_value(value: Any) -> bool:
    """Return whether a value takes long to write as JSON."""
    found, inside = 0, [value] if isinstance(value, _SIZED) else []
    while inside:
        each = inside.pop()
        inner: Collection[Any]
        if isinstance(each, dict):
            inner = each.values()
        elif isinstance(each, list | tuple):
            inner = each
        else:
            found += len(each) // _VALUE
            continue
        found += len(inner)
        if found > _FEW_VALUES:
            return True
        inside += [one for one in inner if isinstance(one, _SIZED)]
    return found > _FEW_VALUES
