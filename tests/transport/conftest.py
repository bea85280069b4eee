"""Every test of a connection runs on asyncio's own loop and on uvloop, where that is installed."""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.event_loops import LOOPS, LoopFactory
from tests.loopback import Unnoticed
from tests.transport.certificates import Certificates


def pytest_asyncio_loop_factories(config: pytest.Config) -> Mapping[str, LoopFactory] | None:
    return LOOPS if config.getoption("loop") is None else None


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
