"""Fixtures for pytest, which finds this module by itself.

Override `rap_server` in your ``conftest.py`` so that it returns your server; the clients are then
connected to it. A test that asks for `rap_clock` moves the time of all others by hand.
"""

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from rap.client import Client, SyncClient
    from rap.registry import MemoryRegistry
    from rap.server import Server
    from rap.testing import FakeClock

try:
    import pytest_asyncio
except ImportError:  # another plugin, such as that of anyio, runs asynchronous fixtures
    _async_fixture: Any = pytest.fixture
else:
    _async_fixture = pytest_asyncio.fixture

__all__ = ["rap_client", "rap_clock", "rap_registry", "rap_server", "rap_sync_client"]

# rap is imported inside the fixtures: pytest loads this module in every run where rap is installed.


@pytest.fixture
def rap_clock() -> "FakeClock":
    """A clock that the test moves by hand."""
    from rap.testing import FakeClock

    return FakeClock()


@pytest.fixture
def rap_registry(request: pytest.FixtureRequest) -> "MemoryRegistry":
    """A registry of this test alone, for servers and clients of a service."""
    from rap.registry import MemoryRegistry

    return MemoryRegistry(**_clock(request))


@pytest.fixture
def rap_server() -> "Server":
    """The server that `rap_client` calls. By default, it is a new one without functions."""
    from rap.server import Server

    return Server()


@_async_fixture  # type: ignore[untyped-decorator]  # of either plugin
async def rap_client(
    rap_server: "Server", request: pytest.FixtureRequest
) -> "AsyncIterator[Client]":
    """A `Client` that is connected to `rap_server` inside the process."""
    from rap.testing import TestClient

    async with TestClient(rap_server, **_clock(request)) as client:
        yield client


@pytest.fixture
def rap_sync_client(rap_server: "Server", request: pytest.FixtureRequest) -> "Iterator[SyncClient]":
    """A `SyncClient` that is connected to `rap_server` inside the process."""
    from rap.testing import TestClient

    with TestClient(rap_server, **_clock(request)) as client:
        yield client


def _clock(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return the clock of the test as an option, if it asks for one."""
    if "rap_clock" not in request.fixturenames:
        return {}
    return {"clock": request.getfixturevalue("rap_clock")}
