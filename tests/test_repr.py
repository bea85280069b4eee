"""What the objects that users hold show of themselves: what they are, and their state."""

import asyncio
import re
from collections.abc import AsyncIterator

from rap.call import Call, Side, StreamType
from rap.client import Channel, Client, SyncClient
from rap.clock import SystemClock
from rap.errors import Unavailable
from rap.server import Channel as ServerChannel
from rap.server import Server, context
from tests.loopback import LOOPBACK, calling, eventually, serving, within

UNUSED = "127.0.0.1:1"


async def add(a: int, b: int) -> int:
    return a + b


async def echo(channel: ServerChannel) -> None:
    async for body in channel:
        await channel.write(body)


async def told() -> list[str]:
    session = context.session
    return [repr(context.call), repr(session)]


async def items() -> AsyncIterator[int]:
    yield 1


async def test_a_client_shows_what_it_calls_and_how_many_servers_are_ready() -> None:
    client = Client([UNUSED, "localhost:2", "localhost:3", "unix:///s"])
    several = "127.0.0.1:1, localhost:2, localhost:3 and 1 more"
    assert repr(client) == f"<Client {several} not connected>"
    await client.close()
    assert repr(client) == f"<Client {several} closed>"
    assert repr(Client()) == "<Client localhost:9000 not connected>"
    named = Client(service="calc", registry="memory://")
    assert repr(named) == "<Client service='calc' not connected>"
    await named.close()


async def test_a_connected_client_counts_its_servers() -> None:
    async with serving(add) as server, calling(server) as client:
        (address,) = server.addresses
        assert repr(client) == f"<Client {address} connected, 1 server ready>"
        assert repr(SyncClient(str(address))) == f"<SyncClient {address} not connected>"


async def test_a_client_without_a_server_is_connecting() -> None:
    client = Client(UNUSED)
    connecting = asyncio.create_task(client.connect())
    await eventually(lambda: repr(client) == f"<Client {UNUSED} connecting>")
    connecting.cancel()
    await asyncio.wait([connecting])
    await client.close()


async def test_a_server_shows_its_addresses_its_state_and_its_numbers() -> None:
    server = Server(LOOPBACK, close_timeout=0.2)
    server.register(add)
    assert repr(server) == "<Server 127.0.0.1:0 not started, 1 function, 0 connections>"
    async with server:
        async with calling(server):
            text = f"<Server {server.addresses[0]} serving, 1 function, 1 connection>"
            assert repr(server) == text
        await server.set_serving(False)
        assert " out of rotation, " in repr(server)
    assert re.fullmatch(r"<Server 127.* stopped, 1 function, 0 connections>", repr(server))
    named = Server(LOOPBACK, service="calc", registry="memory://")
    assert repr(named).startswith("<Server service='calc' 127.0.0.1:0 not started, ")


async def test_a_session_shows_where_it_is_bound() -> None:
    async with serving(told) as server, calling(server) as client:
        session = client.session
        assert repr(session) == f"<Session {session.id} not entered>"
        async with session:
            assert repr(session) == f"<Session {session.id} bound to {server.addresses[0]}>"
            call, seen = await client.raw_call("told")
            assert re.fullmatch(r"<Call /default/told unary, deadline in \d\.\d s>", call)
            assert re.fullmatch(rf"<Session {session.id} of 127\.0\.0\.1:\d+>", seen)
            assert session.conn is not None
            session.conn.abort(Unavailable("lost"))
            lost = f"<Session {session.id} lost {server.addresses[0]}>"
            await eventually(lambda: repr(session) == lost)
        assert repr(session) == f"<Session {session.id} left>"


async def test_a_channel_shows_whether_it_is_open() -> None:
    async with serving(echo) as server, calling(server) as client:
        seen: list[Channel] = []

        @client.register(name="echo")
        async def talk(channel: Channel) -> str:
            seen.append(channel)
            await channel.write(1)
            await channel.read_body()
            return repr(channel)

        assert await within(talk()) == "<Channel /default/echo open>"
        assert repr(seen[0]) == "<Channel /default/echo closed>"


def test_a_call_shows_how_long_it_may_take() -> None:
    now = SystemClock.monotonic()
    soon = Call("/default/add", StreamType.UNARY, Side.CLIENT, {}, now + 100)
    late = Call("/default/add", StreamType.STREAM, Side.SERVER, {}, now - 1)
    assert re.fullmatch(r"<Call /default/add unary, deadline in (100\.0|99\.9) s>", repr(soon))
    assert repr(late) == "<Call /default/add stream, deadline passed>"


def test_objects_whose_constructor_failed_can_be_shown() -> None:
    for kind in (Client, SyncClient, Server):
        assert repr(kind.__new__(kind)) == f"<{kind.__name__} not constructed>"
