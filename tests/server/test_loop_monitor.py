"""What holds the event loop is named in the log and counted."""

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from rap.server import Channel, Server
from rap.server.loop_monitor import LoopMonitor
from rap.server.stats import server_status
from tests.loopback import calling, eventually, serving

ON_BOTH_LOOPS = True
BLOCK = 0.5  # seconds
EAGER = {"block_threshold": 0.1}


NAMES = {
    "/default/report": "handler /default/report ",
    "/default/quick": "handler /default/quick ",
    "/default/rows": "handler /default/rows ",
    "other": "task 'nightly'",
}


async def report(_: int) -> int:
    time.sleep(BLOCK)  # noqa: ASYNC251  # that is the mistake
    return 1


def quick(_: int) -> int:
    time.sleep(BLOCK)
    return 1


async def rows(_: int) -> AsyncIterator[int]:
    time.sleep(BLOCK)  # noqa: ASYNC251
    yield 1


async def talk(channel: Channel) -> None:
    time.sleep(BLOCK)  # noqa: ASYNC251


async def told(server: Server, caplog: pytest.LogCaptureFixture, name: str) -> str:
    await eventually(lambda: server_status(server).blocks.get(name))
    assert server_status(server).blocked_seconds[name] >= BLOCK / 2
    lines = [each for each in caplog.messages if "the event loop" in each and NAMES[name] in each]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture
def every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log each block, as a busy machine may hold the loop before the handler does."""
    monkeypatch.setattr("rap.server.loop_monitor._LOG_PAUSE", 0.0)


@pytest.mark.usefixtures("every_line")
@pytest.mark.parametrize("function", [report, quick])
async def test_a_handler_that_blocks_the_event_loop_is_named_with_its_stack(
    function: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(**EAGER) as server, calling(server) as client:
        server.register(function, inline=function is quick)
        assert await client.raw_call(function.__name__, 1) == 1
        text = await told(server, caplog, f"/default/{function.__name__}")
    assert text.startswith(f"handler /default/{function.__name__} held the event loop for 0.")
    assert "time.sleep(BLOCK)" in text
    assert f"in {function.__name__}" in text


async def test_a_generator_and_a_channel_that_block_are_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(rows, talk, **EAGER) as server, calling(server) as client:
        async for _ in client.iterator_call(rows, 1):
            pass
        await eventually(lambda: server_status(server).blocks.get("/default/rows"))
        async with client.channel("talk"):
            pass
        await eventually(lambda: server_status(server).blocks.get("/default/talk"))
        # One line a minute.
        assert len([each for each in caplog.messages if "the event loop" in each]) == 1


@pytest.mark.usefixtures("every_line")
async def test_other_code_that_blocks_is_named_by_its_task(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(**EAGER) as server:
        await asyncio.Task(report(1), name="nightly")  # eager tasks get their name too late
        text = await told(server, caplog, "other")
        assert text.startswith("task 'nightly' held the event loop for 0.")


@pytest.mark.usefixtures("every_line")
async def test_a_handler_that_does_not_return_is_named_while_it_blocks(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rap.server.loop_monitor._STILL", 0.2)
    async with serving(report, **EAGER) as server, calling(server) as client:
        await client.raw_call("report", 1)
        text = await told(server, caplog, "/default/report")
    assert text.startswith("handler /default/report has held the event loop for 0.")
    assert ", and still does" in text


async def test_a_quiet_loop_and_handlers_that_wait_are_not_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def wait() -> None:
        await asyncio.sleep(0.2)

    async with serving(wait, block_threshold=0.1) as server, calling(server) as client:
        await client.raw_call("wait")
        assert server_status(server).blocks.keys() == {"other"}
    assert not [each for each in caplog.messages if each.startswith("handler ")]


async def test_zero_turns_the_monitor_off(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(report, block_threshold=0) as server, calling(server) as client:
        await client.raw_call("report", 1)
        assert server.loop_monitor.blocks.total() == 0
    assert "event loop" not in caplog.text


async def test_a_monitor_can_start_again() -> None:
    monitor = LoopMonitor(0.1, logging.getLogger("rap.test"))
    for count in (1, 2):
        monitor.start()
        await asyncio.sleep(0)
        time.sleep(BLOCK)  # noqa: ASYNC251
        await eventually(functools.partial(_has, monitor, count))
        monitor.stop()
        monitor.stop()


def _has(monitor: LoopMonitor, count: int) -> bool:
    return monitor.blocks.total() == count
