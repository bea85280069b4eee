"""Fixtures of the middleware tests: certificates, and a Redis server."""

from tests.shared_state.conftest import namespace, redis_single
from tests.transport.conftest import certificates

__all__ = ["certificates", "namespace", "redis_single"]
