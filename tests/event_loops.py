"""The event loops that tests run on, and a check that a test leaves nothing behind on its loop."""

import asyncio
import warnings
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.loopback import Unnoticed

__all__ = [
    "LOOPS",
    "LoopFactory",
    "nothing_goes_unnoticed",
    "start_task_at_once",
    "starting_tasks_at_once",
]

LoopFactory = Callable[[], asyncio.AbstractEventLoop]
LOOPS: dict[str, LoopFactory] = {"asyncio": asyncio.new_event_loop}

try:
    import uvloop
except ImportError:
    pass
else:

    class _ClosingLoop(uvloop.Loop):
        """A loop whose `close` ends where a warning of it is an error.

        uvloop warns of each transport that it has to close. If the warning is raised, the transport
        stays open, and `close` waits for it for ever.
        """

        def close(self) -> None:
            with warnings.catch_warnings(record=True) as unclosed:
                warnings.simplefilter("always", ResourceWarning)
                super().close()
            for each in unclosed:
                warnings.warn(each.message, stacklevel=2)

    LOOPS["uvloop"] = _ClosingLoop


def starting_tasks_at_once(new_event_loop: LoopFactory) -> LoopFactory:
    """Return a factory of the same loops with `asyncio.eager_task_factory` (Python 3.12+)."""

    def new_eager_loop() -> asyncio.AbstractEventLoop:
        loop = new_event_loop()
        is_asyncio = isinstance(loop, asyncio.BaseEventLoop)
        loop.set_task_factory(_eager_task_factory() if is_asyncio else start_task_at_once)
        return loop

    return new_eager_loop


def start_task_at_once(
    loop: asyncio.AbstractEventLoop, coro: Any, *, eager_start: object = None, **options: Any
) -> Any:
    """Do what `asyncio.eager_task_factory` does, on uvloop.

    uvloop passes ``eager_start=None``, which Python 3.13.0 does not know, and newer ones obey.
    """
    return _eager_task_factory()(loop, coro, **options)


def _eager_task_factory() -> Any:
    return getattr(asyncio, "eager_task_factory")  # noqa: B009  # 3.12+


@pytest.fixture(autouse=True)
async def nothing_goes_unnoticed() -> AsyncIterator[None]:
    """Fail a test that leaves a task or an unhandled exception behind."""
    unnoticed = Unnoticed(asyncio.get_running_loop())
    yield
    await unnoticed.check()
