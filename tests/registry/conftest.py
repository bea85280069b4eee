"""The registries that one suite of tests runs against."""

from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Protocol, cast

import pytest

from rap.registry import Registry, registry_from_url
from rap.registry.redis import RedisRegistry
from tests.redis_fixtures import (
    namespace,
    redis_cluster,
    redis_deployed,
    redis_old,
    redis_sentinel,
    redis_single,
)
from tests.registry.fake_clock import FakeClock

__all__ = [
    "clock",
    "connect",
    "namespace",
    "redis_cluster",
    "redis_deployed",
    "redis_old",
    "redis_sentinel",
    "redis_single",
    "url",
]


class ListedRegistry(Registry, Protocol):
    """What all registries of rap can do."""

    async def services(self) -> Sequence[str]: ...


# Makes one more registry object, as another process would, over what the others see.
Connect = Callable[[], ListedRegistry]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of the kind of registry that a test is given as its parameter."""
    kind = request.param
    if kind in ("single", "deployed", "old", "sentinel", "cluster"):
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
