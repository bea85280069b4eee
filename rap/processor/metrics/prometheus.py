"""Prometheus metrics of calls: started, handled by code, duration, retries, messages.

`PrometheusProcessor` has only a scope, so messages bypass it. The number of series is bounded by
the number of functions: a server counts only functions that it has registered, a client only
methods that a server has answered.
"""

import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import accumulate

from prometheus_client import REGISTRY, CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from rap.call import Call, Request, Response, Side, StreamType
from rap.errors import Code
from rap.processor.base import BaseProcessor
from rap.processor.metrics.counts import SECONDS, CountedCall, Counts, Series

__all__ = ["PrometheusMessageProcessor", "PrometheusProcessor"]

_LABELS = ("method", "shape")
_BOUNDS = [*map(floatToGoString, SECONDS), "+Inf"]
_SERVER, _CHANNEL = Side.SERVER, StreamType.CHANNEL  # enum lookups are slow


class _Collector(Collector):
    """Exports the counts of one side.

    Args:
        counts: The counts of the side.
    """

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def describe(self) -> Iterator[Metric]:
        """Yield the metrics without values."""
        return self._families(())

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics with their current values."""
        return self._families(self._counts)

    @abstractmethod
    def _families(self, counts: Iterable[Series]) -> Iterator[Metric]: ...


class _CallCollector(_Collector):
    """Exports the counts of calls."""

    def _families(self, counts: Iterable[Series]) -> Iterator[Metric]:
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
            labels = [series.method, series.stream_type.value]
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
    """Return the bound, the number of calls up to it and the exemplar, if any, of each bucket."""
    found: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
    for place, (bound, number) in enumerate(zip(_BOUNDS, accumulate(series.buckets), strict=True)):
        kept = series.exemplars.get(place)
        if kept is None:
            found.append((bound, number))
        else:
            exemplar = Exemplar({"trace_id": kept.trace_id}, kept.seconds, kept.ended)
            found.append((bound, number, exemplar))
    return found


class _MessageCollector(_Collector):
    """Exports the counts of messages."""

    def _families(self, counts: Iterable[Series]) -> Iterator[Metric]:
        prefix = f"rap_{self._counts.side.value}_messages"
        sent = CounterMetricFamily(f"{prefix}_sent", "Messages sent.", labels=_LABELS)
        received = CounterMetricFamily(f"{prefix}_received", "Messages received.", labels=_LABELS)
        for series in counts:
            labels = [series.method, series.stream_type.value]
            sent.add_metric(labels, series.sent)
            received.add_metric(labels, series.received)
        yield from (sent, received)


class _Shared:
    """The counts that all processors of one class and one registry share, by side.

    Args:
        collector: Makes the collector of a side's counts.
    """

    def __init__(self, collector: Callable[[Counts], Collector]) -> None:
        self._collector = collector
        self._made: weakref.WeakKeyDictionary[CollectorRegistry, dict[Side, Counts]] = (
            weakref.WeakKeyDictionary()
        )

    def of(self, registry: CollectorRegistry, side: Side) -> Counts:
        """Return the counts of a registry and a side."""
        sides = self._made.setdefault(registry, {})
        counts = sides.get(side)
        if counts is None:
            counts = Counts(side)
            registry.register(self._collector(counts))
            sides[side] = counts
        return counts


_calls = _Shared(_CallCollector)
_messages = _Shared(_MessageCollector)


class _Counting(BaseProcessor):
    """A processor with the counts of its registry, for each side that uses it."""

    _shared: _Shared

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        if not isinstance(registry, CollectorRegistry):
            raise TypeError(f"registry must be a CollectorRegistry, got {registry!r}")
        self._registry = registry
        self._on_server: Counts | None = None
        self._on_client: Counts | None = None

    def _counts_of(self, side: Side) -> Counts:
        """Return the counts of a side that has no counts yet."""
        counts = self._shared.of(self._registry, side)
        if side is _SERVER:
            self._on_server = counts
        else:
            self._on_client = counts
        return counts


class PrometheusProcessor(_Counting):
    """Counts and times the calls of a server or a client.

    All processors of a registry share its metrics: ``rap_server_started_total``,
    ``rap_server_handled_total`` and ``rap_server_handling_seconds``; the same with ``client``, and
    ``rap_client_retries_total``. A duration that is observed in a sampled trace has the trace id as
    its exemplar.

    Args:
        registry: The registry of the metrics; by default the global one.
    """

    _shared = _calls

    def scope(self, call: Call) -> AbstractContextManager[None]:
        """Return the scope that counts and times a call."""
        counts = self._on_server if call.side is _SERVER else self._on_client
        return CountedCall(counts or self._counts_of(call.side), call)


class PrometheusMessageProcessor(_Counting):
    """Counts messages both ways: ``rap_server_messages_sent_total`` and ``…_received_total``.

    It is separate from `PrometheusProcessor` because it must see every message, so that generators
    send each item in a separate frame. Only methods that exist become labels.

    Args:
        registry: The registry of the metrics; by default the global one.
    """

    _shared = _messages

    async def process_request(self, request: Request) -> Request:
        """Count a message from client to server."""
        call = request.call
        if call.stream_type is _CHANNEL and request.body is None:
            return request  # it opens the channel and carries no message
        if call.side is _SERVER:
            (self._on_server or self._counts_of(_SERVER)).count_received(call)
        else:
            (self._on_client or self._counts_of(call.side)).count_sent(call)
        return request

    async def process_response(self, response: Response) -> Response:
        """Count a message from server to client, or each item of a batch."""
        call, number = response.call, 1
        if response.header and response.header.get(":batch") and isinstance(response.body, list):
            number = len(response.body)
        if call.side is _SERVER:
            (self._on_server or self._counts_of(_SERVER)).count_sent(call, number)
        else:
            (self._on_client or self._counts_of(call.side)).count_received(call, number)
        return response
