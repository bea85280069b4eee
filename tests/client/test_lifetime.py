"""Where and when a client may be used: the first call, its event loop, its process, its end."""

import asyncio
import gc
import os
import threading
import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rap.client import Client, SyncClient
from rap.server import Server
from tests.client import threaded
from tests.loopback import calling, eventually, serving, within

ON_BOTH_LOOPS = True


async def add(a: int, b: int) -> int:
    return a + b


async def count(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i


async def total(items: AsyncIterator[int]) -> int:
    return sum([item async for item in items])


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving(add, count, total) as server:
        yield server


def calls(client: Client) -> list[Any]:
    """Return functions that each make one call."""
    stub: Any = client.register()(add)
    stream = client.register()(count)
    requests: Any = client.register()(total)

    async def in_session() -> Any:
        async with client.session:
            return await stub(1, 2)

    async def iterate() -> Any:
        return sum([each async for each in stream(3)])

    return [
        lambda: stub(1, 2),
        lambda: stub(1, 2, timeout=5),
        lambda: client.raw_call("add", 1, 2),
        lambda: client.call(add, 1, 2),
        lambda: requests([1, 2]),
        iterate,
        in_session,
    ]


@pytest.mark.parametrize("number", range(7))
async def test_the_first_call_connects(server: Server, number: int) -> None:
    client = Client(server.addresses)
    assert await within(calls(client)[number]()) == 3
    await client.close()


async def test_first_calls_at_the_same_time_share_the_connection(server: Server) -> None:
    client = Client(server.addresses)
    assert await within(asyncio.gather(*(client.raw_call("add", 1, 2) for _ in range(50))))
    assert len(server.connection_manager.connections) == 1
    await client.close()


async def test_another_loop_is_refused_and_harms_no_call(server: Server) -> None:
    async with calling(server) as client:
        opened = server.connection_manager.calls_opened

        def elsewhere() -> list[str]:
            async def use() -> list[str]:
                told = []
                for call in calls(client):
                    try:
                        told.append(str(await call()))
                    except RuntimeError as exc:
                        told.append(str(exc))
                return told

            return asyncio.run(use())

        told = await asyncio.to_thread(elsewhere)
        assert len(told) == 7
        assert all("belongs to another event loop" in text for text in told)
        assert server.connection_manager.calls_opened == opened
        assert await within(client.raw_call("add", 1, 2)) == 3


def test_two_loops_in_one_thread_are_told_apart() -> None:
    with threaded.serving(add, count, total) as server, asyncio.Runner() as first:
        client = Client([str(each) for each in server.addresses])

        async def use() -> list[Any]:
            return [await within(call()) for call in calls(client)]

        assert first.run(use()) == [3] * 7

        async def refused() -> None:
            for call in calls(client):
                with pytest.raises(RuntimeError, match="belongs to another event loop"):
                    await call()
            with pytest.raises(RuntimeError, match="belongs to another event loop"):
                await client.close()

        asyncio.run(refused())
        assert first.run(use()) == [3] * 7
        first.run(client.close())


def test_a_closed_client_is_used_again_in_another_loop() -> None:
    with threaded.serving(add, count, total) as server:
        client = Client([str(each) for each in server.addresses])

        async def use() -> list[Any]:
            async with client:
                return [await within(call()) for call in calls(client)]

        for _ in range(3):
            assert asyncio.run(use()) == [3] * 7


async def test_a_client_that_is_dropped_warns_and_lets_go(server: Server) -> None:
    client = Client(server.addresses)
    assert await within(client.raw_call("add", 1, 2)) == 3
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del client
        gc.collect()
    assert ["was never closed" in str(each.message) for each in caught] == [True]
    await eventually(lambda: not server.connection_manager.connections)


async def test_an_open_call_keeps_its_client(server: Server) -> None:
    stream = Client(server.addresses).iterator_call("count", 100)
    assert await within(anext(stream)) == 0
    gc.collect()
    assert len([each async for each in stream]) == 99
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        del stream
        gc.collect()
        await eventually(lambda: not server.connection_manager.connections)


async def test_a_closed_client_and_one_that_was_not_used_do_not_warn(server: Server) -> None:
    client = Client(server.addresses)
    async with client:
        await client.raw_call("add", 1, 2)
    del client
    Client(server.addresses)
    gc.collect()


@pytest.mark.filterwarnings("ignore:This process .* multi-threaded:DeprecationWarning")
async def test_a_forked_child_is_refused_and_writes_nothing(server: Server) -> None:
    async with calling(server) as client:
        told, tell = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                asyncio.events._set_running_loop(None)
                pending = client.raw_call("add", 1, 2)
                try:
                    pending.send(None)
                except RuntimeError as exc:
                    os.write(tell, str(exc).encode())
            finally:
                os._exit(0)
        os.close(tell)
        text = await asyncio.to_thread(os.read, told, 1000)
        os.close(told)
        await asyncio.to_thread(os.waitpid, pid, 0)
        assert b"belongs to the process that this one was forked from" in text
        assert await within(client.raw_call("add", 1, 2)) == 3


def test_first_calls_of_many_threads_connect_once() -> None:
    with threaded.serving(add) as server:
        client = SyncClient([str(each) for each in server.addresses])
        assert in_threads(client, 20) == [3] * 20
        assert len(server.connection_manager.connections) == 1
        client.close()


@pytest.mark.filterwarnings("ignore:This process .* multi-threaded:DeprecationWarning")
def test_first_calls_of_many_threads_in_a_forked_child_all_work() -> None:
    with threaded.serving(add) as server:
        client = SyncClient([str(each) for each in server.addresses])
        client.connect()
        told, tell = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                os.write(tell, repr(in_threads(client, 20)).encode())
            finally:
                os._exit(0)
        os.close(tell)
        assert os.read(told, 10_000).decode() == repr([3] * 20)
        os.close(told)
        os.waitpid(pid, 0)
        assert client.raw_call("add", 1, 2) == 3
        client.close()


def in_threads(client: SyncClient, number: int) -> list[Any]:
    """Make a first call in each of some threads at the same time; return what they got."""
    barrier, results = threading.Barrier(number), list[Any]()

    def call() -> None:
        barrier.wait(10)
        try:
            results.append(client.raw_call("add", 1, 2))
        except BaseException as exc:
            results.append(repr(exc))

    threads = [threading.Thread(target=call) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return results
