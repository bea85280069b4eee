"""Spans of calls for OpenTelemetry, one on each side, with the attributes of its RPC conventions.

https://opentelemetry.io/docs/specs/semconv/rpc/rpc-spans/

On a client, a call has one span for all of its attempts, and each attempt is an event of the span.
The trace travels in the header of the call, in the format of the global propagator of the program.
By default this is W3C Trace Context. The processor also reads Jaeger's ``uber-trace-id``.
"""

from contextlib import AbstractContextManager, nullcontext
from types import TracebackType

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

from rap import __version__
from rap.call import UNTRACED, Call, Header, Side
from rap.errors import CallError, Code
from rap.processor.base import outcome
from rap.processor.tracing.context import TRACE_ID, TraceParent, put_trace
from rap.processor.tracing.sampling import HeadSamplingProcessor, is_untraced

__all__ = ["OpenTelemetryProcessor"]

# Codes of errors that the server has caused, not the caller.
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
# Descriptions of samplers that start no trace. The first one drops the traces of callers, too.
_NO_ROOTS = ("AlwaysOffSampler", "TraceIdRatioBased{0.0}")
# The function inside `opentelemetry.context.get_current`, if it exists; it saves 0.4 % of a call.
_current_context = getattr(otel_context, "_RUNTIME_CONTEXT", otel_context).get_current
_no_scope = nullcontext()


class OpenTelemetryProcessor(HeadSamplingProcessor):
    """Creates a span for each call.

    On a server, the span is current while the handler runs, also in a thread. Calls that the
    handler makes through a client with such a processor are children of this span. The provider
    exports the spans in the background, so a collector that is down delays no call.

    Args:
        tracer_provider: Provider of the tracer. By default the global one at this moment.
        sample: Share of the calls outside a trace that start one, 0 to 1, before the sampler of the
            provider decides. A call that starts none costs close to nothing on both sides. This is
            so for all calls with 0, and with a provider whose sampler starts no trace.
    """

    def __init__(
        self, tracer_provider: trace.TracerProvider | None = None, *, sample: float = 1.0
    ) -> None:
        if not isinstance(tracer_provider, trace.TracerProvider | None):
            raise TypeError(f"tracer_provider must be a TracerProvider, got {tracer_provider!r}")
        provider = tracer_provider or trace.get_tracer_provider()
        # Other values in the context, such as baggage without a span, are sent with the call.
        super().__init__(_current_context, 0.0 if _begins_nothing(provider) else sample)
        self._tracer = trace.get_tracer("rap", __version__, tracer_provider)

    def ignores(self, header: Header) -> bool:
        """Whether calls with this header are in no trace, and have no other values to propagate."""
        if (UNTRACED not in header and self._sample) or _extract(header, Context()):
            return False
        header[UNTRACED] = True
        return True

    def scope(self, call: Call) -> AbstractContextManager[None]:
        """Keep a span around a call."""
        if is_untraced(call.header):
            return _no_scope
        if call.side is Side.CLIENT:
            parent = _current_context()
            if not _is_traced(parent):
                parent = _extract(call.header, parent)  # set by the caller, as a gateway does
        else:
            # The context of the task is the one in which the server was started, not that of the
            # call.
            parent = _extract(call.header, Context())
        if not _is_traced(parent) and self._is_left_out(call):
            return _Untraced(call, parent) if parent else _no_scope
        return (_Calling if call.side is Side.CLIENT else _Serving)(self._tracer, call, parent)


class _Around:
    """A span around a call; it is created when the call begins."""

    __slots__ = ("_call", "_parent", "_span", "_tracer")

    kind: SpanKind

    def __init__(self, tracer: trace.Tracer, call: Call, parent: Context) -> None:
        self._tracer = tracer
        self._call = call
        self._parent = parent

    def __enter__(self) -> None:
        self._span = _start(self._tracer, self._call, self.kind, self._parent)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _end(self._span, self._call, error)


class _Calling(_Around):
    """The span of a call on a client."""

    __slots__ = ()

    kind = SpanKind.CLIENT

    def __enter__(self) -> None:
        super().__enter__()
        call, span = self._call, self._span
        carrier: dict[str, str] = {}
        propagate.inject(carrier, trace.set_span_in_context(span, self._parent))
        put_trace(call.header, carrier)
        if span.is_recording():
            call.observe_attempts(self._add_attempt)

    def _add_attempt(self, call: Call) -> None:
        event: dict[str, str | int] = {"rap.attempt": call.attempt}
        peer, retried = call.peer, call.retried
        if peer is not None and peer.host:
            event |= {"network.peer.address": peer.host, "network.peer.port": peer.port}
        if retried is not None:
            event |= {"rap.retried.code": retried.code.name, "rap.retried.error": str(retried)}
        self._span.add_event("rap.attempt", event)


class _Serving(_Around):
    """The span of a call on a server, current in its context."""

    __slots__ = ("_token",)

    kind = SpanKind.SERVER

    def __enter__(self) -> None:
        super().__enter__()
        self._token = otel_context.attach(trace.set_span_in_context(self._span, self._parent))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, traceback)
        otel_context.detach(self._token)


class _Untraced:
    """The values that are sent with a call outside a trace, such as baggage."""

    __slots__ = ("_call", "_context", "_token")

    def __init__(self, call: Call, context: Context) -> None:
        self._call = call
        self._context = context

    def __enter__(self) -> None:
        if self._call.side is Side.CLIENT:
            propagate.inject(self._call.header, self._context)
        else:
            self._token = otel_context.attach(self._context)

    def __exit__(self, *exc: object) -> None:
        if self._call.side is Side.SERVER:
            otel_context.detach(self._token)


def _begins_nothing(provider: trace.TracerProvider) -> bool:
    """Whether the sampler of a provider is known to start no trace."""
    sampler = getattr(provider, "sampler", None)
    if sampler is None:
        return False
    described: str = sampler.get_description()
    root = described.removeprefix("ParentBased{root:")
    return root.startswith(_NO_ROOTS)


def _is_traced(context: Context) -> bool:
    return trace.get_current_span(context).get_span_context().is_valid


def _extract(header: Header, base: Context) -> Context:
    """Return `base` with the span of the caller, if the header names one."""
    if not header:
        return base
    carrier = {name: value for name, value in header.items() if isinstance(value, str)}
    found = propagate.extract(carrier, base)
    if _is_traced(found):
        return found
    parent = TraceParent.of(header)
    if parent is None:
        return found
    flags = TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT)
    remote = SpanContext(parent.trace_id, parent.span_id, is_remote=True, trace_flags=flags)
    return trace.set_span_in_context(NonRecordingSpan(remote), found)


def _start(tracer: trace.Tracer, call: Call, kind: SpanKind, parent: Context) -> Span:
    method = call.method[1:]
    attributes: dict[str, str | int] = {
        "rpc.system.name": "rap",
        "rpc.method": method,
        "rap.shape": call.stream_type.value,
    }
    peer = call.peer
    if kind is SpanKind.SERVER and peer is not None and peer.host:
        attributes |= {"client.address": peer.host, "client.port": peer.port}
    span = tracer.start_span(method, parent, kind, attributes)
    told = span.get_span_context()
    call.state[TRACE_ID] = f"{told.trace_id:032x}" if told.trace_flags.sampled else ""
    return span


def _end(span: Span, call: Call, error: BaseException | None) -> None:
    """End a span with the outcome of its call."""
    if span.is_recording():
        code = outcome(error)
        attributes: dict[str, str | int] = {"rpc.response.status_code": code.name}
        peer = call.peer
        if call.side is Side.CLIENT and peer is not None and peer.host:
            attributes |= {"server.address": peer.host, "server.port": peer.port}
        if call.attempt > 1:
            attributes["rap.attempts"] = call.attempt
        if code in _SERVER_FAULTS or (code is not Code.OK and call.side is Side.CLIENT):
            attributes["error.type"] = code.name
            span.set_status(StatusCode.ERROR, str(error))
        span.set_attributes(attributes)
        if isinstance(error, Exception) and not isinstance(error, CallError):
            span.record_exception(error)
    span.end()
