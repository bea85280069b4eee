"""Protection against replayed calls: a window for timestamps, and nonces that are used once."""

import logging
from typing import Literal

from rap.clock import Clock, Pace, clock_of
from rap.errors import CallError, Code, Unauthenticated, Unavailable
from rap.shared_state import MemoryNonces, NonceStore, StateUnavailable, state_from_url
from rap.shared_state.base import check_number

__all__ = ["Fallback", "ReplayGuard"]

_LOG_PAUSE = 60.0  # seconds between two log records that the shared store does not answer
_log = logging.getLogger("rap.server")

Fallback = Literal["local"] | None


class ReplayGuard:
    """Admits each call once, and only near the time at which it was made.

    A nonce is remembered for at least twice the timeout, because a call from a client whose clock
    is ahead stays fresh that long.

    Args:
        timeout: Seconds that the timestamp of a call may differ from this machine's clock.
        nonce_timeout: Seconds that a nonce is remembered.
        store: URL or object of the nonce store that all instances share. It is asked in addition
            to the nonces of this process.
        fallback: ``local`` lets this process decide alone while the store does not answer.
        clock: Source of time.

    Attributes:
        results: Number of calls by result: ``new`` was admitted, ``alone`` was admitted by this
            process alone, ``replayed`` and ``stale`` (by its timestamp) were refused, and
            ``unavailable`` was refused because the store did not answer.

    Raises:
        ValueError: An option is invalid; the message names it.
    """

    def __init__(
        self,
        timeout: float,
        nonce_timeout: float,
        store: str | NonceStore | None = None,
        fallback: Fallback = None,
        clock: Clock | None = None,
    ) -> None:
        self.set_timeout(timeout)
        self.set_nonce_timeout(nonce_timeout)
        if fallback not in ("local", None):
            raise ValueError(f"nonce_fallback must be 'local' or None, got {fallback!r}")
        if fallback is not None and store is None:
            raise ValueError("nonce_fallback needs a nonce_store")
        self._fallback = fallback
        self._clock = clock_of(clock)
        self._own = MemoryNonces(clock=self._clock)
        self._owns_shared = isinstance(store, str)
        if isinstance(store, str):
            store = state_from_url(store, clock=self._clock, option="nonce_store").nonces()
        elif store is not None and not callable(getattr(store, "claim", None)):
            raise ValueError(f"nonce_store must be a URL or a NonceStore, got {store!r}")
        self._shared = store
        self.results = dict.fromkeys(("new", "alone", "replayed", "stale", "unavailable"), 0)
        self._is_away = False  # the shared store did not answer the last question
        self._log_pace = Pace(_LOG_PAUSE, self._clock.monotonic)

    def set_timeout(self, seconds: float) -> None:
        """Set the seconds that the timestamp of a call may differ from this machine's clock.

        Raises:
            ValueError: It is not a number above 0.
        """
        self._timeout = check_number("timeout", seconds, least=0, above=True)

    def set_nonce_timeout(self, seconds: float) -> None:
        """Set the seconds that new nonces are remembered.

        Raises:
            ValueError: It is not a number above 0.
        """
        self._nonce_timeout = check_number("nonce_timeout", seconds, least=0, above=True)

    async def admit(self, nonce: bytes, made: float, validity: float) -> None:
        """Return if the call may run.

        Args:
            nonce: The nonce of the call.
            made: Seconds since the epoch at which it was made, by the client's clock.
            validity: Seconds that the client allows the timestamp to differ.

        Raises:
            CallError: FAILED_PRECONDITION: the timestamp is too old, or in the future.
            Unauthenticated: The call is a replay.
            Unavailable: The nonce store does not answer, or is full.
        """
        off = self._clock.time() - made
        window = min(self._timeout, validity)
        if not -window <= off <= window:
            self.results["stale"] += 1
            when = f"{off:.1f} s ago" if off > 0 else f"{-off:.1f} s in the future"
            raise CallError(
                f"the call's timestamp is {when}, {window:g} s are allowed; are the clocks right?",
                code=Code.FAILED_PRECONDITION,
                details={"reason": "timestamp", "off": off, "timeout": window},
            )
        ttl = max(self._nonce_timeout, 2.0 * self._timeout)
        try:
            is_new = await self._own.claim(nonce, ttl=ttl)
        except StateUnavailable as exc:
            self.results["unavailable"] += 1
            raise Unavailable(f"whether the call is a replay cannot be known: {exc}") from exc
        if not is_new or not await self._is_new_to_all(nonce, ttl):
            self.results["replayed"] += 1
            raise Unauthenticated("the call was made before", details={"reason": "replay"})

    def __len__(self) -> int:
        """Return how many nonces this process remembers."""
        return len(self._own)

    async def aclose(self) -> None:
        """Release the shared store if it was given as a URL; an object is closed by its owner."""
        if self._shared is not None and self._owns_shared:
            await self._shared.aclose()

    async def _is_new_to_all(self, nonce: bytes, ttl: float) -> bool:
        """Ask the shared store.

        Raises:
            Unavailable: It does not answer, and this process may not decide alone.
        """
        if self._shared is None:
            self.results["new"] += 1
            return True
        try:
            is_new = await self._shared.claim(nonce, ttl=ttl)
        except StateUnavailable as exc:
            self._on_silence(exc)
            if self._fallback is None:
                self.results["unavailable"] += 1
                text = "whether the call is a replay cannot be known"
                raise Unavailable(f"{text}: {exc}", details={"reason": "nonce_store"}) from exc
            self.results["alone"] += 1
            return True
        if self._is_away:
            self._is_away = False
            _log.info("nonce_store answers again")
        self.results["new"] += is_new
        return is_new

    def _on_silence(self, error: StateUnavailable) -> None:
        """Log that the shared store does not answer, and what follows."""
        if not self._is_away and self._log_pace.allow():
            what = (
                "encrypted calls are refused"
                if self._fallback is None
                else "this process decides alone"
            )
            _log.warning("nonce_store: %s; %s until it answers", error, what)
        self._is_away = True
