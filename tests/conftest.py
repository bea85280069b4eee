"""What all tests share: a clock, event loops, and property tests that are the same every time.

`pytest --loop uvloop` runs every test on uvloop, and `pytest --eager` starts every task at once.
`pytest --hypothesis-profile=explore` tries many more examples, different ones each time.
`pytest -n auto` runs the tests in several processes.
"""

import asyncio
import os
import shlex
import sys
from collections.abc import Generator, Mapping
from typing import Any

import pytest
from hypothesis import settings

from tests.event_loops import LOOPS, LoopFactory, starting_tasks_at_once
from tests.fake_clock import FakeClock
from tests.watchdog import Watchdog

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
    if config.getoption("tx", None):
        config.option.tx = [f"popen//python={_python()}"] * len(config.option.tx)
        config.pluginmanager.register(Watchdog(config), "watchdog of the processes")


def _python() -> str:
    """Return a command that runs Python with the options ``-X dev`` and ``-W`` of this process."""
    development = ["-X", "dev"] if sys.flags.dev_mode else []
    return shlex.join([sys.executable, *development, *(f"-W{it}" for it in sys.warnoptions)])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return the number of processes of ``-n auto``: the tests wait about half of their time."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(2 * cores, 16)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Escape what tests log on purpose and UTF-8 does not know, in reports of other processes."""
    return _encodable((yield))


def _encodable(value: Any) -> Any:
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case dict():
            return {key: _encodable(each) for key, each in value.items()}
        case list() | tuple():
            return type(value)(map(_encodable, value))
    return value


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
