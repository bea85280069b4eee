"""Metrics of calls for Prometheus: started, handled by code, seconds, retries, messages.

`PrometheusProcessor` has only a scope, so messages pass it untouched. The number of series is
bounded by that of functions: a server counts only what it has registered, a client only names
that some server has answered to.
"""

import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import accumulate

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from rap.errors import Code
from rap.message import Call, Request, Response, Shape, Side
from rap.processor.base import BaseProcessor
from rap.processor.counts import MAX_METHODS, SECONDS, UNKNOWN_METHOD, CountedCall, Counts, Series

__all__ = ["PrometheusMessageProcessor", "PrometheusProcessor"]

_LABELS = ("method", "shape")
_BOUNDS = [*map(floatToGoString, SECONDS), "+Inf"]
_SERVER = Side.SERVER  # looking a member up is slow


class _CallCollector(Collector):
    """Tells what was counted of the calls of one side.

    Args:
        counts: Of the side.
    """

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def describe(self) -> Iterator[Metric]:
        """Yield the metrics without a value."""
        return self._families(())

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now."""
        return self._families(self._counts)

    def _families(self, counts: "Counts | tuple[Series, ...]") -> Iterator[Metric]:
        side = self._counts.side
        prefix = f"rap_{side.value}"
        started = CounterMetricFamily(f"{prefix}_started", "Calls that began.", labels=_LABELS)
        handled = CounterMetricFamily(
            f"{prefix}_handled", "Calls that ended, by code.", labels=(*_LABELS, "code")
        )
        seconds = HistogramMetricFamily(
            f"{prefix}_handling_seconds",
            "Seconds from the beginning of a call to its end.",
            labels=_LABELS,
        )
        retries = CounterMetricFamily(
            f"{prefix}_retries", "Attempts beyond the first.", labels=_LABELS
        )
        for series in counts:
            labels = [series.method, series.shape.value]
            started.add_metric(labels, series.started)
            for code, number in zip(Code, series.ended, strict=True):
                if number:
                    handled.add_metric([*labels, code.name], number)
            seconds.add_metric(labels, _buckets(series), series.seconds)
            retries.add_metric(labels, series.retries)
        yield from (started, handled, seconds)
        if side is Side.CLIENT:
            yield retries


def _buckets(series: Series) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
    """Return bound, number of calls up to it, and perhaps an exemplar of each bucket."""
    found: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
    for place, (bound, number) in enumerate(zip(_BOUNDS, accumulate(series.buckets), strict=True)):
        kept = series.exemplars.get(place)
        if kept is None:
            found.append((bound, number))
        else:
            exemplar = Exemplar({"trace_id": kept.trace_id}, kept.seconds, kept.ended)
            found.append((bound, number, exemplar))
    return found


class _Messages:
    """The counters of messages of one side in one registry."""

    def __init__(self, side: Side, registry: CollectorRegistry) -> None:
        prefix = f"rap_{side.value}_messages"
        self.sent = Counter(f"{prefix}_sent", "Messages sent.", _LABELS, registry=registry)
        self.received = Counter(
            f"{prefix}_received", "Messages received.", _LABELS, registry=registry
        )


_counts: weakref.WeakKeyDictionary[CollectorRegistry, dict[Side, Counts]] = (
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
        self._registry = registry
        self._on_server: Counts | None = None
        self._on_client: Counts | None = None

    def scope(self, call: Call) -> AbstractContextManager[None]:
        """Count a call, and time it."""
        counts = self._on_server if call.side is _SERVER else self._on_client
        return CountedCall(counts or self._counts(call.side), call)

    def _counts(self, side: Side) -> Counts:
        sides = _counts.setdefault(self._registry, {})
        counts = sides.get(side)
        if counts is None:
            counts = Counts(side)
            self._registry.register(_CallCollector(counts))
            sides[side] = counts
        if side is _SERVER:
            self._on_server = counts
        else:
            self._on_client = counts
        return counts


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
        if len(self._known) < MAX_METHODS:
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
