"""The one outcome of a channel call: whoever finishes first, the server's error is heard."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import suppress
from typing import Any

import pytest

from rap.client import Channel, Client
from rap.client.processor import CryptoProcessor as ClientCrypto
from rap.errors import CallError, ChannelClosed, Code, DeadlineExceeded, InvalidArgument
from rap.server import Server, context
from rap.server.processor import CryptoProcessor as ServerCrypto
from tests.fake_clock import FakeClock
from tests.loopback import calling, eventually, serving, within


class Log:
    """Records what the handlers of a test did."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.go_on = asyncio.Event()
        self.error: BaseException | None = None


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
async def server(log: Log) -> AsyncIterator[Server]:
    async def upload(channel: Channel) -> None:
        async for row in channel:
            log.got.append(row)
        raise ValueError(f"row {len(log.got)} is bad")

    async def fail(channel: Channel) -> None:
        raise ValueError("at once")

    async def echo(channel: Channel) -> None:
        async for body in channel:
            await channel.write(body)

    async def wait(channel: Channel) -> None:
        try:
            await channel.write("here")
            await log.go_on.wait()
        except BaseException as exc:
            log.error = exc
            raise

    async def fill(channel: Channel) -> None:
        with suppress(ChannelClosed):  # the client reads nothing more
            for _ in range(100):
                await channel.write(bytes(100_000))
        raise ValueError("all written")

    async def session_id() -> str | None:
        return context.session.id if context.session else None

    async with serving(upload, fail, echo, wait, fill, session_id) as server:
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with calling(server) as client:
        yield client
        loads = [node.stats for node in client.cluster.nodes.values()]
        assert [(s.in_flight, s.open_streams) for s in loads] == [(0, 0)] * len(loads)
        connections = [c for node in client.cluster.nodes.values() for c in node.pool.connections]
        await eventually(lambda: not any(c.streams for c in connections))
        assert not any(c.pins for c in connections)


async def test_the_server_raises_after_the_client_is_done(client: Client, log: Log) -> None:
    @client.register
    async def upload(channel: Channel) -> int:
        await channel.write(1)
        return 7

    with pytest.raises(ValueError, match="row 1 is bad"):
        await within(upload())
    assert log.got == [1]


async def test_the_server_raises_before_the_client_is_done(client: Client) -> None:
    async with client.channel("echo") as channel:
        await channel.write(1)
        assert await channel.read_body() == 1
    with pytest.raises(ValueError, match="at once"):
        async with client.channel("fail") as channel:
            await channel.wait_close()


async def test_an_error_that_the_block_has_caught_is_still_the_outcome(client: Client) -> None:
    async def talk() -> None:
        async with client.channel("fail") as channel:
            with pytest.raises(ValueError, match="at once"):
                await channel.read()

    with pytest.raises(ValueError, match="at once"):
        await within(talk())


async def test_an_error_of_the_block_comes_before_that_of_the_server(client: Client) -> None:
    async def talk() -> None:
        async with client.channel("fail") as channel:
            await channel.wait_close()
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await within(talk())


async def test_the_value_of_the_clients_function_is_that_of_the_call(client: Client) -> None:
    @client.register("echo")
    async def talk(channel: Channel) -> object:
        await channel.write(2)
        return await channel.read_body()

    assert await within(talk()) == 2


async def test_a_side_that_has_ended_reads_on(client: Client) -> None:
    async with client.channel("echo") as channel:
        for i in range(3):
            await channel.write(i)
        await channel.end()
        await channel.end()
        with pytest.raises(ChannelClosed):
            await channel.write(3)
        assert [body async for body in channel] == [0, 1, 2]
        await channel.end()


async def test_ending_before_anything_is_read_or_written_ends_the_loop_of_the_server(
    client: Client, log: Log
) -> None:
    async def talk() -> None:
        async with client.channel("upload") as channel:
            await channel.end()
            await channel.read()

    with pytest.raises(ValueError, match="row 0 is bad"):
        await within(talk())


async def test_the_result_drops_what_was_not_read(client: Client) -> None:
    async with client.channel("echo") as channel:
        for i in range(3):
            await channel.write(i)
        assert await channel.read_body() == 0
        assert await within(channel.result()) is None
        assert [body async for body in channel] == []


async def test_the_result_raises_the_error_of_the_server_and_so_does_the_end_of_the_block(
    client: Client,
) -> None:
    async def talk() -> None:
        async with client.channel("upload") as channel:
            with pytest.raises(ValueError, match="row 0 is bad"):
                await channel.result()

    with pytest.raises(ValueError, match="row 0 is bad"):
        await within(talk())


async def test_the_result_is_for_clients(server: Server, client: Client) -> None:
    async def ask(channel: Channel) -> None:
        with pytest.raises(RuntimeError, match="/default/ask: the result is what this function"):
            await channel.result()

    server.register(ask)
    async with client.channel("ask"):
        pass


async def test_no_other_task_reads_while_one_waits_for_the_result(client: Client) -> None:
    async with client.channel("echo") as channel:
        reader = asyncio.create_task(channel.read())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task is already reading"):
            await channel.result()
        with pytest.raises(ChannelClosed):
            await within(reader)


async def test_leaving_the_block_ends_a_read_of_another_task(client: Client) -> None:
    async with client.channel("echo") as channel:
        reader = asyncio.create_task(channel.read())
        await asyncio.sleep(0)
    with pytest.raises(ChannelClosed, match="this side closed"):
        await within(reader)


async def test_a_closed_channel_takes_in_what_arrives_until_the_error(client: Client) -> None:
    async def talk() -> None:
        async with client.channel("fill") as channel:
            await channel.read()
            await channel.close()
            await channel.close()
            await within(channel.wait_close())

    with pytest.raises(CallError):
        await within(talk())


async def test_cancelling_the_wait_for_the_outcome_cancels_the_server(
    client: Client, log: Log
) -> None:
    async def talk() -> None:
        async with client.channel("wait") as channel:
            await channel.read()
            await channel.end()
            ended.set()

    ended = asyncio.Event()
    running = asyncio.create_task(talk())
    await within(ended.wait())
    await asyncio.sleep(0)
    assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await eventually(lambda: isinstance(log.error, asyncio.CancelledError))


async def test_a_cancelled_wait_for_the_result_leaves_the_channel_usable(
    client: Client, log: Log
) -> None:
    async with client.channel("wait") as channel:
        await channel.read()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(channel.result(), 0.01)
        log.go_on.set()
        assert await within(channel.result()) is None


async def test_a_deadline_that_passes_while_the_outcome_is_awaited_is_the_outcome(
    server: Server, log: Log, clock: FakeClock
) -> None:
    async def talk(client: Client) -> None:
        async with client.channel("wait", timeout=5.0) as channel:
            await channel.read()
            clock.advance(5.0)

    async with calling(server, clock=clock) as client:
        with pytest.raises(DeadlineExceeded):
            await within(talk(client))
    await eventually(lambda: isinstance(log.error, asyncio.CancelledError))


async def test_a_connection_that_is_lost_before_the_outcome_is_an_error(
    client: Client, log: Log
) -> None:
    async def talk() -> None:
        async with client.channel("wait") as channel:
            await channel.read()
            await channel.end()
            for node in client.cluster.nodes.values():
                await node.pool.close()

    with pytest.raises(CallError) as caught:
        await within(talk())
    assert caught.value.code is Code.UNAVAILABLE


async def test_an_unknown_function_is_heard_when_the_block_ends(client: Client) -> None:
    with pytest.raises(CallError, match="nothing"):
        async with client.channel("nothing"):
            pass
    with pytest.raises(CallError, match="/elsewhere/echo"):
        async with client.channel("echo", group="elsewhere"):
            pass


async def test_calls_of_the_block_are_in_the_session_of_the_channel(client: Client) -> None:
    async with client.channel("echo") as channel:
        inside = await client.raw_call("session_id")
        assert inside == channel.call.header["session_id"]
    assert await client.raw_call("session_id") is None
    async with client.session as session, session.channel("echo") as channel:
        assert channel.call.header["session_id"] == session.id
        assert await client.raw_call("session_id") == session.id


async def test_a_channel_call_is_entered_once_and_only_for_channels(client: Client) -> None:
    call = client.channel("echo")
    async with call:
        with pytest.raises(RuntimeError, match="entered once"):
            await call.__aenter__()
    with pytest.raises(RuntimeError, match="entered once"):
        await call.__aenter__()

    async def unary() -> int:
        return 1

    with pytest.raises(TypeError, match="channel is for channels, unary is unary"):
        client.channel(unary)
    with pytest.raises(ValueError, match="timeout"):
        client.channel("echo", timeout="1")  # type: ignore[call-overload]  # wrong


async def test_a_channel_may_be_left_by_another_task_than_entered_it(client: Client) -> None:
    call = client.channel("echo")
    channel = await asyncio.create_task(call.__aenter__())
    await channel.write(1)
    assert await channel.read_body() == 1
    await call.__aexit__(None, None, None)


async def test_a_declaration_checks_the_arguments_of_a_channel(client: Client) -> None:
    async def chat(channel: Channel, room: str) -> None: ...

    with pytest.raises(InvalidArgument, match="argument 'room'"):
        client.channel(chat, 3)
    with pytest.raises(InvalidArgument, match="room"):
        client.channel(chat)


async def answer(channel: Channel, start: int = 0) -> int:
    context.set_header("color", "blue")
    context.set_trailer("rows", [1, 2])
    total = start
    async for n in channel:
        total += n
        await channel.write(total)
    return total


async def test_the_value_of_the_servers_function_is_the_result(
    server: Server, client: Client
) -> None:
    server.register(answer)

    @client.register("answer")
    async def silent(channel: Channel) -> None:
        await channel.write(2)
        await channel.read()

    @client.register("answer")
    async def own(channel: Channel) -> int:
        await channel.write(2)
        return 7

    @client.register("answer")
    async def asking(channel: Channel, start: int) -> Any:
        await channel.write(2)
        return await channel.result()

    assert await within(silent()) == 2
    assert await within(own()) == 7
    assert await within(asking(5)) == 7
    assert await within(asking(start=6)) == 8
    with pytest.raises(InvalidArgument, match="start"):
        await asking("5")


@pytest.mark.parametrize("way", ["for", "loop", "read", "iter_response", "close"])
async def test_the_result_is_no_message(server: Server, client: Client, way: str) -> None:
    server.register(answer)
    got: list[Any] = []
    async with client.channel("answer", start=1) as channel:
        for n in (1, 2):
            await channel.write(n)
        await channel.end()
        if way == "for":
            got = [body async for body in channel]
        elif way == "iter_response":
            got = [message.body async for message in channel.iter_response()]
        elif way == "read":
            got = [await channel.read_body(), (await channel.read()).body]
            with pytest.raises(ChannelClosed):
                await channel.read_body()
        elif way == "loop":
            await channel.wait_close()
            while await channel.loop():
                got.append(await channel.read_body())
        else:
            got = [await channel.read_body(), await channel.read_body()]
            await channel.close()
        if way != "close":
            assert channel.is_close
        assert await within(channel.result()) == 4
    assert got == [2, 4]
    assert await channel.result() == 4
    assert channel.header == {"color": "blue"}
    assert channel.trailer == {"rows": [1, 2]}


async def test_the_result_comes_behind_messages_that_nobody_read(
    server: Server, client: Client
) -> None:
    server.register(answer)
    async with client.channel("answer") as channel:
        for _ in range(1000):
            await channel.write(1)
        assert await within(channel.result()) == 1000


async def test_a_client_that_leaves_stops_a_server_that_writes_for_ever(
    server: Server, client: Client, log: Log
) -> None:
    async def ticks(channel: Channel) -> str:
        try:
            while True:
                await channel.write(bytes(10_000))
        except ChannelClosed:
            log.got.append("left")
            return "stopped"

    async def simple(channel: Channel) -> None:
        while True:
            await channel.write(bytes(10_000))

    server.register(ticks)
    server.register(simple)
    async with client.channel("ticks") as channel:
        assert len(await channel.read_body()) == 10_000
    assert log.got == ["left"]
    assert await channel.result() == "stopped"
    for reads in (True, False):
        async with client.channel("simple") as channel:
            if reads:
                await channel.read()
        assert await channel.result() is None
    async with client.channel("ticks") as channel:
        await channel.read()
        await channel.close()
        assert await within(channel.result()) == "stopped"


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize(
    ("way", "encrypts"),
    [("leave", False), ("leave", True), ("close", False), ("close", True), ("result", False)],
)
async def test_a_client_that_has_ended_and_then_leaves_stops_a_server_that_writes_for_ever(
    way: str, reads: bool, encrypts: bool
) -> None:
    async def ticks(channel: Channel) -> None:
        while True:
            await channel.write(bytes(10_000))

    async def talk(client: Client) -> None:
        async with client.channel("ticks") as channel:
            await channel.end()
            if reads:
                await channel.read()
            if way == "close":
                await channel.close()
                await channel.wait_close()
            elif way == "result":
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(channel.result(), 0.01)
        assert await channel.result() is None

    theirs, ours = [ServerCrypto({"key": "k" * 16})], [ClientCrypto("key", "k" * 16)]
    async with (
        serving(ticks, processor_list=theirs if encrypts else []) as server,
        calling(server, processor_list=ours if encrypts else []) as client,
    ):
        await within(talk(client))


async def test_a_client_that_leaves_while_a_message_waits_for_credit_stops_the_server(
    server: Server, client: Client
) -> None:
    async def ticks(channel: Channel) -> None:
        while True:
            await channel.write(bytes(10_000))

    async def write(channel: Channel) -> None:
        while True:
            await channel.write(bytes(100_000))

    async def talk() -> None:
        async with client.channel("ticks") as channel:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(write(channel), 0.05)

    server.register(ticks)
    await within(talk())


async def test_a_failed_channel_has_header_and_trailer(server: Server, client: Client) -> None:
    async def failing(channel: Channel) -> None:
        context.set_header("color", "red")
        context.set_trailer("why", "none")
        raise CallError("mine", code=Code.ABORTED, details={"own": 1})

    server.register(failing)
    with pytest.raises(CallError, match="mine") as caught:
        async with client.channel("failing") as channel:
            pass
    assert caught.value.details == {"own": 1}
    assert channel.header == {"color": "red"}
    assert channel.trailer == {"why": "none"}


async def test_messages_have_the_types_of_the_declaration(server: Server, client: Client) -> None:
    async def echo(channel: Channel[int, int]) -> int:
        async for n in channel:
            await channel.write(n)
        return 1

    server.register(echo, name="typed")

    async def typed(channel: Channel[int, int]) -> int: ...  # type: ignore[empty-body]

    async def wrong(channel: Channel[str, int]) -> str: ...  # type: ignore[empty-body]

    async with client.channel(typed) as channel:
        with pytest.raises(InvalidArgument, match="message"):
            await channel.write("1")  # type: ignore[arg-type]  # that is the mistake
        await channel.write(1)
        assert await channel.read_body() == 1
        await channel.end()
    assert await channel.result() == 1

    @client.register("typed")
    async def reading(channel: Channel[str, int]) -> str:
        await channel.write(1)
        return await channel.read_body()

    with pytest.raises(CallError, match="message: expected `str`"):
        await within(reading())


async def test_a_server_of_an_older_release_is_not_waited_for(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wait(channel: Channel) -> int:
        await channel.write("here")
        async for body in channel:
            log.got.append(body)
        await log.go_on.wait()
        return 5

    monkeypatch.setattr("rap.transport.connection._ABILITIES", frozenset())
    async with serving(wait) as server, calling(server) as client:
        async with client.channel("wait") as channel:
            assert await channel.read_body() == "here"
            await channel.write("last words")
        assert await channel.result() is None
        await eventually(lambda: log.got == ["last words"])

        @client.register("wait")
        async def talk(channel: Channel) -> str:
            await channel.close()
            return "mine"

        assert await within(talk()) == "mine"
        log.go_on.set()


async def test_closing_a_generator_around_a_block_cancels_the_server(
    client: Client, log: Log
) -> None:
    async def bodies() -> AsyncIterator[Any]:
        async with client.channel("wait") as channel:
            async for body in channel:
                yield body

    iterator = bodies()
    assert await anext(iterator) == "here"
    await iterator.aclose()  # type: ignore[attr-defined]  # it is a generator
    await eventually(lambda: isinstance(log.error, asyncio.CancelledError))


async def double_each(by: int, numbers: AsyncIterator[int]) -> AsyncIterator[int]:
    async for number in numbers:
        yield number * by


async def total_of(by: int, numbers: AsyncIterator[int]) -> int:
    return by * sum([number async for number in numbers])


@pytest.mark.parametrize("name", ["double_each", "total_of"])
@pytest.mark.parametrize("reads", [False, True])
async def test_a_function_with_a_request_stream_is_no_channel(name: str, reads: bool) -> None:
    async def talk(client: Client) -> None:
        async with client.channel(name, 2) as channel:
            for number in range(3):
                await channel.write(number)
            await channel.end()
            if not reads:
                await channel.result()
            async for _ in channel:
                pass

    async with serving(double_each, total_of) as server, calling(server) as client:
        with pytest.raises(InvalidArgument, match=f"/{name} is not a channel function"):
            await talk(client)


async def test_a_channel_function_takes_no_batches_of_items() -> None:
    async def listen(channel: Channel, by: int) -> None:
        async for _ in channel:
            pass

    async with serving(listen) as server, calling(server) as client:

        @client.register(name="listen")
        async def upload(by: int, numbers: AsyncIterable[int] | Iterable[int]) -> None: ...

        with pytest.raises(InvalidArgument, match="/listen is a channel function"):
            await upload(1, [1, 2, 3])
