"""Spans of jaeger-client as an agent gets them by UDP, and agents that are none.

The tracer is in a process of its own, because its sender leaves sockets open when it is closed.
"""

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.collectors import JaegerAgent
from tests.loopback import PATIENCE

ROOT = Path(__file__).parents[2]
TRACE_ID, SPAN_ID = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
OTHER_TRACE_ID, OTHER_SPAN_ID = 0x5BF92F3577B34DA6, 0x10F067AA0BA902B7

PROGRAM = """
import asyncio, sys
from jaeger_client import Config
from opentracing.scope_managers.contextvars import ContextVarsScopeManager
from rap.client import Client
from rap.client.processor import TracingProcessor
from rap.server import Server

async def add(a: int, b: int) -> int:
    return a + b

async def main() -> None:
    port, traceparent, uber_trace_id, end = sys.argv[1:]
    agent = {"reporting_host": "127.0.0.1", "reporting_port": int(port)}
    options = {"sampler": {"type": "const", "param": 1}, "local_agent": agent}
    scopes = ContextVarsScopeManager()
    tracer = Config(options, service_name="shop", scope_manager=scopes).new_tracer()
    server = Server("127.0.0.1:0", processor_list=[TracingProcessor(tracer)])
    server.register(add)
    async with server:
        async with Client(server.addresses, processor_list=[TracingProcessor(tracer)]) as client:
            for number in range(20):
                assert await client.call(add, number, 1) == number + 1
            assert await client.call(add, 1, 2, header={"traceparent": traceparent}) == 3
        async with Client(server.addresses) as client:
            assert await client.call(add, 1, 2, header={"uber-trace-id": uber_trace_id}) == 3
            for bad in ("hello", "1:2:3", 7):
                assert await client.call(add, 1, 2, header={"uber-trace-id": bad}) == 3
    print("served", flush=True)
    if end == "flush":
        closed = tracer.close()
        while not closed.done():
            await asyncio.sleep(0.01)
        print("closed", flush=True)

asyncio.run(main())
"""


def run_jaeger(port: int, end: str) -> str:
    """Run the program, whose tracer sends to an agent on `port`; return what it prints."""
    parents = f"00-{TRACE_ID:032x}-{SPAN_ID:016x}-01", f"{OTHER_TRACE_ID:x}:{OTHER_SPAN_ID:x}:0:1"
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(port), *parents, end],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
        check=False,
    )
    return found.stdout + found.stderr * bool(found.returncode)


async def test_spans_come_to_an_agent_with_their_parents() -> None:
    with JaegerAgent() as agent:
        assert await asyncio.to_thread(run_jaeger, agent.port, "flush") == "served\nclosed\n"
        enough = 2 * 21 + 4
        spans = await asyncio.to_thread(
            agent.wait_for, lambda spans: len(spans) >= enough, PATIENCE
        )
    assert {(span.service, span.name) for span in spans} == {("shop", "default/add")}
    by_id = {span.span_id: span for span in spans}
    assert len(by_id) == len(spans) == enough
    asking = [span for span in spans if span.kind == "client"]
    assert len(asking) == 21
    for span in spans:
        parent = by_id.get(span.parent_id)
        if span.kind == "server" and parent is not None:
            assert (parent.kind, parent.trace_id) == ("client", span.trace_id)
            asking.remove(parent)
    assert asking == []  # each has a child of its own
    (joined,) = [span for span in spans if span.parent_id == SPAN_ID]
    assert (joined.trace_id, joined.kind) == (TRACE_ID, "client")
    (own_form,) = [span for span in spans if span.parent_id == OTHER_SPAN_ID]
    assert (own_form.trace_id, own_form.kind) == (OTHER_TRACE_ID, "server")
    assert [span.tags["rap.code"] for span in spans] == ["OK"] * enough


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("end", ["leave", "flush"])
async def test_a_dead_agent_holds_up_neither_calls_nor_the_end(end: str, there: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as agent:
        agent.bind(("127.0.0.1", 0))  # and nobody reads
        port = agent.getsockname()[1]
        if not there:
            agent.close()
        output = await asyncio.to_thread(run_jaeger, port, end)
    assert output == ("served\nclosed\n" if end == "flush" else "served\n")
