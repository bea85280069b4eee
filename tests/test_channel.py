"""Channels: messages both ways, seen from both sides, and every way in which they end."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rap.client import Channel, Request, Response
from rap.errors import CallError, ChannelClosed, Code, InvalidArgument
from tests.channel_pair import Pair, connected_pair, echo, nothing
from tests.loopback import calling, eventually, serving, within


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with connected_pair() as pair:
        yield pair


async def test_both_sides_read_and_write(pair: Pair) -> None:
    async def client(channel: Channel) -> list[Any]:
        async def answer(body: object) -> Any:
            await channel.write(body)
            return await channel.read_body()

        return [await answer(body) for body in bodies]

    bodies = [1, "two", None, [3], {"four": 4}, b"five", 6.5]
    assert await pair.run(echo, client) == bodies


async def test_what_the_clients_function_returns_is_the_result(pair: Pair) -> None:
    async def client(channel: Channel) -> object:
        return channel

    result = await pair.run(nothing, client)
    assert isinstance(result, Channel)


async def test_read_returns_messages_with_header_and_call(pair: Pair) -> None:
    async def server(channel: Channel) -> None:
        request = await channel.read()
        assert isinstance(request, Request)
        assert (request.group, request.func_name) == ("default", "talk")
        await channel.write(request.body)

    async def client(channel: Channel) -> list[Any]:
        await channel.write("hello")
        response = await channel.read()
        assert isinstance(response, Response)
        return [response.body, response.header, response.method, channel.call.method]

    assert await pair.run(server, client) == ["hello", {}, "/default/talk", "/default/talk"]


@pytest.mark.parametrize("way", ["iter_body", "iter_response", "for", "loop"])
async def test_iteration_ends_when_the_peer_has_closed(pair: Pair, way: str) -> None:
    async def server(channel: Channel) -> None:
        for i in range(3):
            await channel.write(i)

    async def client(channel: Channel) -> list[Any]:
        if way == "iter_body":
            return [body async for body in channel.iter_body()]
        if way == "iter_response":
            return [response.body async for response in channel.iter_response()]
        if way == "for":
            return [body async for body in channel]
        count = 0
        while await channel.loop(count < 3):
            assert await channel.read_body() == count
            count += 1
        return [*range(count)]

    assert await pair.run(server, client) == [0, 1, 2]


async def test_loop_ends_with_its_flag_and_with_the_channel(pair: Pair) -> None:
    async def client(channel: Channel) -> None:
        assert await channel.loop()
        assert not await channel.loop(False)
        await channel.wait_close()
        assert not await channel.loop()
        assert not await channel.loop(True)

    await pair.run(nothing, client)


@pytest.mark.parametrize("method", ["read", "read_body"])
async def test_reading_from_a_peer_that_closed_raises(pair: Pair, method: str) -> None:
    async def server(channel: Channel) -> None:
        await channel.write(1)

    async def client(channel: Channel) -> None:
        await channel.wait_close()
        assert not channel.is_close  # there is still something to read
        assert await channel.read_body() == 1
        assert channel.is_close
        with pytest.raises(ChannelClosed, match="/default/talk: the peer closed the channel"):
            await getattr(channel, method)()
        with pytest.raises(ChannelClosed):
            await channel.write(2)

    await pair.run(server, client)


async def test_the_server_sees_the_client_close(pair: Pair) -> None:
    seen: list[Any] = []

    async def server(channel: Channel) -> None:
        seen.extend([body async for body in channel])
        with pytest.raises(ChannelClosed):
            await channel.read()
        await channel.wait_close()

    async def client(channel: Channel) -> None:
        await channel.write("last words")

    await pair.run(server, client)
    assert seen == ["last words"]


@pytest.mark.parametrize("on_server", [False, True])
async def test_close_ends_this_side_at_once(pair: Pair, on_server: bool) -> None:
    async def closing(channel: Channel) -> None:
        reader = asyncio.create_task(channel.read())
        await asyncio.sleep(0)
        await channel.close()
        await channel.close()
        assert channel.is_close
        assert not await channel.loop()
        with pytest.raises(ChannelClosed, match="this side closed"):
            await within(reader)
        for use in (channel.read(), channel.read_body(), channel.write(1)):
            with pytest.raises(ChannelClosed, match="this side closed"):
                await use
        assert [body async for body in channel] == []

    async def other(channel: Channel) -> None:
        assert [body async for body in channel] == []

    await pair.run(*((closing, other) if on_server else (other, closing)))


async def test_set_finish_says_why(pair: Pair) -> None:
    async def client(channel: Channel) -> None:
        channel.set_finish("we are done")
        channel.set_finish("too late")
        with pytest.raises(ChannelClosed, match="we are done"):
            await channel.read()

    await pair.run(echo, client)


async def test_what_a_peer_sends_to_a_closed_side_is_dropped(pair: Pair) -> None:
    async def server(channel: Channel) -> None:
        for _ in range(100):
            if not await channel.loop():
                break
            await channel.write(bytes(100_000))

    async def client(channel: Channel) -> int:
        await channel.read()
        await channel.close()
        await within(channel.wait_close())
        return 1

    assert await pair.run(server, client) == 1
    assert (pair.server_error is None) or isinstance(pair.server_error, ChannelClosed)


async def test_closing_with_much_still_to_be_sent_sends_it(pair: Pair) -> None:
    got: list[int] = []

    async def server(channel: Channel) -> None:
        async for body in channel:
            got.append(len(body))  # noqa: PERF401  # while it is still written

    async def client(channel: Channel) -> None:
        writing = asyncio.create_task(channel.write(bytes(3_000_000)))
        await asyncio.sleep(0)
        await channel.close()
        await writing

    await pair.run(server, client)
    assert got == [3_000_000]


async def test_a_task_may_wait_for_the_end_while_another_reads(pair: Pair) -> None:
    async def server(channel: Channel) -> None:
        await channel.write(1)
        await channel.read()

    async def client(channel: Channel) -> list[Any]:
        waiters = [asyncio.create_task(channel.wait_close()) for _ in range(2)]
        bodies = [await channel.read_body()]
        await asyncio.sleep(0)
        assert not any(waiter.done() for waiter in waiters)
        await channel.write("end")
        bodies += [body async for body in channel]
        await asyncio.gather(*waiters)
        return bodies

    assert await pair.run(server, client) == [1]


async def test_a_cancelled_wait_for_the_end_disturbs_nobody(pair: Pair) -> None:
    async def client(channel: Channel) -> Any:
        waiter = asyncio.create_task(channel.wait_close())
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.wait([waiter])
        await channel.write(5)
        return await channel.read_body()

    assert await pair.run(echo, client) == 5


@pytest.mark.parametrize("writer_on_server", [False, True])
async def test_a_slow_reader_stops_a_fast_writer(pair: Pair, writer_on_server: bool) -> None:
    written = 0
    finished = asyncio.Event()

    async def writing(channel: Channel) -> None:
        nonlocal written
        for _ in range(400):
            await channel.write(bytes(10_000))
            written += 1
        finished.set()

    async def reading(channel: Channel) -> int:
        assert len(await channel.read_body()) == 10_000
        before = -1
        while before != written:
            before = written
            for _ in range(50):
                await asyncio.sleep(0)
        assert written < 300
        count = 1
        async for _ in channel:
            count += 1
        assert count == 400
        return count

    await pair.run(*((writing, reading) if writer_on_server else (reading, writing)))
    assert finished.is_set()


async def test_a_body_that_cannot_be_sent_is_refused_and_the_channel_lives(pair: Pair) -> None:
    async def client(channel: Channel) -> Any:
        with pytest.raises(InvalidArgument):
            await channel.write(object())
        await channel.write(1)
        return await channel.read_body()

    assert await pair.run(echo, client) == 1


async def test_two_tasks_cannot_read_at_a_time(pair: Pair) -> None:
    async def client(channel: Channel) -> None:
        first = asyncio.create_task(channel.read_body())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="already reading"):
            await channel.read()
        await channel.write("x")
        assert await first == "x"

    await pair.run(echo, client)


async def test_a_cancelled_read_loses_no_message(pair: Pair) -> None:
    async def client(channel: Channel) -> Any:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(channel.read_body(), 0.01)
        await channel.write("kept")
        return await channel.read_body()

    assert await pair.run(echo, client) == "kept"


async def test_a_thousand_channels_live_on_one_connection() -> None:
    async with serving() as server, calling(server) as client:
        server.register(echo)

        gate = asyncio.Event()
        inside = 0

        async def talk(channel: Channel) -> int:
            nonlocal inside
            inside += 1
            await gate.wait()
            await channel.write(7)
            return int(await channel.read_body())

        stub: Any = client.register("echo")(talk)
        tasks = [asyncio.create_task(stub()) for _ in range(1000)]
        await eventually(lambda: inside == 1000)
        (node,) = client.cluster.nodes.values()
        assert node.stats.open_streams == 1000
        assert len(node.pool.connections) == 1
        gate.set()
        assert await within(asyncio.gather(*tasks)) == [7] * 1000
        assert (node.stats.in_flight, node.stats.open_streams) == (0, 0)


async def test_channels_may_be_in_groups() -> None:
    async with serving() as server, calling(server) as client:
        server.register(echo, group="talks")

        async def talk(channel: Channel) -> Any:
            await channel.write(1)
            return await channel.read_body()

        stub: Any = client.register("echo", "talks")(talk)
        assert await stub() == 1
        elsewhere: Any = client.register("echo", "elsewhere")(talk)
        with pytest.raises(CallError, match="/elsewhere/echo") as caught:
            await elsewhere()
        assert caught.value.code is Code.UNIMPLEMENTED


async def test_a_channel_function_takes_no_argument(pair: Pair) -> None:
    stub: Any = pair.client.register("talk")(nothing)
    with pytest.raises(TypeError):
        await stub(1)
    with pytest.raises(TypeError, match="takes no argument"):
        await stub(x=1)


async def test_a_server_that_writes_what_cannot_be_sent_does_not_blame_the_caller(
    pair: Pair,
) -> None:
    async def server(channel: Channel) -> None:
        await channel.write(object())

    async def client(channel: Channel) -> None:
        await channel.read_body()

    with pytest.raises(CallError, match="an object of type `object` cannot be sent") as caught:
        await pair.run(server, client)
    assert caught.value.code is Code.INTERNAL


async def test_shapes_that_differ_are_refused(pair: Pair) -> None:
    async def unary() -> int:
        return 1

    async def read(channel: Channel) -> None:
        await channel.read()

    pair.server.register(unary)
    stub: Any = pair.client.register("unary")(read)
    with pytest.raises(InvalidArgument, match="/default/unary is a unary function; declare"):
        await stub()
    with pytest.raises(InvalidArgument, match="/default/talk is a channel function; declare it"):
        await pair.client.raw_call("talk")
    with pytest.raises(InvalidArgument, match="/default/talk is a channel function"):
        await anext(pair.client.iterator_call("talk"))


async def test_a_draining_server_tells_its_channels(pair: Pair) -> None:
    async def server(channel: Channel) -> None:
        await channel.read()
        assert channel.draining

    async def client(channel: Channel) -> None:
        assert not channel.draining
        await pair.server.set_serving(False)
        await eventually(lambda: channel.draining)
        await channel.write("done")
        await channel.wait_close()

    await pair.run(server, client)
    await pair.server.set_serving(True)
