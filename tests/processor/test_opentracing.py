"""Spans of any tracer of OpenTracing: kinds, parents, codes, attempts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from opentracing.mocktracer import MockTracer
from opentracing.scope_managers import ThreadLocalScopeManager
from opentracing.scope_managers.contextvars import ContextVarsScopeManager

from rap.client import Channel, Client, SyncClient
from rap.client.processor import TracingProcessor
from rap.errors import CallError, Code, HandlerError
from rap.server import Channel as ServerChannel
from rap.server import Server
from tests.loopback import calling, eventually, inside, serving


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
        await talk()
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

        async with inside(front, processor_list=[TracingProcessor(tracer)]) as client:
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


async def test_calls_in_a_session_and_of_a_retried_handler_have_the_right_parents(
    tracer: Any,
) -> None:
    tries: list[int] = []
    async with traced(tracer) as (_, inner):

        async def front() -> int:
            tries.append(1)
            async with inner.session:
                found: int = await inner.call(add, len(tries), 0)
            if found == 1:
                raise CallError("not now", code=Code.UNAVAILABLE)
            return found

        async with (
            serving(front, processor_list=[TracingProcessor(tracer)]) as server,
            calling(server, processor_list=[TracingProcessor(tracer)]) as client,
        ):

            @client.register("front", idempotent=True)
            async def again() -> int:
                raise AssertionError("it runs on the server")

            assert await again() == 2
    await eventually(lambda: len(tracer.finished_spans()) == 7)
    found = [
        (span.operation_name, span.tags["span.kind"], span) for span in tracer.finished_spans()
    ]
    (asking,) = [span for *what, span in found if what == ["default/front", "client"]]
    served = [span for *what, span in found if what == ["default/front", "server"]]
    assert [span.parent_id for span in served] == [asking.context.span_id] * 2
    inner_calls = [span for *what, span in found if what == ["default/add", "client"]]
    assert [span.parent_id for span in inner_calls] == [span.context.span_id for span in served]
    assert {span.context.trace_id for *_, span in found} == {asking.context.trace_id}


async def test_calls_of_a_handler_in_a_thread_are_children_of_its_span(tracer: Any) -> None:
    async with traced(tracer) as (behind, _):
        blocking = SyncClient(behind.addresses, processor_list=[TracingProcessor(tracer)])
        await asyncio.to_thread(blocking.connect)

        def front() -> int:
            found: int = blocking.raw_call("add", 1, 2)
            return found

        async with inside(front, processor_list=[TracingProcessor(tracer)]) as client:
            assert await client.call(front) == 3
        await asyncio.to_thread(blocking.close)
    asking, answering = await both(tracer, "default/add")
    (fronting,) = spans_of(tracer, "default/front").values()
    assert asking.parent_id == fronting.context.span_id
    assert answering.parent_id == asking.context.span_id
