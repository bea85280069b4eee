"""The contracts of shared state: three questions whose answer depends on all instances.

Was this nonce seen before? May one more connection be open? May one more request pass? Each has a
protocol here, one class in memory (`rap.shared_state.memory`) and one in Redis
(`rap.shared_state.redis`).
"""

from dataclasses import dataclass
from math import isfinite
from typing import Protocol

from rap.errors import RapError

__all__ = [
    "Bucket",
    "ConnectionCounter",
    "NonceStore",
    "SharedState",
    "StateUnavailable",
    "TokenBuckets",
    "check_number",
    "check_scope",
]

_MAX_SCOPE = 200  # characters


class StateUnavailable(RapError):
    """The shared state cannot answer; who must not guess refuses."""


class NonceStore(Protocol):
    """Remembers numbers that may be used once."""

    async def claim(self, nonce: str | bytes, *, ttl: float) -> bool:
        """Return whether the nonce is new, and remember it for `ttl` seconds.

        An answer that was lost on its way is asked for again and is the same: no false replay.

        Raises:
            StateUnavailable: It cannot be known. The nonce may have been remembered.
        """
        ...

    async def aclose(self) -> None:
        """Release what is held."""
        ...


class ConnectionCounter(Protocol):
    """Counts what is open under a key, over all instances, and keeps it below a limit.

    A count is never negative, and what an instance held is freed when it dies.
    """

    async def acquire(self, key: str, limit: int) -> bool:
        """Count one more under `key` if no more than `limit` are open then; return whether.

        It always answers: a store that is away leaves each instance its share of the limit.
        """
        ...

    def release(self, key: str) -> None:
        """Count one less; for each `acquire` that returned true, once."""
        ...

    def held(self, key: str) -> int:
        """Return how many this instance holds under `key`."""
        ...

    async def total(self, key: str) -> int:
        """Return how many all instances hold.

        Raises:
            StateUnavailable: It cannot be known.
        """
        ...

    async def aclose(self) -> None:
        """Give back all that is held."""
        ...


@dataclass(frozen=True, slots=True)
class Bucket:
    """How a token bucket fills and what happens when it is empty.

    Args:
        capacity: Tokens it can hold.
        rate: Tokens that it gains a second.
        initial: Tokens that a new one has.
        block_time: Seconds for which all is refused once it was found empty.
    """

    capacity: float
    rate: float
    initial: float
    block_time: float = 0.0

    def __post_init__(self) -> None:
        """Check every value."""
        check_number("capacity", self.capacity, least=1)
        check_number("rate", self.rate, least=0, above=True)
        check_number("initial", self.initial, least=0)
        check_number("block_time", self.block_time, least=0)
        if self.initial > self.capacity:
            text = f"initial must be at most the capacity of {self.capacity:g}"
            raise ValueError(f"{text}, got {self.initial!r}")

    def share(self, instances: int) -> "Bucket":
        """Return what one of so many instances may use by itself."""
        capacity = max(1.0, self.capacity / instances)
        is_full = self.initial >= self.capacity
        initial = capacity if is_full else min(capacity, self.initial / instances)
        return Bucket(capacity, self.rate / instances, initial, self.block_time)


class TokenBuckets(Protocol):
    """Buckets by name, filled by time and emptied by requests."""

    async def take(self, key: str, bucket: Bucket) -> float:
        """Take one token; return 0, or the seconds after which to try again if there is none.

        It always answers: a store that is away leaves each instance its share of the rate.
        """
        ...

    async def aclose(self) -> None:
        """Release what is held."""
        ...


class SharedState(Protocol):
    """Makes the three of them on one store."""

    def nonces(self) -> NonceStore:
        """Return the nonces."""
        ...

    def connections(self, scope: str) -> ConnectionCounter:
        """Return a counter; counters of one scope count together."""
        ...

    def buckets(self, scope: str) -> TokenBuckets:
        """Return token buckets; those of one scope are the same."""
        ...


def check_scope(scope: object) -> str:
    """Return `scope`, which becomes a part of keys.

    Raises:
        ValueError: It is empty, too long, or has characters with a meaning in keys.
    """
    if (
        not isinstance(scope, str)
        or not 0 < len(scope) <= _MAX_SCOPE
        or any(character in "{}:" or not character.isprintable() for character in scope)
    ):
        text = f"scope must be 1 to {_MAX_SCOPE} printable characters without {{, }} and :"
        raise ValueError(f"{text}, got {scope!r}")
    return scope


def check_number(option: str, value: object, *, least: float, above: bool = False) -> float:
    """Return `value`, a finite number of at least `least`, or `above` it.

    Raises:
        ValueError: It is not; the message names the option.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not isfinite(value)
        or value < least
        or (above and value == least)
    ):
        bound = f"more than {least:g}" if above else f"at least {least:g}"
        raise ValueError(f"{option} must be a number of {bound}, got {value!r}")
    return value
