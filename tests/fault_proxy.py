"""A TCP proxy that loses answers: the server has acted, and the client never hears it."""

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import Self, cast

__all__ = ["Fate", "FaultProxy"]


class Fate(Enum):
    """What becomes of something that the server sent."""

    PASS = "pass"
    CUT = "cut"  # the connection is closed instead
    SWALLOW = "swallow"  # it vanishes; the connection stays open and silent
    HOLD = "hold"  # it arrives when `FaultProxy.release` is called


class FaultProxy:
    """Stands before a server on loopback while it is entered.

    Args:
        port: Of the server.

    Attributes:
        judge: Decides on each chunk that the server sent; all pass at first.
        judge_sent: Decides on each chunk that a client sent, likewise.
        lost: How many did not pass.
    """

    def __init__(self, port: int) -> None:
        self.judge: Callable[[bytes], Fate] = lambda _: Fate.PASS
        self.judge_sent: Callable[[bytes], Fate] = lambda _: Fate.PASS
        self.lost = 0
        self.ends: set[_End] = set()
        self._held: list[tuple[_End, bytes]] = []
        self._upstream = port
        self._dials: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def dial(self, client: "_End") -> None:
        """Connect a client with the server."""
        task = asyncio.create_task(self._dial(client))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    def freeze(self) -> None:
        """Let nothing pass, either way, until `release`; connections stay open."""
        self.judge = self.judge_sent = lambda _: Fate.HOLD

    def release(self) -> None:
        """Let everything pass, first what was held."""
        self.judge = self.judge_sent = lambda _: Fate.PASS
        held, self._held = self._held, []
        for end, data in held:
            if not end.ended.done():
                end.transport.write(data)

    def hold(self, end: "_End", data: bytes) -> None:
        """Keep something for one end until `release`."""
        self._held.append((end, data))

    def break_connection(self, address: tuple[str, int]) -> None:
        """Let nothing pass any more on one connection.

        Args:
            address: Of the client's end.
        """
        for end in self.ends:
            if end.transport.get_extra_info("peername") == address:
                end.break_both()

    def break_open(self) -> None:
        """Let nothing pass any more on the connections that are open now."""
        for end in self.ends:
            end.is_broken = True

    def fate(self, data: bytes, *, is_answer: bool) -> Fate:
        fate = (self.judge if is_answer else self.judge_sent)(data)
        self.lost += fate is not Fate.PASS
        return fate

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _End(self), "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await asyncio.gather(*self._dials, return_exceptions=True)
        while self.ends:
            end = next(iter(self.ends))
            end.transport.abort()
            await end.ended

    async def _dial(self, client: "_End") -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: _End(self, client), "127.0.0.1", self._upstream)
        except OSError:  # the server is down
            client.transport.abort()


class _End(asyncio.Protocol):
    """One of the two connections that a proxied one consists of."""

    def __init__(self, proxy: FaultProxy, client: "_End | None" = None) -> None:
        self.is_broken = False
        self.ended = asyncio.get_running_loop().create_future()
        self._proxy = proxy
        self._is_server = client is not None
        self._other = client
        self._early: list[bytes] = []  # from a client, before the server is there

    def break_both(self) -> None:
        """Let nothing pass any more, either way."""
        self.is_broken = True
        if self._other is not None:
            self._other.is_broken = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._proxy.ends.add(self)
        if self._other is None:
            self._proxy.dial(self)
            return
        self._other._other = self
        if self._other.ended.done():
            self.transport.abort()
        self.transport.writelines(self._other._early)

    def data_received(self, data: bytes) -> None:
        if self._other is None:
            self._early.append(data)
            return
        if self.is_broken:
            return
        fate = self._proxy.fate(data, is_answer=self._is_server)
        if fate is Fate.PASS:
            self._other.transport.write(data)
        elif fate is Fate.HOLD:
            self._proxy.hold(self._other, data)
        elif fate is Fate.CUT:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._proxy.ends.discard(self)
        self.ended.set_result(None)
        if self._other is not None:
            self._other.transport.abort()
