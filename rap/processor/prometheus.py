"""Metrics of calls for Prometheus: started, handled by code, seconds, retries, messages.

`PrometheusProcessor` has only a scope, so messages pass it untouched. The number of series is
bounded by that of functions: a server counts only what it has registered, a client only names
that some server has answered to.
"""

import time
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

from rap.errors import Code
from rap.message import Call, Request, Response, Shape, Side
from rap.processor.base import BaseProcessor
from rap.processor.outcome import outcome
from rap.processor.trace_context import sampled_trace_id

__all__ = ["SECONDS", "UNKNOWN_METHOD", "PrometheusMessageProcessor", "PrometheusProcessor"]

# Bounds of the histograms, in seconds: a call over loopback takes 100 us, a default timeout is 9 s.
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # fmt: skip # noqa: E501
UNKNOWN_METHOD = "unknown"
_MAX_METHODS = 1000  # names that a client tells apart; a gateway takes them from others

_LABELS = ("method", "shape")


class _Series:
    """What is counted of one function: looking a series up takes 1 us each time.

    Args:
        metrics: Of the side.
        labels: Method and shape.
    """

    def __init__(self, metrics: "_Metrics", labels: tuple[str, str]) -> None:
        self.started = metrics.started.labels(*labels)
        self.seconds = metrics.seconds.labels(*labels)
        self.retries = metrics.retries and metrics.retries.labels(*labels)
        self._metrics = metrics
        self._labels = labels
        self._handled: dict[Code, Counter] = {}

    def handled(self, code: Code) -> Counter:
        """Return the counter of calls that ended with a code."""
        counter = self._handled.get(code)
        if counter is None:
            counter = self._metrics.handled.labels(*self._labels, code.name)
            self._handled[code] = counter
        return counter


class _Metrics:
    """The metrics of one side in one registry."""

    def __init__(self, side: Side, registry: CollectorRegistry) -> None:
        prefix = f"rap_{side.value}"
        self.started = Counter(f"{prefix}_started", "Calls that began.", _LABELS, registry=registry)
        self.handled = Counter(
            f"{prefix}_handled", "Calls that ended, by code.", (*_LABELS, "code"), registry=registry
        )
        self.seconds = Histogram(
            f"{prefix}_handling_seconds",
            "Seconds from the beginning of a call to its end.",
            _LABELS,
            registry=registry,
            buckets=SECONDS,
        )
        self.retries: Counter | None = None
        if side is Side.CLIENT:
            self.retries = Counter(
                f"{prefix}_retries", "Attempts beyond the first.", _LABELS, registry=registry
            )
        self.known: set[str] = set()
        self._series: dict[tuple[str, str], _Series] = {}

    def series(self, call: Call) -> _Series:
        """Return what is counted of the function of a call."""
        labels = (self.label(call), call.shape.value)
        found = self._series.get(labels)
        if found is None:
            found = self._series[labels] = _Series(self, labels)
        return found

    def label(self, call: Call) -> str:
        """Return the method of a call, if it may have series of its own."""
        return call.method if call.method in self.known else UNKNOWN_METHOD

    def learn(self, call: Call, code: Code) -> None:
        """A call ended: a server knows its function, unless it said that it does not."""
        if code is not Code.NOT_FOUND and len(self.known) < _MAX_METHODS:
            self.known.add(call.method)


class _Messages:
    """The counters of messages of one side in one registry."""

    def __init__(self, side: Side, registry: CollectorRegistry) -> None:
        prefix = f"rap_{side.value}_messages"
        self.sent = Counter(f"{prefix}_sent", "Messages sent.", _LABELS, registry=registry)
        self.received = Counter(
            f"{prefix}_received", "Messages received.", _LABELS, registry=registry
        )


_metrics: weakref.WeakKeyDictionary[CollectorRegistry, dict[Side, _Metrics]] = (
    weakref.WeakKeyDictionary()
)
_messages: weakref.WeakKeyDictionary[CollectorRegistry, dict[Side, _Messages]] = (
    weakref.WeakKeyDictionary()
)


class PrometheusProcessor(BaseProcessor):
    """Counts and times the calls of a server or a client.

    All processors of a registry share its metrics: ``rap_server_started_total``,
    ``rap_server_handled_total`` and ``rap_server_handling_seconds``; the same with ``client``, and
    ``rap_client_retries_total``. What is observed in a sampled trace has its id as exemplar.

    Args:
        registry: Where the metrics are; by default the one of the process.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._sides = _metrics.setdefault(registry, {})
        self._registry = registry

    def scope(self, call: Call) -> AbstractContextManager[None]:
        """Count a call, and time it."""
        metrics = self._sides.get(call.side)
        if metrics is None:
            metrics = self._sides[call.side] = _Metrics(call.side, self._registry)
        return _counted(metrics, call)


@contextmanager
def _counted(metrics: _Metrics, call: Call) -> Iterator[None]:
    if call.side is Side.SERVER:  # the call got here, so there is a handler
        metrics.known.add(call.method)
    series = metrics.series(call) if call.method in metrics.known else None
    if series is not None:
        series.started.inc()
    began = time.perf_counter()
    error: BaseException | None = None
    try:
        yield
    except BaseException as exc:
        error = exc
        raise
    finally:
        elapsed = time.perf_counter() - began
        code = outcome(error)
        if series is None:  # counted now, for now it is clear under which name
            metrics.learn(call, code)
            series = metrics.series(call)
            series.started.inc()
        series.handled(code).inc()
        trace_id = sampled_trace_id(call)
        series.seconds.observe(elapsed, {"trace_id": trace_id} if trace_id else None)
        if call.attempt > 1 and series.retries is not None:
            series.retries.inc(call.attempt - 1)


class PrometheusMessageProcessor(BaseProcessor):
    """Counts messages both ways: ``rap_server_messages_sent_total`` and ``…_received_total``.

    It is apart from `PrometheusProcessor` because it has to look at every message: generators
    then send each item on its own. Only names of functions that exist become labels.

    Args:
        registry: Where the metrics are; by default the one of the process.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._sides = _messages.setdefault(registry, {})
        self._registry = registry
        self._known: set[str] = set()

    async def process_request(self, request: Request) -> Request:
        """Count a message from client to server."""
        opening = request.call.shape is Shape.CHANNEL and request.body is None
        self._count(request.call, request.call.side is Side.CLIENT, 0 if opening else 1)
        return request

    async def process_response(self, response: Response) -> Response:
        """Count a message from server to client, or the items of a batch."""
        items = response.body if response.header.get(":batch") else None
        number = len(items) if isinstance(items, list) else 1
        if len(self._known) < _MAX_METHODS:
            self._known.add(response.call.method)
        self._count(response.call, response.call.side is Side.SERVER, number)
        return response

    def _count(self, call: Call, sent: bool, number: int) -> None:
        messages = self._sides.get(call.side)
        if messages is None:
            messages = self._sides[call.side] = _Messages(call.side, self._registry)
        counter = messages.sent if sent else messages.received
        known = call.side is Side.SERVER or call.method in self._known
        counter.labels(call.method if known else UNKNOWN_METHOD, call.shape.value).inc(number)
