"""One metrics server for several workers, whose own metrics servers are stubs."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry

from rap.address import Address
from rap.observe import serve_metrics
from rap.observe.http import Endpoint, HttpResponse, HttpServer
from rap.observe.workers import WorkersMetricsServer
from tests.loopback import serving
from tests.observe.http import get
from tests.observe.stub_worker import StubWorker


@asynccontextmanager
async def merged(workers: Sequence[StubWorker], willing: bool = True) -> AsyncIterator[Address]:
    async with WorkersMetricsServer(workers, lambda: willing, host="127.0.0.1", port=0) as page:
        yield page.address


@asynccontextmanager
async def stub_worker(number: int, **endpoints: Endpoint) -> AsyncIterator[StubWorker]:
    shown = HttpServer({f"/{path}": each for path, each in endpoints.items()})
    await shown.start(("127.0.0.1", 0))
    yield StubWorker(number, shown.address)
    await shown.close()


def ready(accept: str) -> HttpResponse:
    return HttpResponse.lines(["serving"])


def draining(accept: str) -> HttpResponse:
    return HttpResponse.lines(["draining"], good=False)


async def never(accept: str) -> HttpResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def test_workers_are_ready_while_one_of_them_is() -> None:
    async with stub_worker(0, readyz=draining) as one, stub_worker(1, readyz=ready) as two:
        async with merged([one, two]) as page:
            told = "worker 0: draining\nworker 1: serving\n"
            assert await get(page, "/readyz") == (200, told)
        async with merged([one]) as page:
            assert await get(page, "/readyz") == (503, "worker 0: draining\n")


async def test_workers_are_not_ready_before_all_have_started_or_while_they_stop() -> None:
    async with stub_worker(0, readyz=ready) as one, merged([one], willing=False) as page:
        assert (await get(page, "/readyz"))[0] == 503


async def test_a_running_worker_that_does_not_answer_fails_the_health_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rap.observe.workers._PROBE_TIMEOUT", 0.05)
    async with stub_worker(0, healthz=never) as stuck, merged([stuck]) as page:
        told = "worker 0: did not answer in 0.05 s\n"
        assert await get(page, "/healthz") == (503, told)


async def test_a_worker_that_is_starting_or_has_ended_does_not_fail_the_health_check() -> None:
    with socket.create_server(("127.0.0.1", 0)) as ended:
        port = ended.getsockname()[1]
    gone = StubWorker(1, Address("tcp", "127.0.0.1", port))
    async with merged([StubWorker(0), gone]) as page:
        status, told = await get(page, "/healthz")
        assert status == 200
        assert told.startswith("worker 0: does not serve yet\nworker 1: cannot be asked: ")
        assert (await get(page, "/readyz"))[0] == 503
        _, metrics = await get(page, "/metrics")
        assert 'rap_worker_up{worker="0"} 0.0' in metrics
        assert 'rap_worker_starts_total{worker="1"} 1.0' in metrics


async def test_a_worker_that_closes_the_connection_is_left_out() -> None:
    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    listener = await asyncio.start_server(leave, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        async with merged([StubWorker(0, Address("tcp", "127.0.0.1", port))]) as page:
            status, metrics = await get(page, "/metrics")
    assert status == 200
    assert 'rap_worker_up{worker="0"} 0.0' in metrics


async def test_a_metrics_server_can_use_a_socket_that_was_passed_to_it() -> None:
    async def add(a: int, b: int) -> int:
        return a + b

    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    async with (
        serving(add) as server,
        serve_metrics(server, sock=sock, registry=CollectorRegistry()) as page,
    ):
        assert page.address.port == port
        assert (await get(page.address, "/readyz"))[0] == 200
    assert sock.fileno() == -1
