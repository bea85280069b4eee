"""The figures of the report, and their targets.

A target bounds the ratio of rap's figure to that of grpc.aio, or to that of the limit
(`bench.thin`), measured in the same round. Some targets bound the figure itself.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench.rounds import Round

__all__ = ["GRPC", "LIMIT", "METRICS", "RAP", "Metric", "figure", "ratio"]

RAP, LIMIT, GRPC = "rap", "limit", "grpc.aio"
_CALLS = 0.65 if sys.version_info >= (3, 13) else 0.5  # a task may start at once from 3.13 on


@dataclass(frozen=True)
class Metric:
    """One row of the table.

    Args:
        title: Title of the row.
        unit: Unit of the figure.
        workload: Workload that measures the figure.
        key: Name of the figure in the workload.
        lower_is_better: Whether a lower figure is better, as for times and memory.
        digits: Digits after the decimal point.
        vs_grpc: Bound for the ratio to grpc.aio.
        vs_limit: Bound for the ratio to the limit.
        bound: Bound for the figure itself.
    """

    title: str
    unit: str
    workload: str
    key: str
    lower_is_better: bool = False
    digits: int = 0
    vs_grpc: float | None = None
    vs_limit: float | None = None
    bound: float | None = None

    def met(self, value: float, target: float) -> bool:
        """Whether a ratio or a figure is as good as its bound."""
        return value <= target if self.lower_is_better else value >= target


def _row(title: str, unit: str, workload: str, key: str = "per_second", **rest: float) -> Metric:
    lower = unit in {"us", "s", "ms", "KiB", "MiB"}
    digits = int(rest.pop("digits", 0))
    return Metric(title, unit, workload, key, lower, digits, **rest)


METRICS: tuple[Metric, ...] = (
    _row("one call at a time, p50", "us", "lat1", "p50_us", vs_grpc=0.25, vs_limit=1.15),
    _row("one call at a time, p99", "us", "lat1", "p99_us"),
    _row("64 in flight", "calls/s", "thr64", vs_grpc=30, vs_limit=_CALLS),
    _row("64 in flight, p99", "us", "thr64", "p99_us", vs_grpc=0.05, vs_limit=2.5),
    _row("server time of 100,000 calls", "s", "thr64", "server_cpu_100k", digits=2,
         vs_grpc=1 / 35, vs_limit=2.2),
    _row("client time of 100,000 calls", "s", "thr64", "client_cpu_100k", digits=2,
         vs_grpc=1 / 25, vs_limit=2.2),
    _row("512 in flight", "calls/s", "thr512", vs_grpc=30, vs_limit=_CALLS),
    _row("100 connections, 1 in flight on each", "calls/s", "conns100"),
    _row("echo 1 KiB", "MB/s", "echo1k", "mb_per_second", digits=1, vs_grpc=10, vs_limit=0.65),
    _row("echo 64 KiB", "MB/s", "echo64k", "mb_per_second", vs_grpc=4, vs_limit=0.85),
    _row("echo 1 MiB", "MB/s", "echo1m", "mb_per_second", vs_grpc=3, vs_limit=0.85),
    _row("echo 64 MiB", "MB/s", "echo64m", "mb_per_second"),
    _row("echo 64 MiB, server's peak memory", "MiB", "echo64m", "peak_mib"),
    _row("200 B beside 256 KiB, p50", "us", "mixed", "small_p50_us"),
    _row("200 B beside 256 KiB, p99", "us", "mixed", "small_p99_us"),
    _row("a record of 20 fields", "calls/s", "record1"),
    _row("100 records of 20 fields", "records/s", "record100", "records_per_second"),
    _row("stream of integers", "items/s", "stream", vs_grpc=100, vs_limit=1.5),
    _row("stream, an item at a time", "items/s", "stream_apart", vs_limit=0.55),
    _row("stream of 1 KiB", "items/s", "stream1k", vs_grpc=40, vs_limit=0.55),
    _row("request stream of integers", "items/s", "upload", vs_grpc=100),
    _row("request stream, an item at a time", "items/s", "upload_apart", vs_grpc=5),
    _row("1 channel, round trips", "1/s", "chan1", vs_grpc=2, vs_limit=0.9),
    _row("100 channels, round trips", "1/s", "chan100", vs_grpc=20, vs_limit=0.75),
    _row("connect, call, close", "1/s", "connrate", vs_grpc=5, vs_limit=0.5),
    _row("server memory of a connection", "KiB", "idle", "kib_per_connection", digits=1,
         vs_grpc=0.5, bound=6),
    _row("memory of an idle server", "MiB", "idle", "resident_mib", vs_grpc=0.8, bound=30),
    _row("import of a client", "ms", "import", "ms", vs_grpc=1.0, vs_limit=2.0),
    _row("TLS, 64 in flight", "calls/s", "tls64"),
    _row("with metrics, 64 in flight", "calls/s", "metrics64"),
    _row("traces, not sampled, 64 in flight", "calls/s", "unsampled64"),
    _row("traces, each sampled, 64 in flight", "calls/s", "traced64"),
    _row("encrypted bodies, 64 in flight", "calls/s", "crypto64"),
    _row("limited by token bucket, 64 in flight", "calls/s", "limit64"),
    _row("access log, 64 in flight", "calls/s", "access64"),
    _row("compression, nothing to gain, 64 in flight", "calls/s", "compress64"),
    _row("compression, a record of 20 fields", "calls/s", "compress1"),
    _row("def handler in a thread, 64 in flight", "calls/s", "threads64"),
    _row("SyncClient, 1 thread", "calls/s", "sync1"),
    _row("SyncClient, 4 threads", "calls/s", "sync4"),
    _row("3 replicas by p2c, 64 in flight", "calls/s", "replicas64"),
)  # fmt: skip


def figure(rounds: Sequence[Round], peer: str, metric: Metric) -> float | None:
    """Return the median over the rounds; `None` if it was not measured."""
    values = [value for each in rounds if (value := _value(each, peer, metric)) is not None]
    return median(values) if values else None


def ratio(rounds: Sequence[Round], peer: str, other: str, metric: Metric) -> float | None:
    """Return the median of the ratios within each round."""
    ratios = []
    for each in rounds:
        value, base = _value(each, peer, metric), _value(each, other, metric)
        if value is not None and base:
            ratios.append(value / base)
    return median(ratios) if ratios else None


def _value(found: Round, peer: str, metric: Metric) -> float | None:
    value: float | None = found.get(peer, {}).get(metric.workload, {}).get(metric.key)
    return value
