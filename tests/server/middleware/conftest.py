"""The Redis server that tests of shared limits need."""

from tests.state.conftest import namespace, redis_single

__all__ = ["namespace", "redis_single"]
