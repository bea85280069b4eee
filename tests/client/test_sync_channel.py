import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from rap.client import Channel as AsyncChannel
from rap.client import SyncClient
from rap.client.sync.channel import SyncChannel
from rap.errors import CallError, ChannelClosed, Unimplemented
from rap.server import Channel, Server, context
from tests.client.threaded import calling, serving
from tests.loopback import PATIENCE


async def echo(channel: Channel) -> None:
    async for body in channel:
        await channel.write(body)


async def three(channel: Channel) -> None:
    for i in range(3):
        await channel.write(i)


async def fail(channel: Channel) -> None:
    await channel.read_body()
    raise ValueError("enough")


async def session_id() -> str | None:
    return context.session.id if context.session else None


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(echo, three, fail, session_id) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[SyncClient]:
    with calling(server) as client:
        yield client


def test_messages_go_both_ways(client: SyncClient) -> None:
    with client.channel("echo") as channel:
        channel.write("a")
        assert channel.read_body() == "a"
        channel.write({"b": 1})
        assert channel.read().body == {"b": 1}
        assert channel.call.method == "/default/echo"
        assert channel.loop()
        assert not channel.loop(False)
        assert not channel.draining


def test_iterating_ends_when_the_server_has_closed(client: SyncClient) -> None:
    with client.channel("three") as channel:
        assert list(channel) == [0, 1, 2]
        assert channel.is_close
        with pytest.raises(ChannelClosed, match="the peer closed"):
            channel.read_body()
    with client.channel("three") as channel:
        assert [message.body for message in channel.iter_response()] == [0, 1, 2]
    with client.channel("three") as channel:
        channel.wait_close()
        assert list(channel.iter_body()) == [0, 1, 2]


def test_what_this_side_closed_is_not_read(client: SyncClient) -> None:
    with client.channel("echo") as channel:
        channel.set_finish("done here")
        with pytest.raises(ChannelClosed, match="done here"):
            channel.read()
    with client.channel("echo") as channel:
        channel.close()
        assert channel.is_close
        with pytest.raises(ChannelClosed):
            channel.write(1)


def test_an_error_of_the_handler_is_read_and_ends_the_block(client: SyncClient) -> None:
    def talk() -> None:
        with client.channel("fail") as channel:
            channel.write(1)
            with pytest.raises(ValueError, match="enough"):
                channel.read_body()

    with pytest.raises(ValueError, match="enough"):
        talk()


def test_an_unknown_channel_is_refused_when_it_is_read(client: SyncClient) -> None:
    with pytest.raises(Unimplemented), client.channel("nothing") as channel:
        channel.read_body()


def test_a_plain_function_runs_in_the_thread_of_the_caller(client: SyncClient) -> None:
    @client.register("echo")
    def talk(channel: SyncChannel) -> str:
        channel.write("hi")
        return f"{channel.read_body()} {threading.current_thread().name}"

    assert talk() == f"hi {threading.current_thread().name}"


def test_an_async_function_runs_in_the_thread_of_the_client(client: SyncClient) -> None:
    @client.register("echo")
    async def talk(channel: AsyncChannel) -> str:
        await channel.write("hi")
        return f"{await channel.read_body()} {threading.current_thread().name}"

    untyped: Any = talk
    assert untyped() == "hi rap client"


def test_calls_inside_go_over_the_connection_of_the_channel(client: SyncClient) -> None:
    with client.channel("echo"):
        inside = client.raw_call("session_id")
        assert inside is not None
        assert client.raw_call("session_id") == inside
    assert client.raw_call("session_id") is None


def test_a_channel_of_a_session_keeps_its_id(client: SyncClient) -> None:
    @client.register("echo")
    def talk(channel: SyncChannel) -> str:
        return str(client.raw_call("session_id"))

    with client.session as session:
        assert talk() == session.id
        assert session.execute(talk) == session.id


def test_an_error_inside_resets_the_call_and_is_raised() -> None:
    seen: list[str] = []
    begun, ended = threading.Event(), threading.Event()

    async def listen(channel: Channel) -> None:
        begun.set()
        try:
            await channel.read_body()
        except CallError as error:
            seen.append(str(error))
            raise
        finally:
            ended.set()

    with serving(listen) as server, calling(server) as client:

        def leave_with(error: Exception) -> None:
            with client.channel("listen"):
                assert begun.wait(PATIENCE)  # a call that ends before its turn has no handler
                raise error

        with pytest.raises(LookupError, match="mine"):
            leave_with(LookupError("mine"))
        with pytest.raises(StopIteration):
            leave_with(StopIteration())
        assert ended.wait(PATIENCE)


def test_leaving_by_an_interrupt_cancels_the_handler() -> None:
    cancelled = threading.Event()

    async def forever(channel: Channel) -> None:
        await channel.write("up")
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with serving(forever) as server, calling(server) as client:
        channel = client.channel("forever")
        channel.__enter__()
        assert channel.read_body() == "up"
        channel.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
        assert cancelled.wait(PATIENCE)


def test_a_channel_is_used_inside_its_block_and_once(client: SyncClient) -> None:
    channel = client.channel("echo")
    with pytest.raises(RuntimeError, match="not open"):
        channel.read()
    with channel:
        pass
    with pytest.raises(RuntimeError, match="once"), channel:
        raise AssertionError


def test_a_channel_function_takes_no_argument(client: SyncClient) -> None:
    @client.register("echo")
    def talk(channel: SyncChannel) -> None:
        raise AssertionError

    wrong: Any = talk
    with pytest.raises(TypeError, match=r"takes no argument.* or declare further parameters"):
        wrong(colour="red")


def test_one_thread_reads_while_another_writes(client: SyncClient) -> None:
    with client.channel("echo") as channel:

        def write() -> None:
            for i in range(200):
                channel.write(i)

        writer = threading.Thread(target=write)
        writer.start()
        assert [channel.read_body() for _ in range(200)] == list(range(200))
        writer.join(PATIENCE)


def test_an_error_of_the_handler_is_heard_though_the_block_has_ended_first(
    client: SyncClient,
) -> None:
    with pytest.raises(ValueError, match="enough"), client.channel("fail") as channel:
        channel.write(1)

    @client.register("fail")
    def talk(channel: SyncChannel) -> int:
        channel.write(1)
        return 7

    with pytest.raises(ValueError, match="enough"):
        talk()


def test_a_side_that_has_ended_reads_on(client: SyncClient) -> None:
    with client.session as session, session.channel("echo") as channel:
        assert channel.call.header["session_id"] == session.id
        channel.write(1)
        channel.end()
        with pytest.raises(ChannelClosed):
            channel.write(2)
        assert list(channel) == [1]
        assert channel.result() is None
        assert (channel.header, channel.trailer) == ({}, {})


@pytest.mark.parametrize("closes", [False, True])
def test_a_client_that_has_ended_and_then_leaves_stops_a_server_that_writes_for_ever(
    server: Server, client: SyncClient, closes: bool
) -> None:
    async def ticks(channel: Channel) -> None:
        while True:
            await channel.write(bytes(10_000))

    server.register(ticks)
    with client.channel("ticks", timeout=PATIENCE) as channel:
        channel.end()
        assert len(channel.read_body()) == 10_000
        if closes:
            channel.close()
    assert channel.result() is None
