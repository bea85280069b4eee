"""Every test here leaves no task and no exception behind; some modules run on two event loops."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest

from tests.loopback import Unnoticed

__all__ = ["nothing_goes_unnoticed", "pytest_asyncio_loop_factories"]

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, LoopFactory]:
    """Run modules that say ``ON_BOTH_LOOPS = True`` also on uvloop, where it is installed."""
    factories: dict[str, LoopFactory] = {"asyncio": asyncio.new_event_loop}
    if getattr(getattr(item, "module", None), "ON_BOTH_LOOPS", False):
        try:
            import uvloop
        except ImportError:
            return factories
        factories["uvloop"] = uvloop.new_event_loop
    return factories


@pytest.fixture(autouse=True)
async def nothing_goes_unnoticed() -> AsyncIterator[None]:
    unnoticed = Unnoticed(asyncio.get_running_loop())
    yield
    await unnoticed.check()
