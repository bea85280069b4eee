"""The fixtures for pytest, in a project of a user."""

import tomllib
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]

CONFTEST = """
import pytest
from rap import Server

server = Server(service="calc", registry="redis://nowhere")

@server.register
async def add(a: int, b: int) -> int:
    return a + b

@pytest.fixture
def rap_server():
    return server
"""

TESTS = """
import asyncio
import pytest
from rap import Client, DeadlineExceeded, Server

async def test_a_client_is_connected_to_the_server(rap_client):
    assert await rap_client.raw_call("add", 1, 2) == 3

async def test_so_it_is_in_the_next_test(rap_client):
    assert await rap_client.raw_call("add", 2, 2) == 4

def test_a_client_that_blocks_is_connected_too(rap_sync_client):
    assert rap_sync_client.raw_call("add", 1, 2) == 3

async def test_servers_and_clients_meet_in_the_registry(rap_registry, rap_clock):
    options = {"service": "shop", "registry": rap_registry}
    async with Server("inproc://shop", **options, drain_delay=0) as server:
        async with Client(**options) as client:
            with pytest.raises(Exception, match="no function"):
                await client.raw_call("buy")

async def test_time_stands_still(rap_client, rap_clock):
    client = Client("inproc://nowhere", clock=rap_clock)
    call = asyncio.create_task(client.raw_call("add", 1, 2, timeout=0.001, wait_for_ready=True))
    await asyncio.sleep(0.01)
    assert not call.done()
    await rap_clock.advance(0.001)
    with pytest.raises(Exception, match="waited 0.001 s"):
        await call
    await client.close()
"""


INI = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""


def test_the_fixtures_work_in_a_project_of_a_user(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS)
    pytester.makeini(INI)
    result = pytester.runpytest_subprocess("-p", "rap.testing.plugin", "-p", "no:randomly")
    result.assert_outcomes(passed=5)


def test_pytest_finds_the_plugin_by_itself() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    # The name is that of the module, so that `-p rap.testing.plugin` does not load it again.
    assert project["entry-points"]["pytest11"] == {"rap.testing.plugin": "rap.testing.plugin"}
    assert "testing" in project["optional-dependencies"]
