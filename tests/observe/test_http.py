"""The HTTP server of probes answers them whatever other clients do."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial

from rap.observe.http import HttpResponse, HttpServer
from tests.loopback import eventually, within
from tests.observe.http import get

REQUEST = b"GET /healthz HTTP/1.1\r\n\r\n"


@asynccontextmanager
async def page(hold: asyncio.Event) -> AsyncIterator[tuple[str, int]]:
    """Serve ``/healthz``, and ``/slow``, which waits for an event."""

    async def slow(_: str) -> HttpResponse:
        await hold.wait()
        return HttpResponse.lines(["slow"])

    server = HttpServer({"/healthz": lambda _: HttpResponse.lines(["alive"]), "/slow": slow})
    await server.start(("127.0.0.1", 0))
    yield "127.0.0.1", server.address.port
    hold.set()
    await server.close()


@contextmanager
def half_requests(where: tuple[str, int], hosts: list[str]) -> Iterator[list[socket.socket]]:
    """Begin a request from each address, and do not end it."""
    with ExitStack() as stack:
        socks = []
        for host in hosts:
            sock = stack.enter_context(socket.create_connection(where, source_address=(host, 0)))
            sock.sendall(b"GET /healthz HTTP/1.1\r\n")
            sock.setblocking(False)
            socks.append(sock)
        yield socks


def is_cut(sock: socket.socket) -> bool:
    try:
        return sock.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def number_cut(socks: list[socket.socket], number: int) -> bool:
    return sum(map(is_cut, socks)) == number


async def test_many_half_requests_do_not_cut_the_connection_of_another_address() -> None:
    async with page(asyncio.Event()) as where:
        reader, writer = await asyncio.open_connection(*where)  # of a kubelet that is slow
        for _ in range(2):
            with half_requests(where, ["127.0.0.2"] * 64) as socks:
                await eventually(partial(number_cut, socks, 64 - 16))
        writer.write(REQUEST)
        assert (await within(reader.read())).startswith(b"HTTP/1.1 200 OK\r\n")
        writer.close()


async def test_half_requests_of_the_same_address_make_room_for_a_whole_one() -> None:
    async with page(asyncio.Event()) as where:
        with half_requests(where, ["127.0.0.1"] * 64):
            reader, writer = await asyncio.open_connection(*where)
            writer.write(REQUEST)
            assert (await within(reader.read())).startswith(b"HTTP/1.1 200 OK\r\n")
            writer.close()


async def test_an_address_that_has_the_most_connections_makes_room_first() -> None:
    async with page(asyncio.Event()) as where:
        few = [f"127.0.1.{n}" for n in range(1, 22)]
        with half_requests(where, few) as first, half_requests(where, ["127.0.0.2"] * 16) as crowd:
            await eventually(lambda: any(map(is_cut, crowd)))
            await eventually(lambda: sum(map(is_cut, crowd)) == 21 + 16 - 32)
            assert not any(map(is_cut, first))


async def test_a_request_that_is_being_answered_is_not_cut_for_one_that_may_not_come() -> None:
    hold = asyncio.Event()
    async with page(hold) as where:
        reader, writer = await asyncio.open_connection(*where)
        writer.write(b"GET /slow HTTP/1.1\r\n\r\n")
        await writer.drain()
        with half_requests(where, [f"127.0.0.{n}" for n in range(2, 50)]) as socks:
            await eventually(lambda: sum(map(is_cut, socks)) == 48 + 1 - 32)
            hold.set()
            assert (await within(reader.read())).endswith(b"slow\n")
        writer.close()


async def test_a_finished_request_frees_its_place() -> None:
    server = HttpServer({"/healthz": lambda _: HttpResponse.lines(["alive"])})
    await server.start(("127.0.0.1", 0))
    where = ("127.0.0.1", server.address.port)
    with half_requests(where, ["127.0.0.2"] * 15) as socks:
        for _ in range(40):
            assert (await within(get(server.address, "/healthz")))[0] == 200
        assert not any(map(is_cut, socks))
    await server.close()
