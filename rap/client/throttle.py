"""Rejects calls on the client while servers refuse most of them.

A refusal costs a server about 5 us. For a call of 2 ms that is nothing, but a server that is full
of calls which take 20 us cannot refuse three of four and serve the fourth. Its clients have to call
less. Each compares the calls to a function with those that servers take, and lets only `FACTOR`
times as many through. The others fail without being sent ("client-side throttling", in the chapter
"Handling Overload" of Site Reliability Engineering, Beyer and others, 2016; there with a factor of
2, over two minutes).

In a simulation with four times as many calls as servers can serve, where a call costs a server 2,
5 or 20 times as much as a refusal, servers do 0.5, 0.8 and 0.95 of what they can; without
throttling 0, 0.2 and 0.8 (``python -m bench.throttling``). The short memory and the end after a
quarter of a second without a refusal bring all calls back within a second after the load fell.

The calls of each priority count apart, because servers refuse the lowest first.
"""

import random
from collections.abc import Callable
from math import exp, inf

from rap.call import PRIORITY, Call
from rap.client.retry import pushback
from rap.errors import CallError, ResourceExhausted

__all__ = ["FACTOR", "Throttle", "Throttles"]

FACTOR = 1.5
"""Calls that are sent for each one that is taken, while servers refuse calls. A higher factor finds
out sooner that servers take more; a lower one costs servers fewer refusals."""
_MEMORY = 0.5  # seconds after which a call counts 1/e
_FREE = 200.0 * _MEMORY
"""Refusals that do not matter, at 200 per second: they cost servers a thousandth of their time. So
functions that take milliseconds are not throttled for a few refusals, or for a short pause."""
_STEP = 0.01  # seconds between two reductions of the counts
_QUIET = 0.25  # seconds without a refusal after which all calls are sent again
_MOST = 4096  # functions that are throttled at the same time
_LEAST_SENT = 3  # calls that were sent in that time
_FORGOTTEN = 10.0  # seconds after which that does not matter


class Throttle:
    """What became of the calls of one function and one priority.

    Times are in seconds on the monotonic clock.

    Args:
        now: The present time.
        free: Calls of the last half second that are not counted against it.

    Attributes:
        retry_after: Seconds that the last refusal has named.
    """

    __slots__ = ("_at", "_free", "_refused_at", "_requests", "_sent", "_taken", "retry_after")

    def __init__(self, now: float, *, free: float = _FREE) -> None:
        self.retry_after = 0.0
        self._free = free
        self._at = now
        self._requests = self._taken = 1.0  # the call with the first refusal
        self._refused_at = now
        self._sent = 0  # since the last refusal

    def is_over(self, now: float) -> bool:
        """Whether servers take all calls again."""
        quiet = now - self._refused_at
        return quiet > _FORGOTTEN or (quiet > _QUIET and self._sent >= _LEAST_SENT)

    def allows(self, now: float, chance: float) -> bool:
        """Count a call; return whether it may be sent.

        Args:
            now: The present time.
            chance: A random number from 0 to 1.
        """
        self._decay(now)
        before = self._requests
        self._requests += 1
        if chance * (before + 1) < before - FACTOR * self._taken - self._free:
            return False
        self._taken += 1
        self._sent += 1
        return True

    def count_refusal(self, now: float) -> None:
        """Count a call that was sent and not taken."""
        self._decay(now)
        self._taken = max(0.0, self._taken - 1)
        self._refused_at = now
        self._sent = 0

    def _decay(self, now: float) -> None:
        past = now - self._at
        if past >= _STEP:
            keep = exp(-past / _MEMORY)
            self._requests *= keep
            self._taken *= keep
            self._at = now


class Throttles:
    """The throttles of a client, of those functions whose calls are refused.

    Args:
        now: Returns seconds on the monotonic clock.
        rng: Source of chance.
        on_change: Called with whether there is a throttle, when that has changed.

    Attributes:
        active: Whether calls have to be checked.
        rejected: Calls that were not sent so far.
    """

    def __init__(
        self, now: Callable[[], float], rng: random.Random, on_change: Callable[[bool], None]
    ) -> None:
        self.active = False
        self.rejected = 0
        self._now = now
        self._random = rng.random
        self._on_change = on_change
        self._throttles: dict[tuple[str, object], Throttle] = {}
        self._sweep_at = inf

    def check(self, call: Call) -> None:
        """Count a call that is about to be sent.

        Raises:
            ResourceExhausted: It is not to be sent.
        """
        now = self._now()
        throttle = self._throttles.get((call.method, call.header.get(PRIORITY)))
        if throttle is not None and not throttle.allows(now, self._random()):
            self.rejected += 1
            raise ResourceExhausted(
                f"{call.method}: not sent, because its servers are overloaded and have refused"
                " most calls in the last second",
                details={"limit": "throttle", "retry_after": throttle.retry_after},
                unserved=True,
            )
        if now >= self._sweep_at:
            self._sweep(now)

    def count_refusal(self, path: str, priority: str | None, error: CallError) -> None:
        """Count a call that servers have refused.

        Args:
            path: Name of the function, ``/group/name``.
            priority: Priority that the call has named.
            error: The refusal.
        """
        now = self._now()
        key = (path, priority)
        throttle = self._throttles.get(key)
        if throttle is None:
            if len(self._throttles) >= _MOST:  # others may choose the names, as for a gateway
                return
            throttle = self._throttles[key] = Throttle(now)
            self._set_active()
        throttle.retry_after = pushback(error) or 0.0
        throttle.count_refusal(now)

    def _sweep(self, now: float) -> None:
        over = [key for key, throttle in self._throttles.items() if throttle.is_over(now)]
        for key in over:
            del self._throttles[key]
        self._sweep_at = now + _QUIET
        self._set_active()

    def _set_active(self) -> None:
        active = bool(self._throttles)
        if active is not self.active:
            self.active = active
            self._sweep_at = self._now() + _QUIET if active else inf
            self._on_change(active)
