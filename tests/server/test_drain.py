"""How a server drains: two GoAways, sessions that may finish, and `close_timeout`."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from rap.client import Client
from rap.client.session import Session
from rap.errors import CallError, Unavailable
from rap.registry.base import State
from rap.registry.memory import MemoryRegistry
from rap.server import Server, connections, context
from rap.testing import Fleet
from rap.wire.hello import hello_frame
from tests.fake_clock import FakeClock
from tests.loopback import PATIENCE, calling, eventually, passing, serving, within


class Gate:
    """Handlers that hold their callers until the test opens it."""

    def __init__(self) -> None:
        self.inside = 0
        self.cancelled = 0
        self.open = asyncio.Event()

    async def enter(self) -> int:
        self.inside += 1
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return 1

    async def port(self) -> int:
        peer = context.request.call.peer
        return peer.port if peer else 0

    async def items(self) -> AsyncIterator[int]:
        yield await self.enter()


@pytest.fixture
def gate() -> Gate:
    return Gate()


def functions(gate: Gate) -> list[Any]:
    return [gate.enter, gate.port, gate.items]


async def connected(client: Client, count: int = 1) -> None:
    await eventually(lambda: len(client.cluster.ready) == count)


async def test_calls_in_flight_finish_and_new_ones_go_elsewhere(gate: Gate) -> None:
    async with (
        serving(*functions(gate), close_timeout=60) as leaving,
        serving(gate.enter) as staying,
        calling(leaving, staying) as client,
    ):
        await connected(client, 2)
        calls = [asyncio.create_task(client.raw_call("enter")) for _ in range(20)]
        await eventually(lambda: gate.inside == 20)
        closing = asyncio.create_task(leaving.await_closed())
        await connected(client, 1)
        assert not closing.done()
        more = [asyncio.create_task(client.raw_call("enter")) for _ in range(20)]
        await eventually(lambda: gate.inside == 40)
        assert client.cluster.ready[0].key == str(staying.addresses[0])
        gate.open.set()
        assert await within(asyncio.gather(*calls, *more)) == [1] * 40
        await within(closing)


async def test_a_drain_ends_as_soon_as_the_last_client_has_left(gate: Gate) -> None:
    async with serving(*functions(gate), close_timeout=60) as server, calling(server) as client:
        iterator = client.iterator_call("items")
        first = asyncio.ensure_future(anext(iterator))
        await eventually(lambda: gate.inside == 1)
        closing = asyncio.create_task(server.await_closed())
        await eventually(lambda: not client.cluster.ready)
        gate.open.set()
        assert await within(first) == 1
        assert [item async for item in iterator] == []
        await within(closing)


async def test_a_session_may_finish_on_a_draining_server(gate: Gate) -> None:
    async with serving(*functions(gate), close_timeout=60) as server, calling(server) as client:
        async with client.session as session:
            port = await client.raw_call("port")
            closing = asyncio.create_task(server.await_closed())
            await eventually(lambda: session.draining)
            assert {await client.raw_call("port") for _ in range(5)} == {port}
            assert not closing.done()
        await within(closing)
        with pytest.raises(Unavailable):
            await client.raw_call("port", timeout=0.02)


async def test_calls_open_at_close_timeout_are_reset(gate: Gate) -> None:
    async with serving(*functions(gate), close_timeout=0.05) as server, calling(server) as client:
        iterator = client.iterator_call("items")
        calls = [asyncio.create_task(client.raw_call("enter")) for _ in range(3)]
        calls.append(asyncio.ensure_future(anext(iterator)))
        await eventually(lambda: gate.inside == 4)
        await within(server.await_closed())
        for call in calls:
            with pytest.raises(Unavailable, match="the server is shutting down") as caught:
                await within(call)
            assert caught.value.remote
            assert not caught.value.unserved
        assert gate.cancelled == 4
        (node,) = client.cluster.nodes.values()
        stats = node.stats
        assert (stats.in_flight, stats.open_streams) == (0, 0)


async def test_a_session_open_at_close_timeout_fails_with_the_reason(gate: Gate) -> None:
    async with serving(*functions(gate), close_timeout=0.05) as server, calling(server) as client:
        async with client.session as session:
            await client.raw_call("port")
            await within(server.await_closed())
            with pytest.raises(CallError, match=f"session {session.id}"):
                await client.raw_call("port")


async def test_a_call_of_a_session_above_the_last_goaway_fails_and_is_not_moved(
    gate: Gate,
) -> None:
    """It was not served, but a session never moves."""
    async with serving(*functions(gate), close_timeout=0.05) as server, calling(server) as client:
        session: Session
        async with client.session as session:
            conn = session.conn
            assert conn is not None
            closing = asyncio.create_task(server.await_closed())
            failures: list[CallError] = []
            while not conn.closed:
                try:
                    await client.raw_call("port")
                except CallError as exc:
                    failures.append(exc)
            assert all(isinstance(failure, Unavailable) for failure in failures)
            await within(closing)


async def test_set_serving_takes_a_server_out_and_puts_it_back(gate: Gate) -> None:
    clock = FakeClock()
    async with serving(*functions(gate)) as server, calling(server, clock=clock) as client:
        assert server.is_serving
        iterator = client.iterator_call("items")
        first = asyncio.ensure_future(anext(iterator))
        await eventually(lambda: gate.inside == 1)
        await server.set_serving(False)
        assert not server.is_serving
        await eventually(lambda: not client.cluster.ready)
        gate.open.set()
        assert await within(first) == 1
        await server.set_serving(False)
        await server.set_serving(True)
        assert server.is_serving
        await passing(clock, 1.0, lambda: client.cluster.ready)
        assert await client.raw_call("enter") == 1


async def test_a_new_client_learns_that_the_server_is_out_of_rotation(gate: Gate) -> None:
    async with serving(*functions(gate)) as server:
        await server.set_serving(False)
        client = Client(server.addresses, connect_timeout=60)
        connecting = asyncio.create_task(client.connect())
        await eventually(
            lambda: client._cluster is not None and "is draining" in client.cluster.describe()
        )
        await client.await_close()
        with pytest.raises(Unavailable):
            await connecting


async def states(registry: MemoryRegistry) -> list[State]:
    watching = registry.watch("calc")
    snapshot = await anext(watching)
    await watching.aclose()
    return [endpoint.state for endpoint in snapshot.values()]


async def test_every_state_is_published_in_the_registry(gate: Gate) -> None:
    registry = MemoryRegistry()
    options = {"service": "calc", "registry": registry, "drain_delay": 0}
    async with serving(*functions(gate), **options) as server:
        assert await states(registry) == [State.UP]
        await server.set_serving(False)
        assert await states(registry) == [State.DRAINING]
        await server.set_serving(True)
        assert await states(registry) == [State.UP]
    assert await states(registry) == []


async def test_a_drain_is_published_before_the_listeners_close(gate: Gate) -> None:
    registry, clock = MemoryRegistry(), FakeClock()
    server = Server("127.0.0.1:0", service="calc", registry=registry, clock=clock)
    server.register(gate.port)
    await server.create_server()
    closing = asyncio.create_task(server.await_closed())
    watching = registry.watch("calc")
    async with asyncio.timeout(10), aclosing(watching):
        async for snapshot in watching:
            if [endpoint.state for endpoint in snapshot.values()] == [State.DRAINING]:
                break
    async with calling(server) as client:  # it goes on accepting for `drain_delay`
        assert await client.raw_call("port")
    clock.advance(1.0)
    await within(closing)
    assert await states(registry) == []


async def test_a_server_may_start_out_of_rotation(gate: Gate) -> None:
    registry = MemoryRegistry()
    server = Server("127.0.0.1:0", service="calc", registry=registry, drain_delay=0)
    server.load_start_event([server.set_serving(False)])
    async with server:
        assert not server.is_serving
        assert await states(registry) == [State.DRAINING]
        await server.set_serving(True)
        assert await states(registry) == [State.UP]


async def test_a_stopping_server_cannot_be_put_back_into_rotation(gate: Gate) -> None:
    registry, clock = MemoryRegistry(), FakeClock()
    server = Server("127.0.0.1:0", service="calc", registry=registry, clock=clock)
    await server.create_server()
    closing = asyncio.create_task(server.await_closed())
    await eventually(lambda: not server.is_serving)
    with pytest.raises(RuntimeError, match="the server is stopping"):
        await server.set_serving(True)
    await server.set_serving(False)  # it is out already, or is about to be
    async with asyncio.timeout(PATIENCE):
        while await states(registry) != [State.DRAINING]:  # noqa: ASYNC110
            await asyncio.sleep(0)
        while not closing.done():
            clock.advance(1.0)
            await asyncio.sleep(0)


@pytest.mark.parametrize("value", ["no", 1, None])
async def test_set_serving_takes_only_a_bool(value: Any) -> None:
    with pytest.raises(ValueError, match="serving must be True or False, got"):
        await Server().set_serving(value)


async def test_calls_that_arrive_during_the_drain_are_served(gate: Gate) -> None:
    """GoAway and a call may cross: what arrives before the last GoAway is served."""
    async with serving(*functions(gate), close_timeout=60) as server, calling(server) as client:
        conn = client.cluster.ready[0].pool.conn
        assert conn is not None
        session = client.session
        async with session:
            closing = asyncio.create_task(server.await_closed())
            call = asyncio.create_task(client.raw_call("port"))
            await eventually(lambda: conn.draining)
            assert await within(call)
        await within(closing)


async def test_a_client_that_answers_no_ping_does_not_hold_up_the_drain(gate: Gate) -> None:
    clock = FakeClock()
    async with serving(*functions(gate), close_timeout=60, clock=clock) as server:
        _, writer = await asyncio.open_connection(*address_of(server))
        writer.write(hello_frame({"rap": 1}))
        await eventually(lambda: server.connection_manager.connections)
        (conn,) = server.connection_manager.connections
        await eventually(lambda: conn.handshake.done())
        conn.watchdog.tick()
        assert conn.watchdog.at == pytest.approx(clock.monotonic() + 30.0)
        closing = asyncio.create_task(server.await_closed())
        await eventually(lambda: conn.draining)
        assert conn.watchdog.at <= clock.monotonic() + 1.0  # the timer fires soon
        for seconds in (1.0, 2.5, 2.5):
            clock.advance(seconds)
            conn.watchdog.tick()
        await within(closing)
        assert "answered no ping" in str(conn.error)
        writer.close()


def address_of(server: Server) -> tuple[str, int]:
    return server.addresses[0].host, server.addresses[0].port


async def test_a_client_pings_no_more_often_than_the_server_allows(gate: Gate) -> None:
    async with serving(*functions(gate), max_pings=3) as server, calling(server) as client:
        conn = client.cluster.ready[0].pool.conn
        assert conn is not None
        assert conn.protocol.peer_hello["min_ping"] == 334  # milliseconds: never more than three
        assert conn.watchdog.keepalive.min_interval == 0.334


async def test_a_drain_tells_what_it_waits_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connections, "_DRAIN_REPORT", 0.01)
    gate = asyncio.Event()

    async def wait() -> None:
        await gate.wait()

    caplog.set_level(logging.INFO, "rap.server")
    async with serving(wait, close_timeout=20) as server, calling(server) as client:
        call = asyncio.create_task(client.raw_call("wait"))
        await eventually(lambda: server.connection_manager.open_calls)
        closing = asyncio.create_task(server.close())
        await eventually(lambda: len([it for it in texts(caplog) if "still" in it]) > 2)
        gate.set()
        await within(asyncio.gather(call, closing))
    told = texts(caplog)
    calls = "1 call open on 1 connection: /default/wait"
    place = server.connection_manager.place
    assert f"draining {place}: {calls}; for up to 20 s (option close_timeout)" in told
    assert f"draining {place}: still {calls}, for up to 20 s more" in told


def texts(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


async def tick() -> AsyncIterator[int]:
    """Yield without an end, until the server drains."""
    while not context.draining:
        yield 1
        await asyncio.sleep(0)


def tick_in_thread() -> Iterator[int]:
    while not context.draining:
        yield 1


@pytest.mark.parametrize("function", [tick, tick_in_thread])
async def test_a_generator_without_an_end_can_leave_a_server_that_drains(function: Any) -> None:
    async with serving(function, close_timeout=60) as server, calling(server) as client:
        items = client.iterator_call(function.__name__)
        assert await anext(items) == 1
        closing = asyncio.create_task(server.await_closed())
        assert {item async for item in items} <= {1}
        await within(closing)


async def test_a_generator_without_an_end_can_leave_a_server_out_of_rotation() -> None:
    async with serving(tick) as server, calling(server) as client:
        items = client.iterator_call("tick")
        assert await anext(items) == 1
        await server.set_serving(False)
        assert {item async for item in items} <= {1}


async def test_a_stream_goes_on_elsewhere_where_it_was_when_a_replica_drained() -> None:
    """The replicas share their functions, so these cannot ask one server whether it drains."""
    server = Server()

    @server.register
    async def count(after: int) -> AsyncIterator[int]:
        while not context.draining:
            after += 1
            yield after
            await asyncio.sleep(0)

    async with Fleet(server, 2) as fleet:
        await connected(fleet.client, 2)
        remote = fleet.client.register(count)
        items, seen = remote(0), list[int]()
        seen.append(await anext(items))
        (leaving,) = (replica for replica in fleet if replica.calls)
        stopping = asyncio.create_task(leaving.stop())
        seen += [number async for number in items]
        await within(stopping)
        async for number in remote(seen[-1]):
            seen.append(number)
            if len(seen) > 1000:
                break
        assert seen == [*range(1, len(seen) + 1)]
        assert [replica.calls for replica in fleet] == [1, 1]
