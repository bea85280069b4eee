"""What all tests share: a clock, event loops, and property tests that are the same every time.

`pytest --loop uvloop` runs every test on uvloop. `pytest --hypothesis-profile=explore` tries many
more examples, different ones each time.
"""

from collections.abc import Mapping

import pytest
from hypothesis import settings

from tests.event_loops import LOOPS, LoopFactory
from tests.fake_clock import FakeClock

settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.register_profile("explore", max_examples=2000, deadline=None)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--loop", choices=sorted(LOOPS), help="Event loop that all tests run on.")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, LoopFactory]:
    """Return the loops of a test; a module that says ``ON_BOTH_LOOPS = True`` runs on both."""
    chosen: str | None = config.getoption("loop")
    if chosen is not None:
        return {chosen: LOOPS[chosen]}
    if getattr(getattr(item, "module", None), "ON_BOTH_LOOPS", False):
        return LOOPS
    return {"asyncio": LOOPS["asyncio"]}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
