"""The one page of several workers, on pages that stand in for theirs."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry

from rap.address import Address
from rap.observe import serve_metrics
from rap.observe.http import Answer, Page, Pages
from rap.observe.workers import WorkersPage
from tests.loopback import serving
from tests.observe.http import get
from tests.observe.standing import Standing


@asynccontextmanager
async def page_of(workers: Sequence[Standing], willing: bool = True) -> AsyncIterator[Address]:
    async with WorkersPage(workers, lambda: willing, host="127.0.0.1", port=0) as page:
        yield page.address


@asynccontextmanager
async def standing(number: int, **pages: Page) -> AsyncIterator[Standing]:
    shown = Pages({f"/{path}": page for path, page in pages.items()})
    await shown.start(("127.0.0.1", 0))
    yield Standing(number, shown.address)
    await shown.close()


def ready(accept: str) -> Answer:
    return Answer.lines(["serving"])


def draining(accept: str) -> Answer:
    return Answer.lines(["draining"], good=False)


async def never(accept: str) -> Answer:
    await asyncio.Event().wait()
    raise AssertionError


async def test_it_is_ready_while_one_worker_is() -> None:
    async with standing(0, readyz=draining) as one, standing(1, readyz=ready) as two:
        async with page_of([one, two]) as page:
            told = "worker 0: draining\nworker 1: serving\n"
            assert await get(page, "/readyz") == (200, told)
        async with page_of([one]) as page:
            assert await get(page, "/readyz") == (503, "worker 0: draining\n")


async def test_it_is_not_ready_before_all_have_served_or_while_they_stop() -> None:
    async with standing(0, readyz=ready) as one, page_of([one], willing=False) as page:
        assert (await get(page, "/readyz"))[0] == 503


async def test_who_serves_and_does_not_answer_makes_it_unwell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rap.observe.workers._PROBE", 0.05)
    async with standing(0, healthz=never) as stuck, page_of([stuck]) as page:
        told = "worker 0: did not answer in 0.05 s\n"
        assert await get(page, "/healthz") == (503, told)


async def test_who_does_not_serve_yet_or_has_just_ended_does_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as ended:
        port = ended.getsockname()[1]
    gone = Standing(1, Address("tcp", "127.0.0.1", port))
    async with page_of([Standing(0), gone]) as page:
        status, told = await get(page, "/healthz")
        assert status == 200
        assert told.startswith("worker 0: does not serve yet\nworker 1: cannot be asked: ")
        assert (await get(page, "/readyz"))[0] == 503
        _, metrics = await get(page, "/metrics")
        assert 'rap_worker_up{worker="0"} 0.0' in metrics
        assert 'rap_worker_starts_total{worker="1"} 1.0' in metrics


async def test_who_leaves_in_the_middle_is_left_out() -> None:
    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    listener = await asyncio.start_server(leave, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        async with page_of([Standing(0, Address("tcp", "127.0.0.1", port))]) as page:
            status, metrics = await get(page, "/metrics")
    assert status == 200
    assert 'rap_worker_up{worker="0"} 0.0' in metrics


async def test_a_page_can_be_on_a_socket_that_was_handed_over() -> None:
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
