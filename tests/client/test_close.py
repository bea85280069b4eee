"""Closing does not hang, whatever the peer does or fails to do."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rap.address import Address
from rap.client import Client
from rap.errors import CallError
from rap.registry.base import Endpoint, State
from rap.registry.memory import MemoryRegistry
from rap.wire.codec import pack
from rap.wire.frames import END, MESSAGE, OPEN, Frame
from rap.wire.hello import DEFAULT_LIMITS, hello_frame
from tests.client import threaded
from tests.loopback import PATIENCE, eventually, serving, within

ON_BOTH_LOOPS = True
HELLO = hello_frame({"rap": 1, **DEFAULT_LIMITS.to_hello()})


@asynccontextmanager
async def frozen_server() -> AsyncIterator[str]:
    """Listen, say Hello, and never read: a process that was stopped."""
    held: list[socket.socket] = []
    loop = asyncio.get_running_loop()

    async def accept(listener: socket.socket) -> None:
        while True:
            conn, _ = await loop.sock_accept(listener)
            held.append(conn)
            await loop.sock_sendall(conn, HELLO)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        task = asyncio.create_task(accept(listener))
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            task.cancel()
            await asyncio.wait([task])
            for conn in held:
                conn.close()


@pytest.mark.parametrize("size", [10, 1_000_000])
async def test_a_client_of_a_frozen_server_closes(size: int) -> None:
    async with frozen_server() as address:
        client = Client(address)
        await client.connect()
        calls = [asyncio.create_task(client.raw_call("f", bytes(size))) for _ in range(10)]
        (node,) = client.cluster.nodes.values()
        (conn,) = node.pool.connections
        await eventually(lambda: node.stats.in_flight == 10)
        if size > 10:
            await eventually(conn.transport.get_write_buffer_size)
        await within(client.await_close())
        for call in calls:
            with pytest.raises(CallError):
                await within(call)
        assert node.stats.in_flight == 0


async def test_a_client_closes_while_it_dials() -> None:
    """The listener's queue takes the connection, but does not answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = Client(f"127.0.0.1:{listener.getsockname()[1]}")
        connecting = asyncio.create_task(client.connect())
        await asyncio.sleep(0)
        await within(client.await_close())
        with pytest.raises(CallError, match="the client was closed"):
            await within(connecting)


async def test_a_client_that_closes_just_when_a_server_leaves_stops_dialling_it() -> None:
    """The task that would end the dials of that server is cancelled before its first step."""
    registry = MemoryRegistry()
    client = Client(service="calc", registry=registry, connect_timeout=0.05)
    leaving = Endpoint("127.0.0.1:1", Address("tcp", "127.0.0.1", 1), state=State.DRAINING)
    await registry.register("calc", leaving, ttl=10)
    with pytest.raises(CallError):
        await client.connect()
    connecting = asyncio.create_task(client.connect())
    await eventually(lambda: client.cluster.nodes)
    (node,) = client.cluster.nodes.values()
    await eventually(lambda: node.pool.failures)
    await registry.deregister("calc", leaving)
    async with asyncio.timeout(PATIENCE):
        while client.cluster.nodes:  # noqa: ASYNC110  # in the turn in which it is removed
            await asyncio.sleep(0)
    assert node.pool.dialling
    connecting.cancel()
    await within(client.await_close())
    assert not node.pool.dialling


@pytest.mark.filterwarnings("ignore:.*was not closed before its event loop:ResourceWarning")
def test_a_client_that_was_not_closed_connects_again_in_another_event_loop() -> None:
    with threaded.serving(fine) as server:
        client = Client([str(each) for each in server.addresses])
        stub: Any = client.register("fine")(fine)

        async def use(how: str) -> None:
            assert await within(stub() if how == "stub" else client.raw_call("fine")) == 1

        for how in ("stub", "raw", "stub"):
            asyncio.run(use(how))


async def fine() -> int:
    return 1


async def test_a_server_of_a_frozen_client_closes() -> None:
    began = asyncio.Event()

    async def blob() -> bytes:
        began.set()
        return bytes(8_000_000)

    async with serving(blob, close_timeout=0.05) as server:
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setblocking(False)
            address: Any = server.addresses[0]
            await loop.sock_connect(client, (address.host, address.port))
            call = Frame(OPEN, MESSAGE | END, 1, pack(["/default/blob", 0]), pack([])).encode()
            await loop.sock_sendall(client, HELLO + call)
            await within(began.wait())
            await within(server.await_closed())
            assert not server.connection_manager.connections
