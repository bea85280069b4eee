"""rap can be called in each way that it is measured in."""

import logging
from collections.abc import Iterator

import pytest

from bench.adapters.rap_here import ADAPTER
from bench.adapters.rap_setups import NEEDS, client_options, server_options
from bench.workloads import WORKLOADS
from tests.loopback import calling, serving


@pytest.fixture(autouse=True)
def _access_log_as_before() -> Iterator[None]:
    log = logging.getLogger("rap.server.access")
    before = log.level, log.propagate, list(log.handlers)
    yield
    for handler in log.handlers:
        if handler not in before[2]:
            handler.close()
    _, log.propagate, log.handlers = before
    log.setLevel(before[0])


async def add(a: int, b: int) -> int:
    return a + b


@pytest.mark.parametrize("setup", ["plain", *NEEDS])
async def test_a_call_is_answered_in_each_setup(setup: str) -> None:
    async with (
        serving(add, **server_options(setup)) as server,
        calling(server, **client_options(setup)) as client,
    ):
        assert await client.call(add, 1, 2) == 3


def test_every_setup_has_a_workload_and_nothing_is_missing_here() -> None:
    setups = {workload.setup for workload in WORKLOADS.values()}
    assert set(NEEDS) <= setups
    assert ADAPTER.missing() == {}
