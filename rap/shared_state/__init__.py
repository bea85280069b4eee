"""State that all instances of a service share: nonces, connection counts, token buckets."""

from rap.shared_state.base import (
    Bucket,
    ConnectionCounter,
    NonceStore,
    SharedState,
    StateUnavailable,
    TokenBuckets,
)
from rap.shared_state.memory import MemoryBuckets, MemoryConnections, MemoryNonces, MemoryState
from rap.shared_state.url import state_from_url

__all__ = [
    "Bucket",
    "ConnectionCounter",
    "MemoryBuckets",
    "MemoryConnections",
    "MemoryNonces",
    "MemoryState",
    "NonceStore",
    "SharedState",
    "StateUnavailable",
    "TokenBuckets",
    "state_from_url",
]
