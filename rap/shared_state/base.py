"""The protocols of shared state, which answer questions for all instances of a service.

`NonceStore`: was this nonce used before? `ConnectionCounter`: may one more connection be open?
`TokenBuckets`: may one more request pass? Each has an implementation in memory
(`rap.shared_state.memory`) and one in Redis (`rap.shared_state.redis`).
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
    """The shared state does not answer."""


class NonceStore(Protocol):
    """A store of nonces, each of which may be used once."""

    async def claim(self, nonce: str | bytes, *, ttl: float) -> bool:
        """Return whether the nonce is new, and remember it for `ttl` seconds.

        If an answer is lost, the same claim is repeated and gets the same answer, so that a lost
        answer is never taken for a replay.

        Raises:
            StateUnavailable: The store does not answer. It may have remembered the nonce.
        """
        ...

    async def aclose(self) -> None:
        """Release connections."""
        ...


class ConnectionCounter(Protocol):
    """Counts the connections under a key over all instances, and enforces a limit.

    A count is never negative. If an instance dies, its connections are subtracted.
    """

    async def acquire(self, key: str, limit: int) -> bool:
        """Count one more connection under `key` if that keeps `limit`; return whether it does.

        It always answers. While the store is unavailable, each instance uses its share of the
        limit.
        """
        ...

    def release(self, key: str) -> None:
        """Count one connection less. Call it once for each `acquire` that returned true."""
        ...

    def held(self, key: str) -> int:
        """Return the count of this instance under `key`."""
        ...

    async def total(self, key: str) -> int:
        """Return the count of all instances under `key`.

        Raises:
            StateUnavailable: The store does not answer.
        """
        ...

    async def aclose(self) -> None:
        """Release all counts of this instance."""
        ...


@dataclass(frozen=True, slots=True)
class Bucket:
    """The parameters of a token bucket.

    Args:
        capacity: Maximum number of tokens.
        rate: Tokens added per second.
        initial: Tokens of a new bucket.
        block_time: Seconds that all requests are refused after one found the bucket empty.
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
        """Return the share of this bucket for one of so many instances."""
        capacity = max(1.0, self.capacity / instances)
        is_full = self.initial >= self.capacity
        initial = capacity if is_full else min(capacity, self.initial / instances)
        return Bucket(capacity, self.rate / instances, initial, self.block_time)


class TokenBuckets(Protocol):
    """Token buckets by key."""

    async def take(self, key: str, bucket: Bucket) -> float:
        """Take one token and return 0; if there is none, return the seconds until the next try.

        It always answers. While the store is unavailable, each instance uses its share of the rate.
        """
        ...

    async def aclose(self) -> None:
        """Release connections."""
        ...


class SharedState(Protocol):
    """Makes nonce stores, connection counters and token buckets on one store."""

    def nonces(self) -> NonceStore:
        """Return the nonce store."""
        ...

    def connections(self, scope: str) -> ConnectionCounter:
        """Return a counter. All counters of one scope count together."""
        ...

    def buckets(self, scope: str) -> TokenBuckets:
        """Return token buckets. All objects of one scope have the same buckets."""
        ...


def check_scope(scope: object) -> str:
    """Return `scope`, which becomes part of keys.

    Raises:
        ValueError: It is empty, too long, or has characters that are special in keys.
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
    """Return `value`, a finite number of at least `least`, or more than that with `above`.

    Raises:
        ValueError: It is not such a number; the message names the option.
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
