"""Connections inside one process, by addresses ``inproc://name``: no socket, no port.

Both ends are ordinary asyncio transports, with flow control, and may belong to event loops of
different threads. What one end writes is handed to the event loop of the other end. A `Link` has
the listener of an address, and what tests do to it: hold it, delay it, or cut it.
"""

import asyncio
import errno
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context
from itertools import count
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from rap.address import Address
from rap.clock import Clock, Timer, timer_of

__all__ = ["InprocServer", "InprocTransport", "Link", "connect", "link_of", "new_address"]

P = TypeVar("P", bound=asyncio.BaseProtocol)
_Item = tuple[str, Any]  # what one end hands to the other; see `InprocTransport.send`

_HIGH_WATER = 64 * 1024  # bytes; asyncio's default
_HOST = "127.0.0.1"  # of both ends, which are on one machine

# An address has one link as long as something listens there, is connected, or holds the link.
_links: "WeakValueDictionary[Address, Link]" = WeakValueDictionary()
_lock = threading.Lock()
_ports = count(1)
_numbers = count(1)


def new_address(name: str) -> Address:
    """Return an address inside the process at which nothing listens; it differs from all others.

    Args:
        name: What follows ``inproc://`` in its text. Other addresses may have it, too.
    """
    return Address("inproc", port=next(_numbers), path=name)


def link_of(address: Address) -> "Link":
    """Return the link of an address; it is made when it is first asked for."""
    with _lock:
        return _links.setdefault(address, Link())


class Link:
    """The way to one address: its listener, its open connections, and its faults.

    Any thread may use it.

    Attributes:
        listener: What accepts connections; `None` if nothing does.
        client_host: The IP address that the listener sees as that of its clients.
        is_held: Whether nothing passes, in either direction.
        delay: Seconds that each chunk takes, in either direction.
        clock: Source of the time of `delay`; `None` means that of the event loop.
        delays_set: How often `delay` was set.
    """

    def __init__(self) -> None:
        self.listener: InprocServer | None = None
        self.client_host = _HOST
        self.is_held = False
        self.delay = 0.0
        self.clock: Clock | None = None
        self.delays_set = 0
        self._transports: set[InprocTransport] = set()
        self._left: list[tuple[InprocTransport, _Item]] = []

    def set_client_host(self, host: str) -> None:
        """Let the listener see this IP address as that of clients that connect from now on."""
        self.client_host = host

    def set_delay(self, seconds: float, clock: Clock | None = None) -> None:
        """Let each chunk take so many seconds, in either direction; what is under way arrives."""
        self.delay = seconds
        self.clock = clock
        self.delays_set += 1
        self._let_each(InprocTransport.expedite)

    def hold(self) -> None:
        """Let nothing pass until `release`; connections stay open, and new ones get no answer."""
        self.is_held = True

    def release(self) -> None:
        """Let pass what was held."""
        with _lock:
            self.is_held = False
            left, self._left = self._left, []
        for peer, item in left:
            peer.hand(*item)
        self._let_each(InprocTransport.flush)

    def cut(self) -> None:
        """End all connections at once, as when a process dies: what is under way is lost."""
        self._let_each(InprocTransport.lose)

    def _let_each(self, act: "Callable[[InprocTransport], None]") -> None:
        for transport in self.transports:
            if not transport.loop.is_closed():  # with a client that was never closed
                transport.loop.call_soon_threadsafe(act, transport)

    @property
    def transports(self) -> "list[InprocTransport]":
        """The ends of all open connections."""
        with _lock:
            return list(self._transports)

    def bind(self, listener: "InprocServer") -> None:
        """Let a listener accept the connections.

        Raises:
            OSError: Another one does.
        """
        with _lock:
            if self.listener is not None:
                raise OSError(errno.EADDRINUSE, "another server of this process listens there")
            self.listener = listener

    def unbind(self, listener: "InprocServer") -> None:
        """Accept no more connections."""
        with _lock:
            if self.listener is listener:
                self.listener = None

    def add(self, transport: "InprocTransport") -> None:
        """Note an open connection."""
        with _lock:
            self._transports.add(transport)

    def leave(self, peer: "InprocTransport", items: Iterable[_Item]) -> None:
        """Hand over what an end that has ended had sent; if the link is held, at `release`."""
        with _lock:
            if self.is_held:
                self._left += [(peer, item) for item in items]
                return
        for item in items:
            peer.hand(*item)

    def discard(self, transport: "InprocTransport") -> None:
        """Forget a connection that has ended."""
        with _lock:
            self._transports.discard(transport)


class InprocServer:
    """A server that accepts connections to an address, like an `asyncio.Server`.

    Args:
        address: Where it listens.
        make: Makes the protocol of each connection; called in the running event loop.

    Raises:
        OSError: Another server listens there.
    """

    def __init__(self, address: Address, make: Callable[[], asyncio.BaseProtocol]) -> None:
        self.make = make
        self.loop = asyncio.get_running_loop()
        self.sockets: tuple[()] = ()
        self._link = link_of(address)
        self._link.bind(self)

    def close(self) -> None:
        """Stop accepting; connections stay open. Idempotent."""
        self._link.unbind(self)

    async def wait_closed(self) -> None:
        """Return at once: a connection that was accepted has its protocol."""


async def connect(address: Address, make: Callable[[], P]) -> P:
    """Return the protocol of a new connection to an address.

    Args:
        address: Where a server of this process listens.
        make: Makes the protocol of this end.

    Raises:
        OSError: Nothing listens there.
    """
    link = link_of(address)
    listener = link.listener
    if listener is None:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "no server of this process listens there")
    loop = asyncio.get_running_loop()
    port = next(_ports)
    protocol = make()
    here = InprocTransport(link, loop, protocol, peername=(_HOST, 0), sockname=(_HOST, port))
    there = InprocTransport(
        link, listener.loop, None, peername=(link.client_host, port), sockname=(_HOST, 0)
    )
    here.join(there)
    there.join(here)
    here.send("made", listener.make)
    protocol.connection_made(here)
    return protocol


class InprocTransport(asyncio.Transport):
    """One end of a connection inside the process.

    Args:
        link: The link that it belongs to.
        loop: The event loop of this end, in which everything here runs.
        protocol: The protocol of this end; `None` until the listener has made it.
        peername: IP address and port of the other end.
        sockname: IP address and port of this end.
    """

    def __init__(
        self,
        link: Link,
        loop: asyncio.AbstractEventLoop,
        protocol: asyncio.BaseProtocol | None,
        *,
        peername: tuple[str, int],
        sockname: tuple[str, int],
    ) -> None:
        super().__init__({"peername": peername, "sockname": sockname})
        self.loop = loop
        self._link = link
        self._protocol = protocol
        self._peer: InprocTransport
        self._outgoing: deque[_Item] = deque()  # that the link holds
        self._delayed: deque[tuple[Timer, int, _Item]] = deque()
        self._incoming: deque[bytes] = deque()  # that the protocol does not read now
        self._unread = 0  # bytes written that the other end's protocol has not got
        self._high, self._low = _HIGH_WATER, _HIGH_WATER // 4
        self._is_writing_paused = False
        self._is_reading_paused = False
        self._is_closing = False
        self._is_lost = False
        self._has_ended = False  # the other end writes no more
        self._context = Context()  # data must not arrive in the context of its sender
        link.add(self)

    def join(self, peer: "InprocTransport") -> None:
        """Set the other end."""
        self._peer = peer

    # Between the two ends.

    def send(self, kind: str, value: Any = None) -> None:
        """Hand something to the other end, in order: made, data, read, end or lost."""
        if self._link.is_held or self._outgoing:
            self._outgoing.append((kind, value))
        else:
            self._pass(kind, value)

    def flush(self) -> None:
        """Hand over what the link has held."""
        while self._outgoing and not self._link.is_held:
            self._pass(*self._outgoing.popleft())

    def _pass(self, kind: str, value: Any) -> None:
        if self._link.delay or self._delayed:
            timer = timer_of(self._link.clock, self.loop)(self._link.delay, self._pass_oldest)
            self._delayed.append((timer, self._link.delays_set, (kind, value)))
        else:
            self._pass_now(kind, value)

    def _pass_oldest(self) -> None:
        self._pass_now(*self._delayed.popleft()[2])

    def expedite(self) -> None:
        """Hand over what the link has delayed before its delay was set."""
        while self._delayed and self._delayed[0][1] != self._link.delays_set:
            self._delayed[0][0].cancel()
            self._pass_oldest()

    def _pass_now(self, kind: str, value: Any) -> None:
        peer = self._peer
        if peer.loop is self.loop:
            self.loop.call_soon(peer.take, kind, value, context=peer._context)
        elif not peer.hand(kind, value) and kind in ("made", "data"):
            self.loop.call_soon(self.lose, context=self._context)

    def hand(self, kind: str, value: Any) -> bool:
        """Let this end take something, from any thread; return whether its loop still runs."""
        if self.loop.is_closed():
            return False
        self.loop.call_soon_threadsafe(self.take, kind, value, context=self._context)
        return True

    def take(self, kind: str, value: Any) -> None:
        """Take what the other end has handed over."""
        if self._is_lost:
            return
        if kind == "data":
            self._incoming.append(value)
            self._deliver()
        elif kind == "read":
            self._on_read(value)
        elif kind == "made":
            self._protocol = value()
            self._protocol.connection_made(self)
        elif kind == "end":
            self._has_ended = True
            self._on_read(self._unread)  # what it has not read by now, it never reads
            self._deliver()
        else:
            self.lose()

    def _deliver(self) -> None:
        """Hand what has arrived to the protocol, unless it does not read."""
        while self._incoming and not (self._is_reading_paused or self._is_closing):
            data = self._incoming.popleft()
            if isinstance(self._protocol, asyncio.BufferedProtocol):
                self._fill(self._protocol, data)
                continue
            self.send("read", len(data))
            if isinstance(self._protocol, asyncio.Protocol):
                self._protocol.data_received(data)
        if self._has_ended and not self._incoming and not self._is_closing:
            if isinstance(self._protocol, asyncio.Protocol | asyncio.BufferedProtocol):
                self._protocol.eof_received()
            self.close()

    def _fill(self, protocol: asyncio.BufferedProtocol, data: bytes) -> None:
        buffer = memoryview(protocol.get_buffer(len(data)))
        size = min(len(buffer), len(data))
        buffer[:size] = data[:size]
        if size < len(data):
            self._incoming.appendleft(data[size:])
        self.send("read", size)
        protocol.buffer_updated(size)

    def _on_read(self, size: int) -> None:
        self._unread -= size
        if self._is_writing_paused and self._unread <= self._low:
            self._is_writing_paused = False
            if self._protocol is not None:
                self._protocol.resume_writing()
        if self._is_closing and not self._unread:
            self._end(None)

    def lose(self) -> None:
        """End this end now, as when the connection is reset."""
        self._end(ConnectionResetError(errno.ECONNRESET, "the connection was cut"))

    def _end(self, error: Exception | None) -> None:
        """Tell the protocol that the connection has ended."""
        if self._is_lost:
            return
        self._is_lost = self._is_closing = True
        self._incoming.clear()
        if error is None and self._outgoing:
            self._link.leave(self._peer, tuple(self._outgoing))
        self._outgoing.clear()
        self._link.discard(self)
        if self._protocol is not None:
            self._protocol.connection_lost(error)

    # What protocols call.

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Set the protocol of this end."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol of this end."""
        assert self._protocol is not None
        return self._protocol

    def is_closing(self) -> bool:
        """Return whether this end is closing or has ended."""
        return self._is_closing

    def is_reading(self) -> bool:
        """Return whether what arrives is handed to the protocol."""
        return not (self._is_reading_paused or self._is_closing)

    def pause_reading(self) -> None:
        """Hand nothing more to the protocol."""
        self._is_reading_paused = True

    def resume_reading(self) -> None:
        """Hand what has arrived, and what will, to the protocol."""
        if self._is_reading_paused:
            self._is_reading_paused = False
            self.loop.call_soon(self._deliver, context=self._context)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write to the other end."""
        if not data or self._is_closing or self._has_ended:
            return
        self._unread += len(data)
        self.send("data", bytes(data))
        if self._unread > self._high and not self._is_writing_paused:
            self._is_writing_paused = True
            if self._protocol is not None:
                self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        """Return `False`: an end that writes no more closes."""
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set when the protocol is told to pause and to resume writing, in bytes."""
        if high is None:
            high = _HIGH_WATER if low is None else 4 * low
        self._high = high
        self._low = high // 4 if low is None else low

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the limits, the lower one first."""
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        """Return the bytes that the other end's protocol has not read."""
        return self._unread

    def close(self) -> None:
        """Close this end when the other one has read what was written."""
        if self._is_closing:
            return
        self._is_closing = True
        self._incoming.clear()
        self.send("end")
        self.loop.call_soon(self._close_if_read, context=self._context)

    def _close_if_read(self) -> None:
        if not self._unread:
            self._end(None)

    def abort(self) -> None:
        """Close both ends at once; what was written may be lost."""
        if self._is_lost:
            return
        self._is_closing = True
        self._pass("lost", None)
        self.loop.call_soon(self._end, None, context=self._context)
