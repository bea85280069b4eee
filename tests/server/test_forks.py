"""Forked children of a server let go of its sockets, and take no signals for it."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rap.client import Client
from rap.errors import Unavailable
from rap.observe import serve_metrics
from rap.server import Server
from tests.loopback import calling, eventually, serving, swallowing, within
from tests.test_seed import write_certificate

ON_BOTH_LOOPS = True
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
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


def sockets_of(pid: int | str = "self") -> set[str]:
    """Return the inodes of the sockets of a process."""
    found = set()
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):  # the descriptor of this listing
            found.add(os.readlink(f"/proc/{pid}/fd/{number}"))
    return {each for each in found if each.startswith("socket:")}


async def check_that_a_child_has_none_of(sockets: set[str]) -> None:
    assert sockets
    pid, told = in_child(lambda: None)
    try:
        assert await heard(told) == b"+"
        assert not sockets & sockets_of(pid)
    finally:
        end(pid)


@linux
@pytest.mark.parametrize("kind", ["tcp", "tls", "unix"])
async def test_a_child_has_no_copy_of_any_socket_of_servers_and_clients(
    kind: str, tmp_path: Path
) -> None:
    write_certificate(tmp_path)
    options = {"ssl_crt_path": str(tmp_path / "rap_ssl.crt")} if kind == "tls" else {}
    key = {"ssl_key_path": str(tmp_path / "rap_ssl.key")} if kind == "tls" else {}
    host = f"unix://{tmp_path}/s" if kind == "unix" else "127.0.0.1:0"
    before = sockets_of()
    async with serving(host=host, **options, **key) as server, calling(server, **options):
        await eventually(lambda: server.connection_manager.connections)
        await check_that_a_child_has_none_of(sockets_of() - before)


@linux
async def test_a_child_has_no_copy_of_a_socket_whose_connection_is_being_made() -> None:
    """It would be a connection that lives longer than this process."""
    with swallowing("127.0.0.1") as port:
        before = sockets_of()
        client = Client(f"127.0.0.1:{port}")
        connecting = asyncio.create_task(client.connect())
        await eventually(lambda: sockets_of() - before)
        await check_that_a_child_has_none_of(sockets_of() - before)
        connecting.cancel()
        await asyncio.wait([connecting])
        await client.close()


@linux
async def test_a_child_has_no_copy_of_a_socket_whose_handshake_is_in_progress(
    tmp_path: Path,
) -> None:
    write_certificate(tmp_path)
    files = {f"ssl_{kind}_path": str(tmp_path / f"rap_ssl.{kind}") for kind in ("crt", "key")}
    for options in ({}, files):
        before = sockets_of()
        async with serving(**options) as server:
            with socket.create_connection(("127.0.0.1", server.addresses[0].port)) as client:
                own = os.readlink(f"/proc/self/fd/{client.fileno()}")
                await eventually(lambda: server.connection_manager.accept_limiter.pending)
                await check_that_a_child_has_none_of(sockets_of() - before - {own})


@linux
async def test_a_child_has_no_copy_of_any_socket_of_the_metrics() -> None:
    before = sockets_of()
    async with serve_metrics() as metrics:
        listening = sockets_of() - before
        with socket.create_connection(("127.0.0.1", metrics.address.port)) as client:
            own = os.readlink(f"/proc/self/fd/{client.fileno()}")
            await eventually(lambda: len(sockets_of() - before) == len(listening) + 2)
            for _ in range(3):  # from accept to the task that answers
                await asyncio.sleep(0)
            await check_that_a_child_has_none_of(sockets_of() - before - {own})


async def test_a_signal_to_a_child_is_not_one_to_the_server() -> None:
    async def fine() -> int:
        return 1

    server = Server("127.0.0.1:0")
    server.register(fine)
    started = asyncio.Event()
    serving_task = asyncio.create_task(server.serve_forever(started.set))
    await within(started.wait())
    pid, told = in_child(lambda: None)
    assert await heard(told) == b"+"
    os.kill(pid, signal.SIGTERM)
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM
    async with calling(server) as client:  # the event loop has read what the child may have sent
        assert await within(client.raw_call("fine")) == 1
    assert server.is_serving
    await server.close()
    await within(serving_task)
