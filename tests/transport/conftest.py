"""Every test of a connection runs on asyncio's own loop and on uvloop, where that is installed."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.loopback import Unnoticed
from tests.transport.certificates import Certificates

try:
    import uvloop
except ImportError:
    uvloop = None  # type: ignore[assignment]  # it is an extra


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if uvloop is not None:
        loops["uvloop"] = uvloop.new_event_loop
    return loops


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
async def unnoticed() -> Unnoticed:
    """What the loop was told; `check` fails if that is anything, or a task is left."""
    return Unnoticed(asyncio.get_running_loop())


@pytest.fixture
def socket_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A path that is short enough for a unix socket."""
    path = tmp_path_factory.mktemp("s") / "s"
    yield path
    path.unlink(missing_ok=True)
