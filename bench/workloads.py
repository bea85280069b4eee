"""The workloads: what a client does with connections of a peer, and the figures that it returns.

Each opens its own connections, and checks the answers before it measures.
"""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from bench.adapter import Adapter, Connection, Setup
from bench.load import closed_loops, percentile
from bench.payload import KIB, rows
from bench.process import peak_bytes, resident_bytes

__all__ = ["WORKLOADS", "Bench", "Figures", "Workload"]

Figures = dict[str, float]

_WARM_UP = 0.25  # of the measured time
_ECHOES = 16  # in flight
_SMALL, _LARGE = 200, 256 * 1024
_LARGE_SHARE = 0.05
_FIRST_UPLOAD = 2_000  # items


@dataclass(frozen=True)
class Bench:
    """A peer whose servers are running.

    Args:
        adapter: Adapter of the peer.
        setup: Name of the setup of the servers.
        ports: Ports of the servers.
        servers: Ids of the server processes.
        seconds: Duration of a measurement.
    """

    adapter: Adapter
    setup: Setup
    ports: Sequence[int]
    servers: Sequence[int]
    seconds: float

    async def connect(self) -> Connection:
        return await self.adapter.connect(self.ports, self.setup)


Run = Callable[[Bench], Awaitable[Figures]]


@dataclass(frozen=True)
class Workload:
    """One workload.

    Args:
        run: Function that runs the workload.
        needs: Feature that the peer must have.
        setup: Name of the setup of the servers, if the workload needs one.
        servers: Number of servers that the workload needs.
        extra: Whether only peers with `needs` among their `extras` run it.
    """

    run: Run
    needs: str
    setup: Setup = "plain"
    servers: int = 1
    extra: bool = False


def calls(in_flight: int, *, connections: int = 1, method: str = "add") -> Run:
    """Return the workload of small calls, `in_flight` at once on each connection."""

    async def run(bench: Bench) -> Figures:
        opened = [await bench.connect() for _ in range(connections)]
        loops = []
        for connection in opened:
            add: Callable[[int, int], Awaitable[int]] = getattr(connection, method)
            assert await asyncio.gather(*[add(i, i) for i in range(in_flight)]) == [
                2 * i for i in range(in_flight)
            ]
            loops += [lambda add=add: add(1, 2)] * in_flight
        await closed_loops(loops, bench.seconds * _WARM_UP, ())
        load = await closed_loops(loops, bench.seconds, bench.servers)
        for connection in opened:
            await connection.close()
        scale = 100_000 / len(load.latencies)
        return load.summary() | {
            "server_cpu_100k": load.server_cpu * scale,
            "client_cpu_100k": load.client_cpu * scale,
        }

    return run


def echoes(size: int, in_flight: int = _ECHOES) -> Run:
    """Return the workload of payloads that travel both ways; one way is counted.

    `peak_mib` is the most memory that the servers held, as payloads in flight.
    """

    async def run(bench: Bench) -> Figures:
        connection = await bench.connect()
        data = os.urandom(size)
        assert await connection.echo(data) == data
        loops = [lambda: connection.echo(data)] * in_flight
        await closed_loops(loops, bench.seconds * _WARM_UP, ())
        load = await closed_loops(loops, bench.seconds, bench.servers)
        await connection.close()
        return load.summary() | {
            "mb_per_second": load.per_second * size / 1e6,
            "peak_mib": peak_bytes(list(bench.servers)) / 2**20,
        }

    return run


async def mixed(bench: Bench) -> Figures:
    """64 callers on one connection, small payloads and a few large ones among them."""
    connection = await bench.connect()
    small, large = os.urandom(_SMALL), os.urandom(_LARGE)
    chance = random.Random(20).random
    latencies: list[int] = []

    async def call() -> None:
        if chance() < _LARGE_SHARE:
            await connection.echo(large)
            return
        start = time.perf_counter_ns()
        await connection.echo(small)
        latencies.append(time.perf_counter_ns() - start)

    await closed_loops([call] * 64, bench.seconds * _WARM_UP, ())
    latencies.clear()
    load = await closed_loops([call] * 64, bench.seconds, ())
    await connection.close()
    latencies.sort()
    return {
        "per_second": load.per_second,
        "small_p50_us": percentile(latencies, 0.5),
        "small_p99_us": percentile(latencies, 0.99),
    }


def records(count: int, in_flight: int) -> Run:
    """Return the workload of records of twenty fields that travel both ways."""

    async def run(bench: Bench) -> Figures:
        connection = await bench.connect()
        sent = rows(count)
        total = sum(row["id"] for row in sent)
        assert await connection.records(sent) == total
        loops = [lambda: connection.records(sent)] * in_flight
        await closed_loops(loops, bench.seconds * _WARM_UP, ())
        load = await closed_loops(loops, bench.seconds, bench.servers)
        await connection.close()
        return load.summary() | {"records_per_second": load.per_second * count}

    return run


async def stream(bench: Bench) -> Figures:
    """Integers from a generator of the server."""
    connection = await bench.connect()
    assert [item async for item in connection.stream(200)] == list(range(200))
    figures = await _consume(connection.stream(bench.adapter.stream_items), bench)
    await connection.close()
    return figures


async def stream_apart(bench: Bench) -> Figures:
    """Integers from a generator that waits before each, so that no two can be sent together."""
    connection = await bench.connect()
    assert [item async for item in connection.stream(-200)] == list(range(200))
    figures = await _consume(connection.stream(-bench.adapter.stream_items), bench)
    await connection.close()
    return figures


async def stream_kib(bench: Bench) -> Figures:
    """Pieces of 1 KiB from a generator of the server."""
    connection = await bench.connect()
    assert [item async for item in connection.stream_kib(200)] == [KIB] * 200
    figures = await _consume(connection.stream_kib(bench.adapter.stream_items), bench)
    await connection.close()
    return figures


async def _consume(items: AsyncIterator[object], bench: Bench) -> Figures:
    """Take items, until there is none or the time is over."""
    count = 0
    start = time.perf_counter()
    end = start + 3 * bench.seconds
    async for _ in items:
        count += 1
        if not count % 1024 and time.perf_counter() > end:
            break
    took = time.perf_counter() - start
    aclose = getattr(items, "aclose", None)
    if count < bench.adapter.stream_items and aclose is not None:
        await asyncio.wait_for(aclose(), 5)
    return {"items": count, "per_second": count / took}


async def upload(bench: Bench) -> Figures:
    """Integers of a plain iterable to the server, which adds them."""
    return await _upload(bench, iter)


async def upload_apart(bench: Bench) -> Figures:
    """Integers from an iterator that waits before each, so that no two can be sent together."""
    return await _upload(bench, _apart)


async def _apart(numbers: range) -> AsyncIterator[int]:
    for number in numbers:
        await asyncio.sleep(0)
        yield number


async def _upload(
    bench: Bench, source: Callable[[range], Iterator[int] | AsyncIterator[int]]
) -> Figures:
    """Send as many integers as fit in the time, according to a short run before it."""
    connection = await bench.connect()
    count, took = _FIRST_UPLOAD, 0.0
    for _ in range(2):  # the first run also warms up
        took = await _time_upload(connection, source(range(count)), count)
    count = max(_FIRST_UPLOAD, int(_FIRST_UPLOAD * 3 * bench.seconds / took))
    took = await _time_upload(connection, source(range(count)), count)
    await connection.close()
    return {"items": count, "per_second": count / took}


async def _time_upload(
    connection: Connection, items: Iterator[int] | AsyncIterator[int], count: int
) -> float:
    start = time.perf_counter()
    assert await connection.upload(items) == count * (count - 1) // 2
    return time.perf_counter() - start


def channels(count: int) -> Run:
    """Return the workload of round trips on channels, one at a time on each."""

    async def run(bench: Bench) -> Figures:
        connection = await bench.connect()
        opened = [await connection.open_channel() for _ in range(count)]
        for number, each in enumerate(opened):
            assert await each.ping(number) == number
        loops = [lambda each=each: each.ping(7) for each in opened]
        await closed_loops(loops, bench.seconds * _WARM_UP, ())
        load = await closed_loops(loops, bench.seconds, bench.servers)
        for each in opened:
            await each.close()
        await connection.close()
        return load.summary()

    return run


async def connects(bench: Bench) -> Figures:
    """Connect, one call, close; one after another."""
    count = 0
    start = time.perf_counter()
    while time.perf_counter() - start < bench.seconds:
        connection = await bench.connect()
        assert await connection.add(1, 2) == 3
        await connection.close()
        count += 1
    return {"per_second": count / (time.perf_counter() - start)}


async def idle(bench: Bench) -> Figures:
    """Connections that are kept open after one call each: the memory of the server for them."""
    servers = list(bench.servers)
    first = await bench.connect()
    await first.add(1, 2)
    before = resident_bytes(servers)
    opened = [first]
    for _ in range(bench.adapter.idle_connections):
        connection = await bench.connect()
        await connection.add(1, 2)
        opened.append(connection)
    grown = resident_bytes(servers) - before
    for connection in opened:
        await connection.close()
    return {
        "resident_mib": before / 2**20,
        "kib_per_connection": grown / bench.adapter.idle_connections / 1024,
    }


def threads(count: int) -> Run:
    """Return the workload of threads without an event loop, each with one call at a time."""

    async def run(bench: Bench) -> Figures:
        with bench.adapter.connect_sync(bench.ports[0]) as add:
            assert await asyncio.to_thread(add, 1, 2) == 3

            def loop() -> int:
                calls, end = 0, time.perf_counter() + bench.seconds
                while time.perf_counter() < end:
                    add(1, 2)
                    calls += 1
                return calls

            done = await asyncio.gather(*[asyncio.to_thread(loop) for _ in range(count)])
        return {"per_second": sum(done) / bench.seconds}

    return run


# In the order in which they run: memory is told of servers that have done nothing yet.
WORKLOADS: dict[str, Workload] = {
    "idle": Workload(idle, "connections"),
    "lat1": Workload(calls(1), "calls"),
    "thr64": Workload(calls(64), "many"),
    "thr512": Workload(calls(512), "many"),
    "conns100": Workload(calls(1, connections=100), "connections"),
    "echo1k": Workload(echoes(1 << 10), "calls"),
    "echo64k": Workload(echoes(1 << 16), "calls"),
    "echo1m": Workload(echoes(1 << 20), "calls"),
    "echo64m": Workload(echoes(64 << 20, 2), "huge", setup="huge", extra=True),
    "mixed": Workload(mixed, "many"),
    "record1": Workload(records(1, 64), "many"),
    "record100": Workload(records(100, 16), "many"),
    "stream": Workload(stream, "stream"),
    "stream_apart": Workload(stream_apart, "apart", extra=True),
    "stream1k": Workload(stream_kib, "stream"),
    "upload": Workload(upload, "upload", extra=True),
    "upload_apart": Workload(upload_apart, "upload", extra=True),
    "chan1": Workload(channels(1), "channel"),
    "chan100": Workload(channels(100), "channel"),
    "connrate": Workload(connects, "connections"),
    "tls64": Workload(calls(64), "tls", setup="tls"),
    "metrics64": Workload(calls(64), "metrics", setup="metrics", extra=True),
    "unsampled64": Workload(calls(64), "unsampled", setup="unsampled", extra=True),
    "traced64": Workload(calls(64), "traced", setup="traced", extra=True),
    "crypto64": Workload(calls(64), "crypto", setup="crypto", extra=True),
    "limit64": Workload(calls(64), "limit", setup="limit", extra=True),
    "access64": Workload(calls(64), "access", setup="access", extra=True),
    "compress64": Workload(calls(64), "compress", setup="compress", extra=True),
    "compress1": Workload(records(1, 64), "compress", setup="compress", extra=True),
    "threads64": Workload(calls(64, method="add_blocking"), "threads", extra=True),
    "sync1": Workload(threads(1), "sync", extra=True),
    "sync4": Workload(threads(4), "sync", extra=True),
    "replicas64": Workload(calls(64), "replicas", servers=3, extra=True),
}
