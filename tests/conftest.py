"""What all tests share: a clock, event loops, and property tests that are the same every time.

`pytest --loop uvloop` runs every test on uvloop, and `pytest --eager` starts every task at once.
`pytest --hypothesis-profile=explore` tries many more examples, different ones each time.
"""

import asyncio
from collections.abc import Mapping

import pytest
from hypothesis import settings

from tests.event_loops import LOOPS, LoopFactory, starting_tasks_at_once
from tests.fake_clock import FakeClock

settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.register_profile("explore", max_examples=2000, deadline=None)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--loop", choices=sorted(LOOPS), help="Event loop that all tests run on.")
    parser.addoption(
        "--eager",
        action="store_true",
        help="Run all tests with asyncio.eager_task_factory (Python 3.12 or newer).",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("eager") and not hasattr(asyncio, "eager_task_factory"):
        raise pytest.UsageError("--eager needs Python 3.12 or newer")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, LoopFactory]:
    """Return the loops of a test; a module that says ``ON_BOTH_LOOPS = True`` runs on both."""
    chosen: str | None = config.getoption("loop")
    if chosen is not None:
        loops = {chosen: LOOPS[chosen]}
    elif getattr(getattr(item, "module", None), "ON_BOTH_LOOPS", False):
        loops = LOOPS
    else:
        loops = {"asyncio": LOOPS["asyncio"]}
    if config.getoption("eager"):
        return {name: starting_tasks_at_once(loop) for name, loop in loops.items()}
    return loops


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
