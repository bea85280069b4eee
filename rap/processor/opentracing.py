"""Spans of calls for any tracer of the OpenTracing API, such as jaeger-client.

The header of a call carries the trace in the tracer's own form. A caller that speaks W3C Trace
Context is understood by a Jaeger tracer, too.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

from opentracing import Format, Span, SpanContext, SpanContextCorruptedException, Tracer
from opentracing.ext import tags
from opentracing.scope_managers import ThreadLocalScopeManager

from rap.errors import CallError, Code
from rap.message import Call, Header, Side
from rap.processor.base import BaseProcessor
from rap.processor.outcome import outcome
from rap.processor.trace_context import TRACE_ID, TRACEPARENT, UBER_TRACE_ID, TraceParent, put_trace

__all__ = ["TracingProcessor"]

# The span whose handler runs here. A tracer whose scopes belong to threads mixes up the calls of
# one event loop, so it is asked only for what it knows beside this.
_serving: ContextVar[Span | None] = ContextVar("rap_span", default=None)


class TracingProcessor(BaseProcessor):
    """Makes a span of each call; one on a client, however often it is tried.

    Each attempt is a line in the log of the span. Calls that a handler makes through a client with
    such a processor are its children. With a `ContextVarsScopeManager` the handler also finds its
    span as `tracer.active_span`; the scope manager of threads cannot hold it.

    Args:
        tracer: Makes the spans; its reporter sends them in the background.
    """

    def __init__(self, tracer: Tracer) -> None:
        if not isinstance(tracer, Tracer):
            raise TypeError(f"tracer must be an opentracing.Tracer, got {tracer!r}")
        self._tracer = tracer
        self._by_thread = isinstance(tracer.scope_manager, ThreadLocalScopeManager)

    def scope(self, call: Call) -> AbstractContextManager[None]:
        """Keep a span around a call."""
        return self._client(call) if call.side is Side.CLIENT else self._server(call)

    @contextmanager
    def _client(self, call: Call) -> Iterator[None]:
        parent = self._active() or self._extract(call.header)
        span = self._start(call, tags.SPAN_KIND_RPC_CLIENT, parent)
        carrier: dict[str, str] = {}
        self._tracer.inject(span.context, Format.TEXT_MAP, carrier)
        put_trace(call.header, carrier)
        _note_trace(call, carrier)
        call.on_attempt = (*call.on_attempt, lambda call: _log_attempt(span, call))
        with _ending(span, call):
            yield

    @contextmanager
    def _server(self, call: Call) -> Iterator[None]:
        span = self._start(call, tags.SPAN_KIND_RPC_SERVER, self._extract(call.header))
        carrier: dict[str, str] = {}
        self._tracer.inject(span.context, Format.TEXT_MAP, carrier)
        _note_trace(call, carrier)
        scope = None if self._by_thread else self._tracer.scope_manager.activate(span, False)
        token = _serving.set(span)
        try:
            with _ending(span, call):
                yield
        finally:
            _serving.reset(token)
            if scope is not None:
                scope.close()

    def _active(self) -> Span | None:
        """Return the span in which a call is made."""
        if self._by_thread:
            return _serving.get() or self._tracer.active_span
        return self._tracer.active_span or _serving.get()

    def _start(self, call: Call, kind: str, parent: Span | SpanContext | None) -> Span:
        # A server's task has the context in which somebody started the server: not this call's.
        span: Span = self._tracer.start_span(
            call.method[1:],
            child_of=parent,
            tags={tags.SPAN_KIND: kind, tags.COMPONENT: "rap", "rap.shape": call.shape.value},
            ignore_active_span=True,
        )
        if call.peer is not None and call.peer.host:
            span.set_tag(tags.PEER_ADDRESS, str(call.peer))
        return span

    def _extract(self, header: Header) -> SpanContext | None:
        """Return the span of the caller, if the header names one."""
        carrier = {name: value for name, value in header.items() if isinstance(value, str)}
        parent = TraceParent.of(header)
        if parent is not None and UBER_TRACE_ID not in carrier:
            carrier[UBER_TRACE_ID] = parent.uber_trace_id
        elif parent is not None and TRACEPARENT not in carrier:
            carrier[TRACEPARENT] = parent.traceparent
        try:
            found: SpanContext | None = self._tracer.extract(Format.TEXT_MAP, carrier)
        except SpanContextCorruptedException:
            return None  # what a peer sends that is no trace
        return found


def _note_trace(call: Call, carrier: Header) -> None:
    """Keep for others in which trace the call can be found, if the tracer's form is known."""
    parent = TraceParent.of(carrier)
    if parent is not None:
        call.state[TRACE_ID] = f"{parent.trace_id:032x}" if parent.sampled else ""


def _log_attempt(span: Span, call: Call) -> None:
    line = {"event": "rap.attempt", "rap.attempt": call.attempt, tags.PEER_ADDRESS: str(call.peer)}
    if call.retried is not None:
        line |= {"rap.retried.code": call.retried.code.name, "rap.retried.error": str(call.retried)}
    span.log_kv(line)
    if call.peer is not None:
        span.set_tag(tags.PEER_ADDRESS, str(call.peer))


@contextmanager
def _ending(span: Span, call: Call) -> Iterator[None]:
    """Finish the span with the body, and say how that went."""
    error: BaseException | None = None
    try:
        yield
    except BaseException as exc:
        error = exc
        raise
    finally:
        code = outcome(error)
        span.set_tag("rap.code", code.name)
        if call.attempt > 1:
            span.set_tag("rap.attempts", call.attempt)
        if code is not Code.OK:
            span.set_tag(tags.ERROR, True)
            kind = code.name if isinstance(error, CallError) else type(error).__name__
            span.log_kv({"event": "error", "error.kind": kind, "message": str(error)})
        span.finish()
