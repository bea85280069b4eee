"""The stores that one suite of tests runs against."""

from collections.abc import AsyncGenerator, Callable
from functools import partial

import pytest

from rap.redis.client import RedisClient
from rap.shared_state import SharedState, state_from_url
from tests.redis_fixtures import (
    namespace,
    redis_cluster,
    redis_deployed,
    redis_old,
    redis_single,
)

__all__ = ["connect", "namespace", "redis_cluster", "redis_deployed", "redis_old", "redis_single"]

# Makes the state of one more instance, as another process would, over what the others see.
Connect = Callable[[], SharedState]


@pytest.fixture
async def connect(
    request: pytest.FixtureRequest, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Connect, None]:
    """Makes states of the kind that a test is given as its parameter."""
    if request.param == "memory":
        one = state_from_url("memory://")
        yield lambda: one
        return
    # Nothing is down here, only busy perhaps.
    monkeypatch.setattr("rap.shared_state.redis._BUCKET_TIMEOUT", 10.0)
    patient = partial(RedisClient, timeout=10.0)
    monkeypatch.setattr("rap.shared_state.redis.RedisClient", patient)
    url = request.getfixturevalue(f"redis_{request.param}").url
    yield lambda: state_from_url(f"{url}?namespace={namespace}")
