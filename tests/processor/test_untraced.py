"""Calls in no trace: they are marked, and nobody whom they reach makes a span."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from jaeger_client.reporter import NullReporter
from jaeger_client.sampler import ConstSampler, ProbabilisticSampler
from jaeger_client.tracer import Tracer
from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, DEFAULT_OFF, TraceIdRatioBased
from opentracing.mocktracer import MockTracer
from opentracing.scope_managers import ThreadLocalScopeManager
from opentracing.scope_managers.contextvars import ContextVarsScopeManager

from rap.call import Side
from rap.client import Channel, Client
from rap.client.processor import (
    BaseProcessor,
    CryptoProcessor,
    OpenTelemetryProcessor,
    PrometheusProcessor,
    TracingProcessor,
)
from rap.errors import CallError, Code
from rap.processor.base import Pipeline
from rap.processor.tracing.sampling import HeadSamplingProcessor
from rap.server import Channel as ServerChannel
from rap.server import context
from rap.server.processor import CryptoProcessor as ServerCryptoProcessor
from tests.loopback import calling, inside, serving

MARK = {":untraced": True}
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def seen() -> dict[str, Any]:
    return dict(context.request.header)


async def several() -> AsyncIterator[dict[str, Any]]:
    yield dict(context.request.header)


async def chatty(channel: ServerChannel) -> None:
    await channel.write(dict(context.request.header))


class Spans:
    """Tracers of both kinds that keep everything, and what they have kept."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer: Any = MockTracer(ContextVarsScopeManager())

    @property
    def names(self) -> list[str]:
        kept = [span.name for span in self._exporter.get_finished_spans()]
        return kept + [span.operation_name for span in self.tracer.finished_spans()]

    def processor(self, kind: str, sample: float = 1.0) -> BaseProcessor:
        if kind == "otel":
            return OpenTelemetryProcessor(self.provider, sample=sample)
        return TracingProcessor(self.tracer, sample=sample)


@pytest.fixture
def spans() -> Spans:
    return Spans()


def jaeger(sampler: Any, scopes: Any = None) -> BaseProcessor:
    scopes = scopes or ContextVarsScopeManager()
    return TracingProcessor(Tracer("test", NullReporter(), sampler, scope_manager=scopes))


NEVER: dict[str, Callable[[], BaseProcessor]] = {
    "otel off": lambda: OpenTelemetryProcessor(TracerProvider(ALWAYS_OFF)),
    "otel roots off": lambda: OpenTelemetryProcessor(TracerProvider(DEFAULT_OFF)),
    "otel ratio": lambda: OpenTelemetryProcessor(TracerProvider(TraceIdRatioBased(0.0))),
    "otel sample": lambda: OpenTelemetryProcessor(TracerProvider(), sample=0),
    "jaeger const": lambda: jaeger(ConstSampler(False)),
    "jaeger ratio": lambda: jaeger(ProbabilisticSampler(0.0)),
    "jaeger threads": lambda: jaeger(ConstSampler(False), ThreadLocalScopeManager()),
    "opentracing sample": lambda: TracingProcessor(MockTracer(), sample=0),
}


# A tracer of jaeger-client looks for the address of its machine, and leaves that to the collector.
@pytest.mark.filterwarnings("ignore:unclosed <socket.socket:ResourceWarning")
@pytest.mark.parametrize("never", NEVER)
@pytest.mark.parametrize("others", [[], [PrometheusProcessor]])
@pytest.mark.parametrize("kind", ["otel", "opentracing"])
async def test_a_call_of_any_shape_says_so_and_no_server_makes_a_span(
    spans: Spans, never: str, others: list[type[BaseProcessor]], kind: str
) -> None:
    processors = [NEVER[never](), *(other() for other in others)]
    async with (
        serving(seen, several, chatty, processor_list=[spans.processor(kind)]) as server,
        calling(server, processor_list=processors) as client,
    ):

        @client.register("seen")
        async def stub() -> dict[str, Any]:
            raise AssertionError("it runs on the server")

        @client.register("chatty")
        async def talk(channel: Channel) -> Any:
            return await channel.read_body()

        assert await stub() == MARK
        assert await stub() == MARK  # the server knows its Open by now
        assert await client.raw_call("seen") == MARK
        assert await client.raw_call("seen", header={"a": 1}) == {"a": 1, **MARK}
        assert [each async for each in client.iterator_call(several)] == [MARK]
        said: Any = await talk()
        assert said.keys() == {":untraced", "session_id"}
        async with client.session as session:
            assert await stub() == {"session_id": session.id, **MARK}
    assert spans.names == []


@pytest.mark.parametrize("kind", ["otel", "opentracing"])
async def test_calls_that_an_untraced_one_makes_are_untraced(spans: Spans, kind: str) -> None:
    async with (
        serving(seen) as behind,
        calling(behind, processor_list=[spans.processor(kind)]) as inner,
    ):

        async def front() -> list[Any]:
            return [await inner.call(seen), await inner.raw_call("seen")]

        async with (
            serving(front, processor_list=[spans.processor(kind)]) as server,
            calling(server, processor_list=[spans.processor(kind, 0)]) as marked,
            calling(server) as plain,
        ):
            assert await marked.call(front) == [MARK, MARK]
            assert spans.names == []
            for found in await plain.call(front):
                assert MARK.keys().isdisjoint(found)
    assert sorted(spans.names) == ["default/front", "default/seen", "default/seen"]


@pytest.mark.parametrize("others", [[], [PrometheusProcessor]])
@pytest.mark.parametrize("kind", ["otel", "opentracing"])
async def test_a_server_that_begins_no_trace_passes_that_on(
    spans: Spans, kind: str, others: list[type[BaseProcessor]]
) -> None:
    there = [spans.processor(kind, 0), *(other() for other in others)]
    async with (
        serving(seen) as behind,
        calling(behind, processor_list=[spans.processor(kind)]) as inner,
    ):

        async def front() -> Any:
            return await inner.call(seen)

        async with inside(front, processor_list=there) as client:
            for _ in range(2):
                assert await client.call(front) == MARK
    assert spans.names == []


@pytest.mark.parametrize("kind", ["otel", "opentracing"])
async def test_a_trace_that_was_begun_is_continued_whatever_the_sample(
    spans: Spans, kind: str
) -> None:
    async with (
        serving(seen, processor_list=[spans.processor(kind, 0)]) as server,
        calling(server, processor_list=[spans.processor(kind, 0)]) as client,
    ):
        if kind == "otel":
            with spans.provider.get_tracer("test").start_as_current_span("page"):
                found = await client.call(seen)
        else:
            with spans.tracer.start_active_span("page"):
                found = await client.call(seen)
        assert MARK.keys().isdisjoint(found)
    assert sorted(spans.names) == ["default/seen", "default/seen", "page"]


async def test_a_trace_that_a_header_names_is_continued_whatever_the_sample(spans: Spans) -> None:
    async with (
        serving(seen, processor_list=[spans.processor("otel", 0)]) as server,
        calling(server, processor_list=[spans.processor("otel", 0)]) as client,
    ):
        found = await client.call(seen, header={"traceparent": TRACEPARENT})
    assert found["traceparent"].startswith(TRACEPARENT[:36])
    assert spans.names == ["default/seen", "default/seen"]


@pytest.mark.parametrize("kind", ["otel", "opentracing"])
async def test_a_share_of_the_calls_begins_a_trace(spans: Spans, kind: str) -> None:
    async with (
        serving(seen, processor_list=[spans.processor(kind)]) as server,
        calling(server, processor_list=[spans.processor(kind, 0.5)]) as client,
    ):

        @client.register("seen")
        async def stub() -> dict[str, Any]:
            raise AssertionError("it runs on the server")

        found = [await stub() for _ in range(300)]
        found += [await client.raw_call("seen") for _ in range(300)]
    traced = [each for each in found if each != MARK]
    assert len(spans.names) == 2 * len(traced)  # wholly or not at all
    assert 200 < len(traced) < 400  # 8 standard deviations to each side


async def test_a_retry_says_so_too() -> None:
    headers: list[dict[str, Any]] = []

    async def flaky() -> int:
        headers.append(dict(context.request.header))
        if len(headers) == 1:
            raise CallError("not now", code=Code.UNAVAILABLE)
        return len(headers)

    async with (
        serving(flaky) as server,
        calling(server, processor_list=[NEVER["otel off"]()]) as client,
    ):

        @client.register("flaky", idempotent=True)
        async def again() -> int:
            raise AssertionError("it runs on the server")

        assert await again() == 2
    assert headers == [MARK, {":attempt": 2, **MARK}]


async def test_encrypted_calls_are_untraced_too(spans: Spans) -> None:
    key = "0123456789abcdef"
    there = [spans.processor("otel"), ServerCryptoProcessor({"k": key})]
    here = [NEVER["otel off"](), CryptoProcessor("k", key)]
    async with (
        serving(seen, processor_list=there) as server,
        calling(server, processor_list=here) as client,
    ):
        assert (await client.call(seen))[":untraced"] is True
    assert spans.names == []


async def test_baggage_goes_with_an_untraced_call(spans: Spans) -> None:
    async def carried() -> Any:
        assert not trace.get_current_span().get_span_context().is_valid
        return dict(baggage.get_all())

    async with (
        serving(carried, processor_list=[spans.processor("otel")]) as server,
        calling(server, processor_list=[spans.processor("otel", 0)]) as client,
    ):

        @client.register("carried")
        async def stub() -> dict[str, Any]:
            raise AssertionError("it runs on the server")

        token = otel_context.attach(baggage.set_baggage("tenant", "blue"))
        try:
            assert await stub() == {"tenant": "blue"}
        finally:
            otel_context.detach(token)
        assert await stub() == {}
    assert spans.names == []


async def test_concurrent_untraced_calls_do_not_mark_traced_ones(spans: Spans) -> None:
    async with (
        serving(seen, processor_list=[spans.processor("otel")]) as server,
        calling(server, processor_list=[spans.processor("otel", 0)]) as client,
    ):
        tracer = spans.provider.get_tracer("test")

        async def traced(client: Client) -> Any:
            with tracer.start_as_current_span("page"):
                return await client.call(seen)

        calls = [traced(client) if number % 2 else client.call(seen) for number in range(40)]
        found = await asyncio.gather(*calls)
    assert [each == MARK for each in found] == [number % 2 == 0 for number in range(40)]


@pytest.mark.parametrize("sample", [-0.1, 1.1, float("nan"), True, "1", None])
@pytest.mark.parametrize("kind", ["otel", "opentracing"])
def test_a_sample_that_is_no_share_is_refused(spans: Spans, kind: str, sample: Any) -> None:
    with pytest.raises(ValueError, match="sample must be a number from 0 to 1"):
        spans.processor(kind, sample)


def test_a_sample_may_be_any_share() -> None:
    never = [HeadSamplingProcessor(lambda: None, share).wants_next() for share in (0, 1e-300)]
    always = [HeadSamplingProcessor(lambda: None, share).wants_next() for share in (1, 1.0)]
    assert not any(never)
    assert all(always)


@pytest.mark.filterwarnings("ignore:unclosed <socket.socket:ResourceWarning")
def test_a_pipeline_leaves_no_scope_out_where_somebody_else_has_a_hook(spans: Spans) -> None:
    never, jaeger_never = NEVER["otel off"](), NEVER["jaeger const"]()
    assert not Pipeline([never], Side.CLIENT).wants_next()
    assert not Pipeline([never, BaseProcessor()], Side.CLIENT).wants_next()
    assert Pipeline([never], Side.SERVER).ignores(MARK)
    assert Pipeline([never], Side.SERVER).ignores({})  # it begins none either
    assert not Pipeline([spans.processor("otel", 0.5)], Side.SERVER).ignores({})
    assert not Pipeline([spans.processor("opentracing", 0.5)], Side.SERVER).ignores({})
    for more in ({"baggage": "a=1"}, {"traceparent": TRACEPARENT}):
        assert not Pipeline([never], Side.SERVER).ignores(dict(more))
        assert not Pipeline([never], Side.SERVER).ignores({**more, **MARK})
    found = {"traceparent": TRACEPARENT}
    assert not Pipeline([jaeger_never], Side.SERVER).ignores(found)
    assert found == {"traceparent": TRACEPARENT}
    for other in (PrometheusProcessor(), CryptoProcessor("k", "0123456789abcdef")):
        assert Pipeline([never, other], Side.CLIENT).wants_next()
        assert not Pipeline([other, never], Side.SERVER).ignores(MARK)
    assert Pipeline([], Side.CLIENT).wants_next()
