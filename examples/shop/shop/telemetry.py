"""Metrics and traces of the services."""

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SimpleSpanProcessor,
)
from opentelemetry.trace import format_trace_id

from rap.server.processor import BaseProcessor, OpenTelemetryProcessor, PrometheusProcessor
from shop.settings import TRACES


def processors(service: str) -> list[BaseProcessor]:
    """Return what counts and traces the calls of a server or a client."""
    exporter: SpanProcessor
    if TRACES == "console":
        exporter = SimpleSpanProcessor(ConsoleSpanExporter(formatter=line))
    elif TRACES == "otlp":
        exporter = BatchSpanProcessor(OTLPSpanExporter())
    else:
        return [PrometheusProcessor()]
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: service}))
    provider.add_span_processor(exporter)
    return [OpenTelemetryProcessor(provider), PrometheusProcessor()]


def line(span: ReadableSpan) -> str:
    """Return a span as a line of text."""
    assert span.context is not None
    service = str(span.resource.attributes[SERVICE_NAME])
    return f"{format_trace_id(span.context.trace_id)} {service}: {span.kind.name} {span.name}\n"
