"""Spans of the example's calls, and where they go; `integration.app.settings` says by what names.

A collector that is down or hangs holds up no call, and the end of a program by two seconds at most.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from integration.app.settings import Settings
from rap.client.processor import BaseProcessor

__all__ = ["Tracing"]

_PATIENCE = 2.0  # seconds for what is left to be sent at the end


class Tracing:
    """Makes the processors of one program; without a collector there are none.

    Args:
        service: What the program is called among spans, unless ``OTEL_SERVICE_NAME`` says it.
        chosen: What the environment says.
    """

    def __init__(self, service: str, chosen: Settings) -> None:
        self._provider = _provider(service, chosen) if chosen.otlp else None
        by_jaeger = chosen.jaeger and not chosen.otlp
        self._tracer = _tracer(service, chosen) if by_jaeger else None

    def processors(self) -> list[BaseProcessor]:
        """Return new processors for one server or client."""
        if self._provider is not None:
            from rap.client.processor import OpenTelemetryProcessor

            return [OpenTelemetryProcessor(self._provider)]
        if self._tracer is not None:
            from rap.client.processor import TracingProcessor

            return [TracingProcessor(self._tracer)]
        return []

    async def close(self) -> None:
        """Send what is left, if somebody takes it in time."""
        if self._provider is not None:
            # A daemon: the exporter cannot be told to give up, and must not hold up the end.
            last = threading.Thread(target=self._provider.shutdown, daemon=True)
            last.start()
            await _wait(lambda: not last.is_alive())
        if self._tracer is not None:
            await _wait(self._tracer.close().done)


async def _wait(done: Callable[[], bool]) -> None:
    """Return when it is done, or patience has ended."""
    end = time.monotonic() + _PATIENCE
    while not done() and time.monotonic() < end:  # noqa: ASYNC110  # there is nothing to await
        await asyncio.sleep(0.01)


def _provider(service: str, chosen: Settings) -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = chosen.service or service
    resource = Resource.create({SERVICE_NAME: name, SERVICE_INSTANCE_ID: chosen.name})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _tracer(service: str, chosen: Settings) -> Any:
    from jaeger_client.config import Config
    from opentracing.scope_managers.contextvars import ContextVarsScopeManager

    options = {"sampler": {"type": "const", "param": 1}, "tags": {"instance": chosen.name}}
    scopes = ContextVarsScopeManager()
    config = Config(options, service_name=chosen.service or service, scope_manager=scopes)
    return config.new_tracer()
