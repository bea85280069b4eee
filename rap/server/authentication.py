"""Who may connect: the token in a client's Hello is verified before anything else is read.

A client that is refused is told so in a GoAway with the code UNAUTHENTICATED, in answer to its
Hello: it knows before it has made a call.
"""

import asyncio
import dataclasses
import inspect
import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from rap.address import Peer
from rap.clock import Clock
from rap.errors import Code, ConnectionClosed
from rap.wire.frames import HEADER, HEADER_SIZE, HELLO, MAX_HELLO, parse_frames, read_hello

if TYPE_CHECKING:
    from rap.server.config import ServerConfig
    from rap.transport import Connection

__all__ = [
    "Authenticator",
    "Failures",
    "HelloReader",
    "Token",
    "Verifier",
    "Verify",
    "authenticator_of",
    "verify_with",
]


_WINDOW = 60.0  # seconds
_AT_ONCE = 10  # times the limit: attempts under way from an address of which none has failed
_MAX_KEPT = 10_000  # addresses; the one that failed first is forgotten for one more


class Failures:
    """Counts failures in windows of a minute that begin with the first.

    Args:
        limit: Failures of one address in a window, from which on it is blocked until its end.
        clock: Source of time.

    Attributes:
        total: All failures so far.
    """

    def __init__(self, limit: int, clock: Clock) -> None:
        self.total = 0
        self._limit = limit
        self._clock = clock
        self._windows: dict[str, tuple[float, int]] = {}  # when it ends, failures; oldest first
        self._trying: dict[str, int] = {}  # attempts without a verdict
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    def blocked(self, peer: Peer) -> float:
        """Return for how many seconds the address of a peer is blocked; 0 if it is not."""
        end, count = self._windows.get(peer.network, (0.0, 0))
        return max(0.0, end - self._clock.monotonic()) if count >= self._limit else 0.0

    def add(self, peer: Peer) -> None:
        """Count a failure of a peer."""
        self.total += 1
        key, now = peer.network, self._clock.monotonic()
        end, count = self._windows.get(key, (0.0, 0))
        if now >= end:
            self._windows.pop(key, None)
            end, count = now + _WINDOW, 0
        self._windows[key] = (end, count + 1)
        if len(self._windows) > _MAX_KEPT:
            del self._windows[next(iter(self._windows))]

    @asynccontextmanager
    async def attempt(self, peer: Peer) -> AsyncIterator[float]:
        """Wait for a place, and keep it until the verdict; gives what `blocked` says by then."""
        network = peer.network
        while not (wait := self.blocked(peer)) and self._trying.get(network, 0) >= self._most(peer):
            await self._place(network)
        self._trying[network] = self._trying.get(network, 0) + 1
        try:
            yield wait
        finally:
            self._trying[network] -= 1
            if not self._trying[network]:
                del self._trying[network]
            self._wake(network, all_of_them=bool(self.blocked(peer)))

    def _most(self, peer: Peer) -> int:
        """How many attempts of an address may be under way."""
        end, count = self._windows.get(peer.network, (0.0, 0))
        failed = count if self._clock.monotonic() < end else 0
        return self._limit - failed if failed else _AT_ONCE * self._limit

    async def _place(self, network: str) -> None:
        place = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(network, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.cancelled():
                self._forget(network, place)
            else:
                self._wake(network)  # it was this one's turn
            raise

    def _wake(self, network: str, *, all_of_them: bool = False) -> None:
        places = self._waiting.get(network)
        while places:
            place = places.popleft()
            if not place.done():
                place.set_result(None)
                if not all_of_them:
                    break
        if not places:
            self._waiting.pop(network, None)

    def _forget(self, network: str, place: asyncio.Future[None]) -> None:
        places = self._waiting.get(network)
        if places is not None and place in places:
            places.remove(place)
            if not places:
                del self._waiting[network]


Token = str | bytes
# What users give; see `verify_with`.
Verifier = Token | Callable[..., Any]
Verify = Callable[[Token, Peer], Any]


def verify_with(verifier: object) -> Verify:
    """Return the function that tells who a token belongs to.

    Args:
        verifier: The one right token; or a function, plain or ``async``, of the token, or of token
            and `Peer`. It returns an identity for `Peer.identity`: false for nobody, `True` for
            whom TLS knows, or nobody in particular.

    Raises:
        ValueError: It is an empty token.
        TypeError: It is something else.
    """
    if isinstance(verifier, str | bytes):
        if not verifier:
            raise ValueError("verify_token must not be empty")
        right = _as_bytes(verifier)
        from hmac import compare_digest  # loads hashlib, which few servers need

        return lambda token, peer: compare_digest(_as_bytes(token), right)
    if not callable(verifier):
        raise TypeError(f"verify_token must be a token or a function, got {verifier!r}")
    verify: Callable[..., Any] = verifier
    return verify if _takes_peer(verify) else lambda token, peer: verify(token)


def _takes_peer(verify: Callable[..., Any]) -> bool:
    try:
        inspect.signature(verify).bind("token", "peer")
    except (TypeError, ValueError):
        return False
    return True


def _as_bytes(token: Token) -> bytes:
    return token.encode("utf-8", "surrogatepass") if isinstance(token, str) else token


class HelloReader(asyncio.Protocol):
    """Reads in the place of a connection that is held back, until it is decided whether to serve.

    Args:
        conn: The connection.
    """

    def __init__(self, conn: "Connection") -> None:
        self._conn = conn
        self._data = bytearray()
        self._size: int | None = None  # of the Hello, with its header
        self._done: asyncio.Future[None] = conn.new_future()

    async def read(self) -> dict[str, Any] | None:
        """Return what the Hello says; `None` if the connection has ended or it says nothing."""
        assert self._conn.held is not None
        self._conn.held.hand_to(self)
        await self._done
        if self._conn.closed:
            return None
        try:
            frame = parse_frames(bytes(self._data[: self._size]))[0]
            return read_hello(frame.body) if frame.kind == HELLO else None
        except ValueError:
            return None

    def hand_over(self) -> None:
        """Put the connection in its place, and give it what was read."""
        if not self._conn.closed:
            self._conn.transport.set_protocol(self._conn)
            if self._conn.held is not None:
                self._conn.held.release()
            self._conn.data_received(bytes(self._data))

    def data_received(self, data: bytes) -> None:
        """Keep it; stop reading when the Hello is there."""
        self._data += data
        if self._size is None and len(self._data) >= HEADER_SIZE:
            self._size = HEADER_SIZE + int(HEADER.unpack_from(self._data)[0])
            if self._size > HEADER_SIZE + MAX_HELLO:
                text = f"{self._conn.peer}: a Hello of {self._size} bytes, {MAX_HELLO} at most"
                self._conn.abort(ConnectionClosed(text))
        if self._size is not None and len(self._data) >= self._size:
            self._conn.transport.pause_reading()
            self._settle()

    def pause_writing(self) -> None:
        """Tell the connection."""
        self._conn.pause_writing()

    def resume_writing(self) -> None:
        """Tell the connection."""
        self._conn.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the connection."""
        self._conn.connection_lost(exc)
        self._settle()

    def _settle(self) -> None:
        if not self._done.done():
            self._done.set_result(None)


_LEAVE_TIMEOUT = 1.0  # seconds for a client that was refused to close by itself


class Authenticator:
    """Admits connections whose token is right.

    Args:
        verify: Tells who a token belongs to.
        failures: Counts what was refused.
        timeout: Seconds for the verdict.
        log: Logger of the server.
    """

    def __init__(
        self, verify: Verify, failures: Failures, timeout: float, log: logging.Logger
    ) -> None:
        self.failures = failures
        self._verify = verify
        self._timeout = timeout
        self._log = log

    async def admit(self, conn: "Connection") -> bool:
        """Let a connection that is held back go on; `False`: it was told why not."""
        reader = HelloReader(conn)
        hello = await reader.read()
        if conn.closed:
            return False
        code, reason = await self._judge(conn, (hello or {}).get("token"))
        if code is Code.OK:
            reader.hand_over()
            conn.protocol.peer_hello.pop("token", None)
            return True
        self._log.warning("connection with %s refused: %s", conn.peer, reason)
        conn.go_away(final=True, code=code, message=reason)  # what else it sent is not served
        reader.hand_over()
        await asyncio.wait([conn.ended], timeout=_LEAVE_TIMEOUT)
        return False

    async def _judge(self, conn: "Connection", token: object) -> tuple[Code, str]:
        """Return OK, or a code and the reason; sets the identity of the peer."""
        try:
            async with asyncio.timeout(self._timeout), self.failures.attempt(conn.peer) as wait:
                if wait:
                    text = "too many refused tokens from this address; "
                    return Code.UNAUTHENTICATED, f"{text}try again in {math.ceil(wait)} s"
                if not isinstance(token, str | bytes):
                    return self._refused(conn, "a token is needed")
                identity = self._verify(token, conn.peer)
                if isinstance(identity, Awaitable):
                    identity = await identity
                if not identity:
                    return self._refused(conn, "the token was refused")
        except TimeoutError:
            return Code.UNAVAILABLE, f"the token was not verified in {self._timeout:g} s"
        except Exception:
            self._log.exception("verify_token failed for the connection with %s", conn.peer)
            return Code.UNAVAILABLE, "the token could not be verified"
        if identity is not True:
            conn.peer = dataclasses.replace(conn.peer, identity=identity)
        return Code.OK, ""

    def _refused(self, conn: "Connection", reason: str) -> tuple[Code, str]:
        self.failures.add(conn.peer)
        return Code.UNAUTHENTICATED, reason


def authenticator_of(
    config: "ServerConfig", clock: Clock, log: logging.Logger
) -> Authenticator | None:
    """Return what admits the connections of a server; `None` if all may connect."""
    if config.verify_token is None:
        return None
    failures = Failures(config.max_token_failures, clock)
    # A connection that has said nothing is cut at `handshake_timeout`, so the verdict comes before.
    limit = config.handshake_timeout / 2
    return Authenticator(verify_with(config.verify_token), failures, limit, log)
