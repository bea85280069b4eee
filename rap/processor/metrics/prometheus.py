"""Metrics of calls for Prometheus: started, handled by code, seconds, retries, messages.

`PrometheusProcessor` has only a scope, so messages pass it untouched. The number of series is
bounded by that of functions: a server counts only what it has registered, a client only names
that some server has answered to.
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
_SERVER, _CHANNEL = Side.SERVER, StreamType.CHANNEL  # looking a member up is slow


class _Collector(Collector):
    """Tells what was counted on one side.

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

    @abstractmethod
    def _families(self, counts: Iterable[Series]) -> Iterator[Metric]: ...


class _CallCollector(_Collector):
    """Tells of calls."""

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


class _MessageCollector(_Collector):
    """Tells of messages."""

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
    """The counts of each side that all processors of one kind and one registry share.

    Args:
        collector: Makes what tells of them.
    """

    def __init__(self, collector: Callable[[Counts], Collector]) -> None:
        self._collector = collector
        self._made: weakref.WeakKeyDictionary[CollectorRegistry, dict[Side, Counts]] = (
            weakref.WeakKeyDictionary()
        )

    def of(self, registry: CollectorRegistry, side: Side) -> Counts:
        """Return those of a registry and a side."""
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
    """Has the counts of its registry, of each side that it was used on."""

    _shared: _Shared

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        if not isinstance(registry, CollectorRegistry):
            raise TypeError(f"registry must be a CollectorRegistry, got {registry!r}")
        self._registry = registry
        self._on_server: Counts | None = None
        self._on_client: Counts | None = None

    def _made(self, side: Side) -> Counts:
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
    ``rap_client_retries_total``. What is observed in a sampled trace has its id as exemplar.

    Args:
        registry: Where the metrics are; by default the one of the process.
    """

    _shared = _calls

    def scope(self, call: Call) -> AbstractContextManager[None]:
        """Count a call, and time it."""
        counts = self._on_server if call.side is _SERVER else self._on_client
        return CountedCall(counts or self._made(call.side), call)


class PrometheusMessageProcessor(_Counting):
    """Counts messages both ways: ``rap_server_messages_sent_total`` and ``…_received_total``.

    It is apart from `PrometheusProcessor` because it has to look at every message: generators
    then send each item on its own. Only names of functions that exist become labels.

    Args:
        registry: Where the metrics are; by default the one of the process.
    """

    _shared = _messages

    async def process_request(self, request: Request) -> Request:
        """Count a message from client to server."""
        call = request.call
        if request.body is None and call.stream_type is _CHANNEL:
            return request  # it opens one
        if call.side is _SERVER:
            self._series(call).received += 1
        else:
            self._series(call).sent += 1
        return request

    async def process_response(self, response: Response) -> Response:
        """Count a message from server to client, or the items of a batch."""
        call, number = response.call, 1
        if response.header and response.header.get(":batch") and isinstance(response.body, list):
            number = len(response.body)
        if call.side is _SERVER:
            self._series(call).sent += number
        else:
            self._series(call, is_known=True).received += number
        return response

    def _series(self, call: Call, *, is_known: bool = False) -> Series:
        counts = self._on_server if call.side is _SERVER else self._on_client
        counts = counts or self._made(call.side)
        series = counts.by_method.get(call.method)
        if series is None or series.stream_type is not call.stream_type:
            if is_known:
                counts.learn(call)
            series = counts.begin(call) or counts.of(call)
        return series
