"""Forked children of a server let go of its sockets, and take no signals for it."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable

import pytest

from rap.errors import Unavailable
from rap.server import Server
from tests.loopback import calling, eventually, serving, within

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)


def in_child(function: Callable[[], object]) -> tuple[int, int]:
    """Run a function in a forked child that then waits; return its pid and the end of a pipe."""
    told, tell = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            function()
            os.write(tell, b"+")
        except BaseException as exc:
            os.write(tell, repr(exc).encode())
        finally:
            signal.pause()
            os._exit(0)
    os.close(tell)
    return pid, told


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


async def heard(told: int) -> bytes:
    try:
        return await asyncio.to_thread(os.read, told, 1000)
    finally:
        os.close(told)


@pytest.mark.parametrize("scheme", ["tcp", "unix"])
async def test_the_address_of_a_server_is_free_although_a_child_lives(
    scheme: str, tmp_path: "os.PathLike[str]"
) -> None:
    async def fine() -> int:
        return 1

    host = "127.0.0.1:0" if scheme == "tcp" else f"unix://{tmp_path}/s"
    async with serving(fine, host=host) as server, calling(server) as client:
        address = server.addresses[0]
        pid, told = in_child(lambda: None)
        try:
            assert await heard(told) == b"+"
            assert await within(client.raw_call("fine")) == 1  # the parent's sockets are untouched
            await server.close()
            await eventually(lambda: not client.cluster.ready)
            again = Server(str(address))
            async with again:
                assert again.addresses == [address]
        finally:
            end(pid)


async def test_clients_notice_the_end_of_a_connection_although_a_child_lives() -> None:
    """The child would keep it open."""

    async def hang() -> None:
        await asyncio.Event().wait()

    async with serving(hang) as server, calling(server) as client:
        call = asyncio.create_task(client.raw_call("hang"))
        await eventually(lambda: server.connection_manager.open_calls)
        pid, told = in_child(lambda: None)
        try:
            assert await heard(told) == b"+"
            server.connection_manager.abort()
            with pytest.raises(Unavailable):
                await within(call)
        finally:
            end(pid)


async def test_a_child_has_no_copy_of_any_socket() -> None:
    async with serving() as server, calling(server):
        ports = {(address.port,) for address in server.addresses}

        def look() -> None:
            for number in range(3, 200):
                try:
                    found = socket.socket(fileno=os.dup(number))
                except OSError:
                    continue
                with found:
                    assert found.getsockname()[1:2] not in ports

        pid, told = in_child(look)
        try:
            assert await heard(told) == b"+"
        finally:
            end(pid)


async def test_a_signal_to_a_child_is_not_one_to_the_server() -> None:
    server = Server("127.0.0.1:0")
    started = asyncio.Event()
    serving_task = asyncio.create_task(server.serve_forever(started.set))
    await within(started.wait())
    pid, told = in_child(lambda: None)
    assert await heard(told) == b"+"
    os.kill(pid, signal.SIGTERM)
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM
    await asyncio.sleep(0.01)
    assert server.is_serving
    await server.close()
    await within(serving_task)
