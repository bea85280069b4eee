"""Spans of jaeger-client as they are on their way to an agent, and of tracers of other kinds."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from jaeger_client.thrift_gen.agent import Agent
from opentracing.mocktracer import MockTracer
from opentracing.scope_managers import ThreadLocalScopeManager
from opentracing.scope_managers.contextvars import ContextVarsScopeManager
from thrift.protocol.TCompactProtocol import TCompactProtocol
from thrift.transport.TTransport import TMemoryBuffer

from rap.client import Channel, Client
from rap.client.processor import TracingProcessor
from rap.errors import CallError, Code, HandlerError
from rap.server import Channel as ServerChannel
from rap.server import Server
from tests.loopback import PATIENCE, calling, eventually, serving

ROOT = Path(__file__).parents[2]
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN_ID = "00f067aa0ba902b7"


async def add(a: int, b: int) -> int:
    return a + b


async def fail() -> None:
    raise RuntimeError("no")


async def count(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i


async def echo(channel: ServerChannel) -> None:
    async for body in channel:
        await channel.write(body)


def tracer_of(kind: str) -> MockTracer:
    by_thread = kind == "threads"
    return MockTracer(ThreadLocalScopeManager() if by_thread else ContextVarsScopeManager())


@pytest.fixture(params=["contextvars", "threads"])
def tracer(request: pytest.FixtureRequest) -> Any:
    made = tracer_of(request.param)
    return made


@asynccontextmanager
async def traced(tracer: Any) -> AsyncIterator[tuple[Server, Client]]:
    async with (
        serving(add, fail, count, echo, processor_list=[TracingProcessor(tracer)]) as server,
        calling(server, processor_list=[TracingProcessor(tracer)]) as client,
    ):
        yield server, client


def spans_of(tracer: Any, name: str) -> dict[str, Any]:
    """Return the spans of a name by their kind."""
    found = [span for span in tracer.finished_spans() if span.operation_name == name]
    return {span.tags.get("span.kind", ""): span for span in found}


async def both(tracer: Any, name: str) -> tuple[Any, Any]:
    await eventually(lambda: len(spans_of(tracer, name)) == 2)
    spans = spans_of(tracer, name)
    return spans["client"], spans["server"]


async def test_calls_of_every_shape_have_a_span_on_each_end(tracer: Any) -> None:
    async with traced(tracer) as (_, client):

        @client.register("echo")
        async def talk(channel: Channel) -> None:
            await channel.write("hello")
            assert await channel.read_body() == "hello"

        await client.call(add, 1, 2)
        assert [i async for i in client.iterator_call(count, 3)] == [0, 1, 2]
        await talk()  # type: ignore[call-arg]  # its channel is made for it
        for name in ("add", "count", "echo"):
            asking, answering = await both(tracer, f"default/{name}")
            assert asking.parent_id is None
            assert answering.parent_id == asking.context.span_id
            assert asking.tags["rap.code"] == answering.tags["rap.code"] == "OK"
            assert [log.key_values["event"] for log in asking.logs] == ["rap.attempt"]


async def test_a_failure_is_an_error_of_both_spans(tracer: Any) -> None:
    async with traced(tracer) as (_, client):
        with pytest.raises(HandlerError):
            await client.call(fail)
    for span in await both(tracer, "default/fail"):
        assert span.tags["error"] is True
        assert span.tags["rap.code"] == "UNKNOWN"


async def test_the_span_of_the_caller_is_the_parent() -> None:
    tracer: Any = tracer_of("contextvars")
    async with traced(tracer) as (_, client):
        with tracer.start_active_span("page"):
            await client.call(add, 1, 2)
    (page,) = spans_of(tracer, "page").values()
    asking, _ = await both(tracer, "default/add")
    assert asking.parent_id == page.context.span_id


async def test_calls_of_concurrent_handlers_are_children_of_theirs(tracer: Any) -> None:
    async with traced(tracer) as (_, inner):
        meet = asyncio.Barrier(2)

        async def front(number: int) -> int:
            await meet.wait()
            found: int = await inner.call(add, number, 0)
            return found

        async with (
            serving(front, processor_list=[TracingProcessor(tracer)]) as server,
            calling(server) as client,
        ):
            answers = await asyncio.gather(client.call(front, 1), client.call(front, 2))
            assert list(answers) == [1, 2]
    spans = tracer.finished_spans()
    fronts = {span.context.span_id for span in spans if span.operation_name == "default/front"}
    calls = [span for span in spans if span.operation_name == "default/add"]
    parents = {span.parent_id for span in calls if span.tags["span.kind"] == "client"}
    assert len(fronts) == 2
    assert parents == fronts


async def test_retries_are_lines_in_the_log_of_one_span(tracer: Any) -> None:
    tries: list[int] = []

    async def flaky() -> int:
        tries.append(1)
        if len(tries) == 1:
            raise CallError("not now", code=Code.UNAVAILABLE)
        return len(tries)

    async with (
        serving(flaky) as server,
        calling(server, processor_list=[TracingProcessor(tracer)]) as client,
    ):

        @client.register("flaky", idempotent=True)
        async def again() -> int:
            raise AssertionError("it runs on the server")

        assert await again() == 2
    (span,) = tracer.finished_spans()
    first, second = (log.key_values for log in span.logs)
    assert (first["rap.attempt"], second["rap.attempt"]) == (1, 2)
    assert first["peer.address"] == second["peer.address"] == str(server.addresses[0])
    assert "rap.retried.code" not in first
    assert second["rap.retried.code"] == "UNAVAILABLE"
    assert second["rap.retried.error"] == "not now"
    assert span.tags["rap.attempts"] == 2


@pytest.mark.parametrize("tracer", [None, object(), "jaeger"])
def test_what_is_no_tracer_is_refused(tracer: object) -> None:
    with pytest.raises(TypeError, match="tracer must be an opentracing"):
        TracingProcessor(tracer)  # type: ignore[arg-type,unused-ignore]  # as it may come


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
    agent = {"reporting_host": "127.0.0.1", "reporting_port": int(sys.argv[1])}
    options = {"sampler": {"type": "const", "param": 1}, "local_agent": agent}
    scopes = ContextVarsScopeManager()
    tracer = Config(options, service_name="shop", scope_manager=scopes).new_tracer()
    server = Server("127.0.0.1:0", processor_list=[TracingProcessor(tracer)])
    server.register(add)
    async with server:
        async with Client(server.addresses, processor_list=[TracingProcessor(tracer)]) as client:
            for number in range(20):
                assert await client.call(add, number, 1) == number + 1
        async with Client(server.addresses) as client:
            header = {"traceparent": sys.argv[2]}
            assert await client.call(add, 1, 2, header=header) == 3
            for bad in ("hello", "1:2:3", 7):
                assert await client.call(add, 1, 2, header={"uber-trace-id": bad}) == 3
    print("served", flush=True)
    if sys.argv[3] == "flush":
        closed = tracer.close()
        while not closed.done():
            await asyncio.sleep(0.01)

asyncio.run(main())
"""


def run_jaeger(port: int, flush: str) -> str:
    """Run the program, whose tracer sends to an agent on `port`.

    It is a process of its own because the sender of a closed tracer leaves its sockets open.
    """
    parent = f"00-{TRACE_ID}-{SPAN_ID}-01"
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(port), parent, flush],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
        check=False,
    )
    return found.stdout + found.stderr * bool(found.returncode)


def receive(agent: socket.socket, number: int) -> list[Any]:
    """Return so many spans of those that have come to an agent."""
    found: list[Any] = []
    while len(found) < number:
        protocol = TCompactProtocol(TMemoryBuffer(agent.recv(65536)))
        protocol.readMessageBegin()
        batch: Any = Agent.emitBatch_args()  # type: ignore[no-untyped-call,unused-ignore]
        batch.read(protocol)
        assert batch.batch.process.serviceName == "shop"
        found += batch.batch.spans
    return found


async def test_spans_come_to_an_agent_of_jaeger() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as agent:
        agent.bind(("127.0.0.1", 0))
        agent.settimeout(PATIENCE)
        output = await asyncio.to_thread(run_jaeger, agent.getsockname()[1], "flush")
        assert output == "served\n"
        spans = await asyncio.to_thread(receive, agent, 44)
    assert {span.operationName for span in spans} == {"default/add"}
    by_id = {span.spanId: span for span in spans}
    children = [span for span in spans if span.parentSpanId in by_id]
    assert len(children) >= 20
    low = int(TRACE_ID[16:], 16)
    (joined,) = [span for span in spans if span.traceIdLow % 2**64 == low]
    assert joined.parentSpanId == int(SPAN_ID, 16)


async def test_an_agent_that_is_not_there_holds_up_no_call() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = int(taken.getsockname()[1])
    output = await asyncio.to_thread(run_jaeger, port, "leave")
    assert output == "served\n"
