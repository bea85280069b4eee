"""Spans of calls for OpenTelemetry, one on each side; attributes are those of its RPC conventions.

https://opentelemetry.io/docs/specs/semconv/rpc/rpc-spans/

A call has one span on a client, however often it is tried; each attempt is an event of it. What
carries the trace is the header of the call: W3C Trace Context is written, or what the program has
set as the global propagator; Jaeger's ``uber-trace-id`` is read, too.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
)

from rap.errors import CallError, Code
from rap.message import Call, Header, Side
from rap.processor.base import BaseProcessor
from rap.processor.outcome import outcome
from rap.processor.trace_context import TRACE_ID, TraceParent, put_trace

__all__ = ["OpenTelemetryProcessor"]

# Codes by which a server says that it, not its caller, is to blame.
_SERVER_FAULTS = frozenset(
    {
        Code.UNKNOWN,
        Code.DEADLINE_EXCEEDED,
        Code.UNIMPLEMENTED,
        Code.INTERNAL,
        Code.UNAVAILABLE,
        Code.DATA_LOSS,
    }
)


class OpenTelemetryProcessor(BaseProcessor):
    """Makes a span of each call.

    On a server the span is current while the handler runs, also in its thread. So calls that it
    makes through a client with such a processor are children of it. Spans go where the provider
    sends them, in the background: a collector that is down holds up no call.

    Args:
        tracer_provider: Makes the spans; by default the global one.
    """

    def __init__(self, tracer_provider: trace.TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("rap", tracer_provider=tracer_provider)

    def scope(self, call: Call) -> AbstractContextManager[None]:
        """Keep a span around a call."""
        return self._client(call) if call.side is Side.CLIENT else self._server(call)

    @contextmanager
    def _client(self, call: Call) -> Iterator[None]:
        parent = otel_context.get_current()
        if not trace.get_current_span(parent).get_span_context().is_valid:
            parent = _extract(call.header, parent)  # passed on by hand, as a gateway does
        span = self._start(call, SpanKind.CLIENT, parent)
        carrier: dict[str, str] = {}
        propagate.inject(carrier, trace.set_span_in_context(span, parent))
        put_trace(call.header, carrier)
        call.on_attempt = (*call.on_attempt, lambda call: _add_attempt(span, call))
        with _ending(span, call):
            yield

    @contextmanager
    def _server(self, call: Call) -> Iterator[None]:
        # The context of the task is that in which somebody started the server: not this call's.
        parent = _extract(call.header, Context())
        span = self._start(call, SpanKind.SERVER, parent)
        if call.peer is not None and call.peer.host:
            span.set_attribute("client.address", call.peer.host)
            span.set_attribute("client.port", call.peer.port)
        token = otel_context.attach(trace.set_span_in_context(span, parent))
        try:
            with _ending(span, call):
                yield
        finally:
            otel_context.detach(token)

    def _start(self, call: Call, kind: SpanKind, parent: Context) -> Span:
        method = call.method[1:]
        attributes = {
            "rpc.system.name": "rap",
            "rpc.method": method,
            "rap.shape": call.shape.value,
        }
        span = self._tracer.start_span(method, parent, kind, attributes)
        told = span.get_span_context()
        call.state[TRACE_ID] = f"{told.trace_id:032x}" if told.trace_flags.sampled else ""
        return span


def _extract(header: Header, base: Context) -> Context:
    """Return `base` with the span of the caller, if the header names one."""
    carrier = {name: value for name, value in header.items() if isinstance(value, str)}
    found = propagate.extract(carrier, base)
    if trace.get_current_span(found).get_span_context().is_valid:
        return found
    parent = TraceParent.of(header)
    if parent is None:
        return found
    flags = TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT)
    remote = SpanContext(parent.trace_id, parent.span_id, is_remote=True, trace_flags=flags)
    return trace.set_span_in_context(NonRecordingSpan(remote), found)


def _add_attempt(span: Span, call: Call) -> None:
    if not span.is_recording():
        return
    event: dict[str, str | int] = {"rap.attempt": call.attempt}
    peer = call.peer
    if peer is not None and peer.host:
        span.set_attributes({"server.address": peer.host, "server.port": peer.port})
        event |= {"network.peer.address": peer.host, "network.peer.port": peer.port}
    if call.retried is not None:
        event |= {
            "rap.retried.code": call.retried.code.name,
            "rap.retried.error": str(call.retried),
        }
    span.add_event("rap.attempt", event)


@contextmanager
def _ending(span: Span, call: Call) -> Iterator[None]:
    """End the span with the body, and say how that went."""
    error: BaseException | None = None
    try:
        yield
    except BaseException as exc:
        error = exc
        raise
    finally:
        code = outcome(error)
        span.set_attribute("rpc.response.status_code", code.name)
        if call.attempt > 1:
            span.set_attribute("rap.attempts", call.attempt)
        faults = _SERVER_FAULTS if call.side is Side.SERVER else frozenset(Code) - {Code.OK}
        if code in faults:
            span.set_attribute("error.type", code.name)
            span.set_status(StatusCode.ERROR, str(error))
        if isinstance(error, Exception) and not isinstance(error, CallError):
            span.record_exception(error)
        span.end()
