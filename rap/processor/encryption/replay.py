"""What makes an encrypted call worth nothing a second time: when it was made, and its nonce."""

import logging
from typing import Literal

from rap.clock import Clock, clock_of
from rap.errors import CallError, Code, Unauthenticated, Unavailable
from rap.shared_state import MemoryNonces, NonceStore, StateUnavailable, state_from_url
from rap.shared_state.base import check_number

__all__ = ["Fallback", "ReplayGuard"]

_log = logging.getLogger("rap.server")

Fallback = Literal["local"] | None


class ReplayGuard:
    """Lets each call in once, and only near the time at which it was made.

    A nonce is remembered for at least twice the timeout: a call of a client whose clock is ahead
    stays fresh for that long.

    Args:
        timeout: Seconds by which a call's timestamp may differ from this machine's clock.
        nonce_timeout: Seconds for which a nonce is remembered.
        store: URL or object of the nonces that all instances share, asked beside this process's.
        fallback: ``local``: while the store cannot answer, this process decides alone.
        clock: Source of time.

    Attributes:
        results: How many calls were found what: new and let in; let in by this process alone;
            replayed; stale, for their timestamp; or refused because it cannot be known.

    Raises:
        ValueError: An option has a bad value; the message names it.
    """

    def __init__(
        self,
        timeout: float,
        nonce_timeout: float,
        store: str | NonceStore | None = None,
        fallback: Fallback = None,
        clock: Clock | None = None,
    ) -> None:
        self.timeout = check_number("timeout", timeout, least=0, above=True)
        self.nonce_timeout = check_number("nonce_timeout", nonce_timeout, least=0, above=True)
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
        self._is_alone = False  # the shared store did not answer when it was last asked

    async def admit(self, nonce: bytes, made: float, validity: float) -> None:
        """Return if the call may run.

        Args:
            nonce: Of the call.
            made: When, in seconds since the epoch by the client's clock.
            validity: Seconds by which the client allows that to differ.

        Raises:
            CallError: FAILED_PRECONDITION: it was made too long ago, or in the future.
            Unauthenticated: It was made before.
            Unavailable: That cannot be known.
        """
        off = self._clock.time() - made
        window = min(self.timeout, validity)
        if not -window <= off <= window:
            self.results["stale"] += 1
            when = f"{off:.1f} s ago" if off > 0 else f"{-off:.1f} s in the future"
            raise CallError(
                f"the call's timestamp is {when}, {window:g} s are allowed; are the clocks right?",
                code=Code.FAILED_PRECONDITION,
                details={"reason": "timestamp", "off": off, "timeout": window},
            )
        ttl = max(self.nonce_timeout, 2.0 * self.timeout)
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
        """Release the shared store, if a URL named it: an object is its owner's to close."""
        if self._shared is not None and self._owns_shared:
            await self._shared.aclose()

    async def _is_new_to_all(self, nonce: bytes, ttl: float) -> bool:
        """Ask the shared store.

        Raises:
            Unavailable: It cannot answer, and this process may not decide alone.
        """
        if self._shared is None:
            self.results["new"] += 1
            return True
        try:
            is_new = await self._shared.claim(nonce, ttl=ttl)
        except StateUnavailable as exc:
            if self._fallback is None:
                self.results["unavailable"] += 1
                text = "whether the call is a replay cannot be known"
                raise Unavailable(f"{text}: {exc}", details={"reason": "nonce_store"}) from exc
            self.results["alone"] += 1
            if not self._is_alone:
                self._is_alone = True
                _log.warning("nonce_store: %s; this process decides alone until it answers", exc)
            return True
        if self._is_alone:
            self._is_alone = False
            _log.info("nonce_store answers again")
        self.results["new"] += is_new
        return is_new
