"""The registries that one suite of tests runs against."""

import itertools
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Protocol

import pytest

from rap.registry import FileRegistry, MemoryRegistry, Registry
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


@pytest.fixture(params=["memory", "file"])
async def connect(
    request: pytest.FixtureRequest, namespace: str, tmp_path: Path
) -> AsyncGenerator[Connect, None]:
    made: list[ListedRegistry] = []

    def one_more() -> ListedRegistry:
        registry: ListedRegistry
        if request.param == "memory":
            registry = MemoryRegistry(namespace, namespace=namespace)
        else:
            registry = FileRegistry(tmp_path / "registry", namespace=namespace)
        made.append(registry)
        return registry

    yield one_more
    for registry in made:
        await registry.aclose()
