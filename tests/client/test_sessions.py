"""Sessions: all calls inside go over one connection, or fail."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rap.client import Channel, Client, Session
from rap.client.session import ambient_session
from rap.errors import CallError, Code, Unavailable
from rap.server import Channel as ServerChannel
from rap.server import Server, context
from tests.loopback import calling, eventually, serving, within


async def who() -> dict[str, Any]:
    """Say which session and connection the call came in."""
    session = context.session
    peer = context.request.call.peer
    return {"id": session.id if session else None, "port": peer.port if peer else 0}


async def numbers(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i


async def endless() -> AsyncIterator[str]:
    while True:
        yield context.session.id if context.session else ""


async def talk(channel: ServerChannel) -> None:
    await channel.write(channel.call.header.get("session_id"))


async def drain(iterator: AsyncIterator[Any]) -> None:
    async for _ in iterator:
        pass


@pytest.fixture
async def servers() -> AsyncIterator[list[Server]]:
    functions: list[Any] = [who, numbers, endless, talk]
    async with serving(*functions) as one, serving(*functions) as two:
        yield [one, two]


@pytest.fixture
async def client(servers: list[Server]) -> AsyncIterator[Client]:
    async with calling(*servers) as client:
        await eventually(lambda: len(client.cluster.ready) == 2)
        yield client


def holds(client: Client) -> int:
    return sum(c.pins for node in client.cluster.nodes.values() for c in node.pool.connections)


async def test_calls_inside_a_session_use_one_connection(client: Client) -> None:
    outside = await asyncio.gather(*(client.raw_call("who") for _ in range(100)))
    assert len({call["port"] for call in outside}) == 2
    async with client.session as session:
        inside = [await client.raw_call("who") for _ in range(50)]
    assert {call["id"] for call in inside} == {session.id}
    assert len({call["port"] for call in inside}) == 1
    assert holds(client) == 0


async def test_stubs_and_generators_take_part(client: Client) -> None:
    stub = client.register()(who)
    generator = client.register()(endless)
    async with client.session as session:
        assert (await stub())["id"] == session.id
        async for session_id in generator():
            assert session_id == session.id
            break


async def test_an_explicit_session_wins_over_the_implicit_one(client: Client) -> None:
    stub: Any = client.register()(who)
    async with client.session as outer, client.session as inner:
        assert (await client.raw_call("who"))["id"] == inner.id
        assert (await client.raw_call("who", session=outer))["id"] == outer.id
        assert (await client.call(who, session=outer))["id"] == outer.id
        assert (await stub(session=outer))["id"] == outer.id
        iterator = client.iterator_call("endless", session=outer)
        assert await anext(iterator) == outer.id


async def test_nested_sessions_end_in_order(client: Client) -> None:
    async with client.session as outer:
        async with client.session as inner:
            assert (await client.raw_call("who"))["id"] == inner.id
        assert (await client.raw_call("who"))["id"] == outer.id
    assert (await client.raw_call("who"))["id"] is None


async def test_execute_takes_a_pending_call_a_function_or_a_name(client: Client) -> None:
    @client.register()
    async def numbers(n: int) -> AsyncIterator[int]:
        yield 0

    stub = client.register()(who)
    async with client.session as one, client.session:
        for target in (stub(), stub, who, "who"):
            assert (await one.execute(target))["id"] == one.id
        assert [i async for i in await one.execute(numbers, [3])] == [0, 1, 2]
        assert [i async for i in await one.execute(numbers, kwarg_dict={"n": 2})] == [0, 1]
        assert [i async for i in await one.execute(numbers(2))] == [0, 1]


@pytest.mark.parametrize("target", [3, None, Client])
async def test_execute_refuses_anything_else(client: Client, target: Any) -> None:
    async with client.session as session:
        with pytest.raises(TypeError, match="execute takes a pending call, a function or a name"):
            await session.execute(target)


async def test_execute_refuses_a_coroutine_that_is_no_call(client: Client) -> None:
    async def local() -> int:
        raise AssertionError("it ran here")

    async with client.session as session:
        for coroutine in (local(), asyncio.sleep(0), client.await_close()):
            with pytest.raises(TypeError, match="execute takes a pending call, a function or a"):
                await session.execute(coroutine)
        assert (await session.execute(client.raw_call("who")))["id"] == session.id
        assert (await session.execute(client.call(who)))["id"] == session.id


async def test_execute_wants_arguments_as_list_and_dict(client: Client) -> None:
    wrong: Any = 1
    async with client.session as session:
        with pytest.raises(TypeError, match="arg_list must be a list or tuple, got 1"):
            await session.execute("who", wrong)
        with pytest.raises(TypeError, match="kwarg_dict must be a dict, got 1"):
            await session.execute("who", [], wrong)


async def test_execute_refuses_arguments_with_a_pending_call(client: Client) -> None:
    stub = client.register()(who)
    async with client.session as session:
        calls: list[Any] = [stub(), client.iterator_call("numbers", 3)]
        for pending in calls:
            with pytest.raises(TypeError, match="has its arguments already"):
                await session.execute(pending, [1])


async def test_a_generator_that_has_begun_stays_in_its_session(client: Client) -> None:
    iterator = client.iterator_call("endless")
    await anext(iterator)
    async with client.session as session:
        with pytest.raises(RuntimeError, match="has begun"):
            await session.execute(iterator)


async def test_a_session_tells_where_it_stands(client: Client) -> None:
    session = client.session
    assert (session.in_session, session.conn, session.draining) == (False, None, False)
    async with session:
        assert session.in_session
        assert session.conn is not None
        assert not session.draining
    assert not session.in_session
    assert session.id != client.session.id


async def test_a_session_cannot_be_entered_twice(client: Client) -> None:
    session = client.session
    async with session:
        with pytest.raises(RuntimeError, match="entered before"):
            await session.__aenter__()
    with pytest.raises(RuntimeError, match="entered before"):
        await session.__aenter__()
    assert holds(client) == 0


async def test_a_session_that_was_not_entered_makes_no_calls(client: Client) -> None:
    with pytest.raises(CallError, match="was not entered") as caught:
        await client.raw_call("who", session=client.session)
    assert caught.value.code is Code.FAILED_PRECONDITION


async def test_a_task_inherits_the_session_until_it_was_left(client: Client) -> None:
    gate = asyncio.Event()

    async def inherit() -> object:
        found = await client.raw_call("who")
        await gate.wait()
        assert (await client.raw_call("who"))["id"] is None
        return found["id"]

    async with client.session as session:
        task = asyncio.create_task(inherit())
        await client.raw_call("who")
    gate.set()
    assert await within(task) == session.id


@pytest.mark.parametrize("how", ["exception", "cancellation", "break"])
async def test_leaving_in_any_way_cleans_up(client: Client, how: str) -> None:
    async def use() -> None:
        while True:
            async with client.session:
                if how == "exception":
                    raise ValueError
                if how == "break":
                    break
                await asyncio.Event().wait()

    task = asyncio.create_task(use())
    if how == "cancellation":
        await eventually(lambda: holds(client) == 1)
        task.cancel()
    await asyncio.wait([task])
    assert holds(client) == 0
    assert task.cancelled() is (how == "cancellation")
    assert task.cancelled() or isinstance(task.exception(), ValueError | None)
    assert ambient_session.get() is None


async def test_a_session_may_be_left_by_another_task(client: Client) -> None:
    session = client.session
    await asyncio.create_task(session.__aenter__())
    await session.__aexit__()
    assert holds(client) == 0


async def test_a_lost_connection_fails_the_session_and_it_never_moves(
    client: Client, servers: list[Server]
) -> None:
    async with client.session as session:
        port = (await client.raw_call("who"))["port"]
        assert session.conn is not None
        session.conn.abort(ConnectionError("cut"))  # type: ignore[arg-type]  # any error will do
        await within(session.conn.ended)
        for _ in range(3):
            with pytest.raises(Unavailable, match=f"session {session.id}"):
                await client.raw_call("who")
    assert (await client.raw_call("who"))["port"] != port


async def test_a_call_under_way_fails_when_the_sessions_connection_is_lost(client: Client) -> None:
    async with client.session as session:
        iterator = client.iterator_call("endless")
        await anext(iterator)
        assert session.conn is not None
        await session.conn.close()
        with pytest.raises(Unavailable):
            await drain(iterator)  # what had come before is delivered


async def test_a_channel_runs_in_its_own_session(client: Client) -> None:
    @client.register()
    async def talk(channel: Channel) -> list[Any]:
        said = await channel.read_body()
        ids = {(await client.raw_call("who"))["id"] for _ in range(20)}
        ports = {(await client.raw_call("who"))["port"] for _ in range(20)}
        return [said, ids, len(ports)]

    said, ids, ports = await talk()
    assert ids == {said}
    assert ports == 1
    assert holds(client) == 0
    async with client.session as session:
        said, ids, _ = await talk()
        assert said == session.id


async def test_a_session_holds_for_the_calls_of_its_client_only(servers: list[Server]) -> None:
    one, two = servers
    async with calling(one) as first, calling(two) as second:
        async with first.session as outer, second.session as inner:
            assert (await first.raw_call("who"))["id"] == outer.id
            assert (await second.raw_call("who"))["id"] == inner.id
            assert (await first.register()(who)())["id"] == outer.id
        async with first.session as session:
            assert (await second.raw_call("who"))["id"] is None
            assert await anext(second.iterator_call("endless")) == ""
            for call in (
                second.raw_call("who", session=session),
                session.execute(second.iterator_call("endless")),
                session.execute(second.raw_call("who")),
                session.execute(second.register()(who)()),
            ):
                with pytest.raises(CallError, match="belongs to another client"):
                    await call


async def test_entering_waits_for_a_server() -> None:
    async with serving(who) as server:
        address = server.addresses[0]
    client = Client(address, connect_timeout=0.05)
    with pytest.raises(Unavailable):
        await client.connect()
    with pytest.raises(Unavailable, match=str(address)):
        await client.session.__aenter__()
    await client.await_close()


async def test_a_draining_server_lets_its_session_finish(servers: list[Server]) -> None:
    one = servers[0]
    async with calling(one) as client, client.session as session:
        await client.raw_call("who")
        await one.set_serving(False)
        await eventually(lambda: session.draining)
        assert (await client.raw_call("who"))["id"] == session.id


def test_session_is_the_class_that_is_exported() -> None:
    assert isinstance(Client().session, Session)
