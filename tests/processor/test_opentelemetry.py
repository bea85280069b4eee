"""Spans of both ends as an exporter gets them: kinds, parents, codes, attempts."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from rap.client import Channel, Client, SyncClient
from rap.client.processor import OpenTelemetryProcessor
from rap.errors import CallError, Code, HandlerError
from rap.server import Channel as ServerChannel
from rap.server import Server
from tests.fake_clock import FakeClock
from tests.loopback import calling, eventually, expired, inside, serving, within

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN_ID = "00f067aa0ba902b7"


async def add(a: int, b: int) -> int:
    return a + b


async def fail() -> None:
    raise RuntimeError("no")


async def refuse() -> None:
    raise CallError("not for you", code=Code.PERMISSION_DENIED)


async def count(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i


async def echo(channel: ServerChannel) -> None:
    async for body in channel:
        await channel.write(body)


class Spans:
    """A provider, and what it has exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")

    def processor(self) -> OpenTelemetryProcessor:
        return OpenTelemetryProcessor(self.provider)

    @property
    def ended(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def all(self, name: str, kind: SpanKind = SpanKind.SERVER) -> list[ReadableSpan]:
        return [span for span in self.ended if span.name == name and span.kind is kind]

    def one(self, name: str, kind: SpanKind = SpanKind.SERVER) -> ReadableSpan:
        (span,) = self.all(name, kind)
        return span

    async def both(self, name: str) -> tuple[ReadableSpan, ReadableSpan]:
        """Return the spans of a call on client and server; each ends on its own."""
        client, server = SpanKind.CLIENT, SpanKind.SERVER
        await eventually(lambda: self.all(name, client) and self.all(name, server))
        return self.one(name, client), self.one(name, server)


@pytest.fixture
def spans() -> Iterator[Spans]:
    made = Spans()
    yield made
    made.provider.shutdown()


@asynccontextmanager
async def traced(
    spans: Spans, clock: FakeClock | None = None
) -> AsyncIterator[tuple[Server, Client]]:
    functions = (add, fail, refuse, count, echo)
    async with (
        serving(*functions, processor_list=[spans.processor()], clock=clock) as server,
        calling(server, processor_list=[spans.processor()], clock=clock) as client,
    ):
        yield server, client


def is_child(span: ReadableSpan, of: ReadableSpan) -> bool:
    """Whether a span says that the other is its parent."""
    assert span.context is not None
    assert of.context is not None
    same = span.context.trace_id == of.context.trace_id
    return same and span.parent is not None and span.parent.span_id == of.context.span_id


async def test_a_call_has_a_span_on_each_end(spans: Spans) -> None:
    async with traced(spans) as (server, client):
        with spans.tracer.start_as_current_span("page"):
            assert await client.call(add, 1, 2) == 3
        there = server.addresses[0]
    asking, answering = await spans.both("default/add")
    assert is_child(asking, spans.one("page", SpanKind.INTERNAL))
    assert is_child(answering, asking)
    assert asking.attributes is not None
    assert dict(asking.attributes) == {
        "rpc.system.name": "rap",
        "rpc.method": "default/add",
        "rpc.response.status_code": "OK",
        "rap.shape": "unary",
        "server.address": there.host,
        "server.port": there.port,
    }
    assert [event.name for event in asking.events] == ["rap.attempt"]
    assert asking.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(
    ("name", "code", "server_status"),
    [
        ("fail", "UNKNOWN", StatusCode.ERROR),
        ("refuse", "PERMISSION_DENIED", StatusCode.UNSET),  # the caller is to blame
        ("hang", "DEADLINE_EXCEEDED", StatusCode.ERROR),
    ],
)
async def test_a_failure_is_seen_on_both_ends(
    spans: Spans, name: str, code: str, server_status: StatusCode, clock: FakeClock
) -> None:
    begun = asyncio.Event()

    async def hang() -> None:
        begun.set()
        await asyncio.Event().wait()

    async with traced(spans, clock=clock) as (server, client):
        server.register(hang)
        if name == "hang":
            await expired(client.raw_call(name, timeout=5.0), clock, 5.0, once=begun.is_set)
        else:
            with pytest.raises(CallError):
                await client.raw_call(name, timeout=None)
        asking, answering = await spans.both(f"default/{name}")
    for span in (asking, answering):
        assert span.attributes is not None
        assert span.attributes["rpc.response.status_code"] == code
    assert asking.status.status_code is StatusCode.ERROR
    assert answering.status.status_code is server_status
    recorded = [event.name for event in answering.events]
    assert recorded == (["exception"] if name == "fail" else [])


async def test_retries_are_events_of_one_span(spans: Spans) -> None:
    tries: list[int] = []

    async def flaky() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise CallError("not now", code=Code.UNAVAILABLE)
        return len(tries)

    async with (
        serving(flaky, processor_list=[spans.processor()]) as server,
        calling(server, processor_list=[spans.processor()]) as client,
    ):

        @client.register("flaky", idempotent=True)
        async def again() -> int:
            raise AssertionError("it runs on the server")

        assert await again() == 3
    asking = spans.one("default/flaky", SpanKind.CLIENT)
    attempts = [dict(event.attributes or {}) for event in asking.events]
    assert [each["rap.attempt"] for each in attempts] == [1, 2, 3]
    assert {each["network.peer.port"] for each in attempts} == {server.addresses[0].port}
    assert [each.get("rap.retried.code") for each in attempts] == [None, *["UNAVAILABLE"] * 2]
    assert attempts[2]["rap.retried.error"] == "not now"
    served = spans.all("default/flaky")
    assert len(served) == 3
    assert all(is_child(span, asking) for span in served)


async def test_calls_of_a_handler_are_children_of_its_span(spans: Spans) -> None:
    async with traced(spans) as (_, inner):

        async def front() -> int:
            found: int = await inner.call(add, 1, 2)
            return found

        async with inside(front, processor_list=[spans.processor()]) as client:
            assert await client.call(front) == 3
    asking, answering = await spans.both("default/add")
    assert is_child(asking, spans.one("default/front"))
    assert is_child(answering, asking)
    assert spans.one("default/front").parent is None


async def test_calls_of_a_handler_in_a_thread_are_children_of_its_span(spans: Spans) -> None:
    async with traced(spans) as (behind, _):
        blocking = SyncClient(behind.addresses, processor_list=[spans.processor()])
        await asyncio.to_thread(blocking.connect)

        def front() -> int:
            with spans.tracer.start_as_current_span("work"):
                found: int = blocking.raw_call("add", 1, 2)
            return found

        async with inside(front, processor_list=[spans.processor()]) as client:
            assert await client.call(front) == 3
        await asyncio.to_thread(blocking.close)
    asking, answering = await spans.both("default/add")
    work = spans.one("work", SpanKind.INTERNAL)
    assert is_child(work, spans.one("default/front"))
    assert is_child(asking, work)
    assert is_child(answering, asking)


async def test_concurrent_calls_do_not_mix_their_parents(spans: Spans) -> None:
    async with traced(spans) as (_, client):

        async def page(number: int) -> None:
            with spans.tracer.start_as_current_span(f"page {number}"):
                await client.call(add, number, 0)

        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(page(number))
    pages = {span.context.span_id for span in spans.ended if span.name.startswith("page")}
    parents = [span.parent for span in spans.all("default/add", SpanKind.CLIENT)]
    assert {parent.span_id for parent in parents if parent} == pages


async def test_generators_channels_and_sessions_have_the_right_parents(spans: Spans) -> None:
    async with traced(spans) as (_, client):

        @client.register("echo")
        async def talk(channel: Channel) -> None:
            await channel.write("hello")
            assert await channel.read_body() == "hello"
            await client.call(add, 1, 2)

        with spans.tracer.start_as_current_span("page"):
            async with client.session:
                assert [i async for i in client.iterator_call(count, 3)] == [0, 1, 2]
                await talk()
    page = spans.one("page", SpanKind.INTERNAL)
    for name in ("default/count", "default/echo", "default/add"):
        asking, answering = await spans.both(name)
        assert is_child(asking, page)
        assert is_child(answering, asking)


async def test_a_generator_that_is_left_early_ends_its_spans_well(spans: Spans) -> None:
    async with traced(spans) as (_, client):
        async for _ in client.iterator_call(count, 100_000):
            break
        asking, answering = await spans.both("default/count")
    assert asking.status.status_code is StatusCode.UNSET
    assert is_child(answering, asking)


@pytest.mark.parametrize(
    "header",
    [
        {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01"},
        {"uber-trace-id": f"{TRACE_ID}:{SPAN_ID}:0:1"},
    ],
)
async def test_a_caller_that_traces_otherwise_is_the_parent(
    spans: Spans, header: dict[str, str]
) -> None:
    async with inside(add, processor_list=[spans.processor()]) as client:
        await client.call(add, 1, 2, header=header)
    span = spans.one("default/add")
    assert span.parent is not None
    assert (span.parent.trace_id, span.parent.span_id) == (int(TRACE_ID, 16), int(SPAN_ID, 16))


@pytest.mark.parametrize("value", ["hello", 7, f"ff-{TRACE_ID}-{SPAN_ID}-01", b"\xff", None])
@pytest.mark.parametrize("name", ["traceparent", "uber-trace-id", "baggage", "tracestate"])
async def test_a_header_that_is_no_trace_begins_a_new_one(
    spans: Spans, name: str, value: object
) -> None:
    async with inside(add, processor_list=[spans.processor()]) as client:
        assert await client.call(add, 1, 2, header={name: value}) == 3
    assert spans.one("default/add").parent is None


async def test_the_span_in_which_a_server_was_started_is_no_parent(spans: Spans) -> None:
    with spans.tracer.start_as_current_span("start"):
        async with inside(add, processor_list=[spans.processor()]) as client:
            await client.call(add, 1, 2)
    assert spans.one("default/add").parent is None


async def test_nothing_of_a_call_stays_current_for_its_caller(spans: Spans) -> None:
    async with traced(spans) as (_, client):
        with pytest.raises(HandlerError):
            await client.call(fail)
        async for _ in client.iterator_call(count, 3):
            assert not trace.get_current_span().get_span_context().is_valid
    assert not trace.get_current_span().get_span_context().is_valid


class Stuck(SpanExporter):
    """A collector that does not answer."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.free = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.asked.set()
        self.free.wait(10.0)
        return SpanExportResult.FAILURE


async def test_a_dead_collector_holds_up_no_call(spans: Spans) -> None:
    stuck = Stuck()
    batches = BatchSpanProcessor(stuck, max_queue_size=8, max_export_batch_size=1)
    spans.provider.add_span_processor(batches)
    try:
        async with traced(spans) as (_, client):
            for number in range(50):
                assert await within(client.call(add, number, 0)) == number
            assert await asyncio.to_thread(stuck.asked.wait, 10.0)
            assert not stuck.free.is_set()
    finally:
        stuck.free.set()


async def test_a_generator_that_is_tried_again_has_one_span_and_its_calls_are_children(
    spans: Spans,
) -> None:
    tries: list[int] = []
    async with traced(spans) as (behind, inner):
        blocking = SyncClient(behind.addresses, processor_list=[spans.processor()])
        await asyncio.to_thread(blocking.connect)

        async def numbers() -> AsyncIterator[int]:
            tries.append(1)
            if len(tries) == 1:
                raise CallError("not now", code=Code.UNAVAILABLE)
            yield await inner.call(add, 1, 0)
            yield await inner.call(add, 2, 0)

        def in_thread() -> Iterator[int]:
            yield blocking.raw_call("add", 3, 0)
            yield blocking.raw_call("add", 4, 0)

        async with (
            serving(numbers, in_thread, processor_list=[spans.processor()]) as server,
            calling(server, processor_list=[spans.processor()]) as client,
        ):

            @client.register("numbers", idempotent=True)
            async def again() -> AsyncIterator[int]:
                raise AssertionError("it runs on the server")
                yield 0

            assert [each async for each in again()] == [1, 2]
            assert [each async for each in client.iterator_call(in_thread)] == [3, 4]
        await asyncio.to_thread(blocking.close)
    asking = spans.one("default/numbers", SpanKind.CLIENT)
    attempts = [dict(event.attributes or {}) for event in asking.events]
    assert [each.get("rap.retried.code") for each in attempts] == [None, "UNAVAILABLE"]
    first, second = spans.all("default/numbers")
    assert is_child(first, asking)
    assert is_child(second, asking)
    (threaded,) = spans.all("default/in_thread")
    calls = spans.all("default/add", SpanKind.CLIENT)
    assert [is_child(span, second) for span in calls] == [True, True, False, False]
    assert [is_child(span, threaded) for span in calls] == [False, False, True, True]


async def test_calls_of_a_channel_s_handler_are_children_of_its_span(spans: Spans) -> None:
    async with traced(spans) as (_, inner):

        async def sums(channel: ServerChannel) -> None:
            async for body in channel:
                await channel.write(await inner.call(add, body, 1))

        async with (
            serving(sums, processor_list=[spans.processor()]) as server,
            calling(server, processor_list=[spans.processor()]) as client,
        ):

            @client.register("sums")
            async def talk(channel: Channel) -> list[int]:
                found = []
                for number in (1, 2):
                    await channel.write(number)
                    found.append(await channel.read_body())
                return found

            said: list[int] = await talk()
            assert said == [2, 3]
            asking, answering = await spans.both("default/sums")
    assert is_child(answering, asking)
    calls = spans.all("default/add", SpanKind.CLIENT)
    assert [is_child(span, answering) for span in calls] == [True, True]
