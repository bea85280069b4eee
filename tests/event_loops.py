"""The event loops that tests run on, and a check that a test leaves nothing behind on its loop."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from tests.loopback import Unnoticed

__all__ = ["LOOPS", "LoopFactory", "nothing_goes_unnoticed"]

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
LOOPS: dict[str, LoopFactory] = {"asyncio": asyncio.new_event_loop}

try:
    import uvloop
except ImportError:
    pass
else:
    LOOPS["uvloop"] = uvloop.new_event_loop


@pytest.fixture(autouse=True)
async def nothing_goes_unnoticed() -> AsyncIterator[None]:
    """Fail a test that leaves a task or an unhandled exception behind."""
    unnoticed = Unnoticed(asyncio.get_running_loop())
    yield
    await unnoticed.check()
