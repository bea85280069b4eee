"""Which clients may connect: the token in a client's Hello is verified before anything else.

A refused client gets a GoAway with the code UNAUTHENTICATED in reply to its Hello, so it knows
before it makes a call.
"""

import asyncio
import inspect
import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from rap.address import Peer
from rap.clock import Clock
from rap.errors import Code
from rap.schema.signature import asking_for
from rap.tracebacks import compact
from rap.transport import Connection
from rap.transport.connection import AdmissionGate

__all__ = [
    "AuthToken",
    "AuthenticationThrottle",
    "Authenticator",
    "Verifier",
    "Verify",
    "identify",
    "make_authenticator",
    "verify_with",
]

_MISSING = (
    "a token is needed (option token of the client; RAP_TOKEN or --token of the command line)"
)
_REFUSED = "the token was refused: verify_token of the server does not accept this client's token"
_LEAVE_TIMEOUT = 1.0  # seconds for a refused client to close the connection itself
_WINDOW = 60.0  # seconds in which failures of an address are counted
_AT_ONCE = 10  # times the limit: concurrent attempts of an address without a failure
_MAX_ADDRESSES = 10_000  # remembered; the one that failed first is dropped for a new one

# Results of a verifier that are true whatever the token is.
_NO_IDENTITY = (Peer, Awaitable, Iterator, AsyncIterator, BaseException, partial, type)

AuthToken = str | bytes
Verifier = AuthToken | Callable[..., Any]  # what users give as `verify_token`; see `verify_with`
Verify = Callable[[AuthToken, Peer], Any]


def make_authenticator(
    verifier: Verifier,
    *,
    max_failures: int,
    handshake_timeout: float,
    clock: Clock,
    log: logging.Logger,
) -> "Authenticator":
    """Return what authenticates the connections of a server.

    Args:
        verifier: The token, or the function that verifies tokens; see `verify_with`.
        max_failures: Failures per minute after which an address is blocked.
        handshake_timeout: Seconds after which a connection without a Hello is closed.
        clock: Source of time.
        log: Logger of the server.
    """
    throttle = AuthenticationThrottle(max_failures, clock)
    # The connection is closed at `handshake_timeout`, so the verdict has to come earlier.
    return Authenticator(verify_with(verifier), throttle, handshake_timeout / 2, log)


def verify_with(verifier: object) -> Verify:
    """Return the function that finds out to whom a token belongs.

    Args:
        verifier: The only valid token; or a function, plain or ``async``, of the token, or of the
            token and the `Peer`; see `asking_for`. It returns the identity, which becomes
            `Peer.identity`. A false value refuses the client. `True` accepts it, and leaves the
            identity that TLS found.

    Raises:
        ValueError: It is an empty token.
        TypeError: It is neither a token nor a function that can be called with one.
    """
    if isinstance(verifier, str | bytes):
        if not verifier:
            raise ValueError("verify_token must not be empty")
        expected = _as_bytes(verifier)
        from hmac import compare_digest  # loads hashlib, which few servers need

        return lambda token, peer: compare_digest(_as_bytes(token), expected)
    if not callable(verifier):
        raise TypeError(f"verify_token must be a token or a function, got {verifier!r}")
    verify: Callable[..., Any] = verifier
    with_peer = asking_for(verify, 1, "peer", option="verify_token")
    return with_peer or (lambda token, peer: verify(token))


async def identify(verify: Verify, token: AuthToken, peer: Peer) -> Any:
    """Return the identity of a token's owner; a false value refuses the token.

    Raises:
        TypeError: The verifier returned what cannot be an identity, but is true, and so would admit
            every token: the peer, a function or class, something to be awaited or iterated over, or
            an exception. That is a mistake in the verifier.
    """
    identity = verify(token, peer)
    if isinstance(identity, Awaitable):
        identity = await identity
    if (
        identity is NotImplemented
        or isinstance(identity, _NO_IDENTITY)
        or inspect.isroutine(identity)
    ):
        kind = "the peer" if identity is peer else f"a {type(identity).__name__}"
        raise TypeError(f"verify_token returned {kind}, which cannot be the identity of a client")
    return identity


def _as_bytes(token: AuthToken) -> bytes:
    return token.encode("utf-8", "surrogatepass") if isinstance(token, str) else token


class Authenticator:
    """Admits the connections whose token is valid.

    Args:
        verify: Returns the identity of a token's owner.
        throttle: Counts failures, and blocks addresses with too many.
        timeout: Seconds for the verdict.
        log: Logger of the server.
    """

    def __init__(
        self,
        verify: Verify,
        throttle: "AuthenticationThrottle",
        timeout: float,
        log: logging.Logger,
    ) -> None:
        self.throttle = throttle
        self._verify = verify
        self._timeout = timeout
        self._log = log
        self._round = 0  # changes when tokens have to be verified again

    def verify_again(self) -> None:
        """Verify the tokens once more whose verification has begun: some may be valid no longer."""
        self._round += 1

    async def admit(self, conn: Connection) -> bool:
        """Verify a paused connection and resume it; `False`: it was refused and told why."""
        assert conn.gate is not None
        gate = conn.gate
        await gate.receive_hello()
        if conn.closed:
            return False
        code, reason = await self._judge(conn, gate)
        if code is Code.OK:
            conn.admit()
            return True
        self._log.warning("connection with %s refused: %s", conn.peer, reason)
        conn.go_away(final=True, code=code, message=reason)  # later frames are not served
        conn.admit()
        await asyncio.wait([conn.ended], timeout=_LEAVE_TIMEOUT)
        return False

    async def _judge(self, conn: Connection, gate: AdmissionGate) -> tuple[Code, str]:
        """Return OK, or a code and a reason; set the identity of the peer.

        The Hello is decoded when the address may try a token, and not before.
        """
        try:
            async with asyncio.timeout(self._timeout), self.throttle.attempt(conn.peer) as wait:
                if wait:
                    text = "too many refused tokens from this address; "
                    return Code.UNAUTHENTICATED, f"{text}try again in {math.ceil(wait)} s"
                token = (gate.decode_hello() or {}).get("token")
                if not isinstance(token, str | bytes):
                    return self._refused(conn, _MISSING)
                identity = await self._identify(token, conn.peer)
                if not identity:
                    return self._refused(conn, _REFUSED)
        except TimeoutError:
            return Code.UNAVAILABLE, f"the token was not verified in {self._timeout:g} s"
        except Exception as exc:  # of the user's verify_token
            text = "verify_token failed for the connection with %s"
            self._log.exception(text, conn.peer, exc_info=compact(exc))
            return Code.UNAVAILABLE, "the token could not be verified"
        if identity is not True:
            conn.set_identity(identity)
        return Code.OK, ""

    async def _identify(self, token: AuthToken, peer: Peer) -> Any:
        """Return the identity of a token's owner, which no `verify_again` has made doubtful."""
        while True:
            began = self._round
            identity = await identify(self._verify, token, peer)
            if began == self._round:
                return identity

    def _refused(self, conn: Connection, reason: str) -> tuple[Code, str]:
        self.throttle.record_failure(conn.peer)
        return Code.UNAUTHENTICATED, reason


class AuthenticationThrottle:
    """Limits failed authentication per address, in windows of a minute that begin with a failure.

    Attempts whose verdict is pending count too: an address cannot try many tokens at once.

    Args:
        limit: Failures of one address in a window after which it is blocked for the rest of it.
        clock: Source of time.

    Attributes:
        failures: Number of failures so far, from all addresses.
    """

    def __init__(self, limit: int, clock: Clock) -> None:
        self.failures = 0
        self._limit = limit
        self._clock = clock
        # End of the window and failures in it, by network; oldest first.
        self._windows: dict[str, tuple[float, int]] = {}
        self._pending: dict[str, int] = {}  # attempts without a verdict
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    def blocked_for(self, peer: Peer) -> float:
        """Return the seconds for which the address of a peer is blocked; 0 if it is not."""
        end, count = self._windows.get(peer.network, (0.0, 0))
        return max(0.0, end - self._clock.monotonic()) if count >= self._limit else 0.0

    def record_failure(self, peer: Peer) -> None:
        """Count a failure of a peer."""
        self.failures += 1
        key, now = peer.network, self._clock.monotonic()
        end, count = self._windows.get(key, (0.0, 0))
        if now >= end:
            self._windows.pop(key, None)
            end, count = now + _WINDOW, 0
        self._windows[key] = (end, count + 1)
        if len(self._windows) > _MAX_ADDRESSES:
            del self._windows[next(iter(self._windows))]

    @asynccontextmanager
    async def attempt(self, peer: Peer) -> AsyncIterator[float]:
        """Wait for a slot and hold it until the verdict; yields the seconds of `blocked_for`."""
        network = peer.network
        while not (wait := self.blocked_for(peer)) and self._is_full(peer):
            await self._wait_for_slot(network)
        self._pending[network] = self._pending.get(network, 0) + 1
        try:
            yield wait
        finally:
            self._pending[network] -= 1
            if not self._pending[network]:
                del self._pending[network]
            self._wake(network, everyone=bool(self.blocked_for(peer)))

    def _is_full(self, peer: Peer) -> bool:
        """Return whether as many attempts of an address are pending as may be."""
        end, count = self._windows.get(peer.network, (0.0, 0))
        failed = count if self._clock.monotonic() < end else 0
        slots = self._limit - failed if failed else _AT_ONCE * self._limit
        return self._pending.get(peer.network, 0) >= slots

    async def _wait_for_slot(self, network: str) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(network, deque()).append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                self._remove(network, waiter)
            else:
                self._wake(network)  # the slot goes to the next one
            raise

    def _wake(self, network: str, *, everyone: bool = False) -> None:
        waiters = self._waiting.get(network)
        while waiters:
            waiter = waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                if not everyone:
                    break
        if not waiters:
            self._waiting.pop(network, None)

    def _remove(self, network: str, waiter: asyncio.Future[None]) -> None:
        waiters = self._waiting.get(network)
        if waiters is not None and waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                del self._waiting[network]
