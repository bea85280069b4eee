"""Services that trace with OpenTelemetry and with jaeger-client understand each other."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from jaeger_client.reporter import InMemoryReporter
from jaeger_client.sampler import ConstSampler
from jaeger_client.tracer import Tracer
from opentelemetry import baggage
from opentelemetry import context as otel_context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentracing.scope_managers.contextvars import ContextVarsScopeManager

from rap.client import Client
from rap.client.processor import BaseProcessor, OpenTelemetryProcessor, TracingProcessor
from rap.server import context
from tests.loopback import calling, eventually, serving

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"

# A tracer of jaeger-client looks for the address of its machine, and leaves that to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket.socket:ResourceWarning")


class Both:
    """A processor of each kind, and the ids of the spans that it makes."""

    def __init__(self) -> None:
        self._exporter, self.provider = InMemorySpanExporter(), TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reporter, scopes = InMemoryReporter(), ContextVarsScopeManager()
        sampler = ConstSampler(True)
        self._tracer = Tracer("test", self._reporter, sampler, scope_manager=scopes)

    def processor(self, kind: str) -> BaseProcessor:
        if kind == "otel":
            return OpenTelemetryProcessor(self.provider)
        return TracingProcessor(self._tracer)

    def ids(self, kind: str) -> list[tuple[str, int, int, int]]:
        """Return name, trace, id and parent of each span, in the order in which they ended."""
        if kind == "otel":
            spans: Any = self._exporter.get_finished_spans()
            return [
                (s.name, s.context.trace_id, s.context.span_id, s.parent.span_id if s.parent else 0)
                for s in spans
            ]
        return [
            (s.operation_name, s.trace_id, s.span_id, s.parent_id or 0)
            for s in self._reporter.get_spans()
        ]


@pytest.fixture
def both() -> Both:
    return Both()


@asynccontextmanager
async def chain(both: Both, kinds: list[str]) -> AsyncIterator[Client]:
    """Two services, one behind the other; `kinds` are of the client and of both of them."""

    async def last() -> dict[str, Any]:
        return dict(context.request.header)

    async with serving(last, processor_list=[both.processor(kinds[2])]) as behind:
        async with calling(behind, processor_list=[both.processor(kinds[1])]) as inner:

            async def first() -> dict[str, Any]:
                found: dict[str, Any] = await inner.raw_call("last")
                return found

            async with (
                serving(first, processor_list=[both.processor(kinds[1])]) as server,
                calling(server, processor_list=[both.processor(kinds[0])]) as client,
            ):
                yield client


@pytest.mark.parametrize("kinds", [["otel", "jaeger", "otel"], ["jaeger", "otel", "jaeger"]])
async def test_a_trace_goes_through_services_of_both_kinds(both: Both, kinds: list[str]) -> None:
    outer, inner = kinds[:2]
    async with chain(both, kinds) as client:
        header = await client.raw_call("first")
        assert header.keys() == {"traceparent" if inner == "otel" else "uber-trace-id"}
        await eventually(lambda: len(both.ids(outer)) == len(both.ids(inner)) == 2)
    ends = {name: ids for name, *ids in both.ids(outer)}  # the first call, and the last handler
    middle = {name: ids for name, *ids in both.ids(inner)}  # what is between them
    trace_id, asked, _ = ends["default/first"]
    assert middle["default/first"] == [trace_id, middle["default/first"][1], asked]
    assert middle["default/last"][::2] == [trace_id, middle["default/first"][1]]
    assert ends["default/last"][::2] == [trace_id, middle["default/last"][1]]


async def test_a_trace_that_is_not_kept_stays_so_through_services_of_both_kinds(
    both: Both,
) -> None:
    async with chain(both, ["otel", "jaeger", "otel"]) as client:
        found = await client.raw_call(
            "first", header={"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-00"}
        )
    assert found["uber-trace-id"].startswith(f"{TRACE_ID}:")
    assert found["uber-trace-id"].endswith(":0")
    assert both.ids("otel") == both.ids("jaeger") == []


async def test_tracestate_and_baggage_go_with_the_trace(both: Both) -> None:
    async with chain(both, ["otel", "otel", "otel"]) as client:
        token = otel_context.attach(baggage.set_baggage("tenant", "blue"))
        try:
            found = await client.raw_call(
                "first",
                header={
                    "traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01",
                    "tracestate": "vendor=1",
                },
            )
        finally:
            otel_context.detach(token)
    assert found["traceparent"].startswith(f"00-{TRACE_ID}-")
    assert found["tracestate"] == "vendor=1"
    assert found["baggage"] == "tenant=blue"
