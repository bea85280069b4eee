"""A trace through three services, one attempt of which fails, as collectors get it.

It runs on processes, not in containers: the collectors listen on loopback.
"""

import asyncio
import socket
import time
from pathlib import Path

import pytest

from integration.stage import Machine
from integration.traces import WAYS, look, trace
from integration.tree import tree
from rap.client import Client
from tests.redis_server import HOW_TO_GET_ONE, find_redis_server


@pytest.mark.skipif(find_redis_server() is None, reason=HOW_TO_GET_ONE)
@pytest.mark.parametrize("way", WAYS)
def test_a_trace_goes_from_the_gateway_to_the_service_behind_the_service(
    way: str, tmp_path: Path
) -> None:
    found = trace(way, tmp_path)
    assert look(found) == []
    lines = list(tree(found.spans, found.parent))
    assert [line.index("─ ") for line in lines if "─ " in line] == [1, 4, 7, 10]
    assert "attempt 2 to 127.0.0.1:" in lines[-2]
    assert "after UNAVAILABLE: " in lines[-2]
    assert "calc b: default/add, server" in lines[-1]


@pytest.mark.skipif(find_redis_server() is None, reason=HOW_TO_GET_ONE)
@pytest.mark.parametrize("way", ["OTEL_EXPORTER_OTLP_ENDPOINT", "JAEGER_AGENT_HOST"])
async def test_a_service_whose_collector_is_dead_serves_and_ends_in_time(
    way: str, tmp_path: Path
) -> None:
    machine = Machine(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # takes connections by itself
        port = hanging.getsockname()[1]
        environ = {way: f"http://127.0.0.1:{port}" if "OTLP" in way else "127.0.0.1"}
        environ |= {"JAEGER_AGENT_PORT": f"{port}", "OTEL_BSP_SCHEDULE_DELAY": "50"}
        try:
            calc = await asyncio.to_thread(machine.calc, "a", tmp_path, **environ)
            async with Client(machine.address_of(calc)) as client:
                for number in range(100):
                    assert await client.raw_call("add", number, 1) == number + 1
            calc.terminate()
            began = time.monotonic()
            assert await asyncio.to_thread(calc.wait) == 0
            assert time.monotonic() - began < 10  # a second of drain, and two for spans
        finally:
            machine.close()
