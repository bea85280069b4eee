"""A test that leaves a server open on uvloop fails, and does not keep the run from ending."""

import asyncio

import pytest

from tests.event_loops import LOOPS


@pytest.mark.skipif("uvloop" not in LOOPS, reason="uvloop is not installed")
def test_a_loop_with_an_open_server_closes_and_warns() -> None:
    runner = asyncio.Runner(loop_factory=LOOPS["uvloop"])

    async def leave_open() -> None:
        await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)

    runner.run(leave_open())
    loop = runner.get_loop()
    with pytest.raises(ResourceWarning, match="unclosed"):
        runner.close()
    assert loop.is_closed()
