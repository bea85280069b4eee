"""The priorities of calls: who names them, and which one a server sees."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol

import pytest

from rap.call import PRIORITIES, PRIORITY
from rap.channel import Channel
from rap.client import Client
from rap.client.sync import SyncClient
from rap.processor.base import BaseProcessor
from rap.server import Server, context
from tests.loopback import LOOPBACK, calling, serving

ON_BOTH_LOOPS = True


async def seen() -> list[Any]:
    """What the server sees: the priority, and what its client has named."""
    return [context.priority, context.request.header.get(PRIORITY)]


async def items() -> AsyncIterator[list[Any]]:
    yield await seen()


async def upload(numbers: AsyncIterator[int]) -> list[Any]:
    async for _ in numbers:
        pass
    return await seen()


async def exchange(numbers: AsyncIterator[int]) -> AsyncIterator[list[Any]]:
    yield await seen()


async def talk(channel: Channel) -> list[Any]:
    return await seen()


FUNCTIONS = (seen, items, upload, exchange, talk)


class Declared(Protocol):
    async def seen(self) -> list[Any]: ...


async def _unary(client: Client, **options: Any) -> Any:
    return await client.raw_call("seen", **options)


async def _call(client: Client, **options: Any) -> Any:
    return await client.call(seen, **options)


async def _items(client: Client, **options: Any) -> Any:
    return [item async for item in client.iterator_call(items, **options)][0]  # noqa: RUF015


async def _upload(client: Client, **options: Any) -> Any:
    return await client.call(upload, [1, 2], **options)


async def _exchange(client: Client, **options: Any) -> Any:
    found = client.iterator_call(exchange, [1], **options)
    return [item async for item in found][0]  # noqa: RUF015


async def _talk(client: Client, **options: Any) -> Any:
    async with client.channel("talk", **options) as channel:
        return await channel.result()


async def _session(client: Client, **options: Any) -> Any:
    async with client.session:
        return await client.raw_call("seen", **options)


SHAPES = pytest.mark.parametrize(
    "call", [_unary, _call, _items, _upload, _exchange, _talk, _session]
)


@SHAPES
async def test_a_call_without_a_priority_names_none(call: Any) -> None:
    async with serving(*FUNCTIONS) as server, calling(server) as client:
        assert await call(client) == ["default", None]


@SHAPES
@pytest.mark.parametrize("name", PRIORITIES)
async def test_a_call_names_its_priority(call: Any, name: str) -> None:
    async with serving(*FUNCTIONS) as server, calling(server) as client:
        assert await call(client, priority=name) == [name, name]


@SHAPES
async def test_the_calls_of_a_client_have_its_priority(call: Any) -> None:
    async with serving(*FUNCTIONS) as server, calling(server, priority="sheddable") as client:
        assert await call(client) == ["sheddable", "sheddable"]
        assert await call(client, priority="critical") == ["critical", "critical"]


async def test_a_stub_has_a_priority_and_a_call_of_it_another() -> None:
    async with serving(*FUNCTIONS) as server, calling(server, priority="critical") as client:
        stub: Any = client.register(priority="sheddable")(seen)
        assert await stub() == ["sheddable", "sheddable"]
        assert await stub(timeout=5.0) == ["sheddable", "sheddable"]
        assert await stub(priority="default") == ["default", "default"]
        assert await stub.start(priority="critical") == ["critical", "critical"]
        hedged = client.register(priority="sheddable", idempotent=True, hedge=5.0)(seen)
        assert await hedged() == ["sheddable", "sheddable"]
        streamed = client.register(priority="sheddable")(items)
        assert [item async for item in streamed()] == [["sheddable", "sheddable"]]


async def test_the_methods_of_an_interface_have_a_priority() -> None:
    server = Server(LOOPBACK)
    server.register(seen, group="Declared")
    async with server, calling(server) as client:
        assert await client.bind(Declared, priority="critical").seen() == ["critical", "critical"]


async def test_the_server_decides_on_calls_that_name_no_priority() -> None:
    server = Server(LOOPBACK)
    server.register(seen, priority="sheddable")
    async with server, calling(server) as client:
        assert await client.register(seen)() == ["sheddable", None]
        assert await client.raw_call("seen", priority="default") == ["default", "default"]


@pytest.mark.parametrize(
    ("outer", "declared", "own", "found"),
    [
        (None, None, None, None),
        ("critical", None, None, "critical"),
        ("sheddable", None, None, "sheddable"),
        ("default", None, None, None),
        ("sheddable", "critical", None, "sheddable"),
        ("critical", "sheddable", None, "sheddable"),
        ("critical", "default", None, "default"),
        ("default", "critical", None, "critical"),
        (None, "critical", None, "critical"),
        ("sheddable", None, "critical", "critical"),
        ("critical", "critical", "sheddable", "sheddable"),
    ],
)
async def test_a_nested_call_is_no_more_important_than_the_one_that_makes_it(
    outer: str | None, declared: str | None, own: str | None, found: str | None
) -> None:
    """Unless it names its priority itself."""
    async with serving(*FUNCTIONS) as last, calling(last) as inner:
        stub = inner.register(priority=declared)(seen)
        streamed = inner.register(priority=declared)(items)
        given: dict[str, Any] = {} if own is None else {"priority": own}

        async def pass_on() -> list[Any]:
            found = [item async for item in streamed(**given)]
            return [(await stub(**given))[1], found[0][1]]

        async with serving(pass_on) as front, calling(front) as client:
            assert await client.raw_call("pass_on", priority=outer) == [found, found]


async def test_a_nested_call_has_the_priority_of_the_function_that_makes_it() -> None:
    async with serving(*FUNCTIONS) as last, calling(last) as inner:
        stub = inner.register(seen)
        server = Server(LOOPBACK)

        async def pass_on() -> list[Any]:
            return await stub()

        server.register(pass_on, priority="critical")
        async with server, calling(server) as client:
            assert await client.raw_call("pass_on") == ["critical", "critical"]


async def test_a_nested_call_of_a_thread_inherits_the_priority() -> None:
    async with serving(*FUNCTIONS) as last:
        address = str(last.addresses[0])

        def pass_on() -> list[Any]:
            with SyncClient(address) as inner:
                found: list[Any] = inner.raw_call("seen")
                return found

        async with serving(pass_on) as front, calling(front) as client:
            found = await client.raw_call("pass_on", priority="sheddable")
            assert found == ["sheddable", "sheddable"]


async def test_a_task_that_outlives_its_call_inherits_no_priority() -> None:
    tasks: list[asyncio.Task[Any]] = []
    over = asyncio.Event()
    async with serving(*FUNCTIONS) as last, calling(last) as inner:
        stub = inner.register(seen)

        async def leave() -> None:
            async def later() -> Any:
                await over.wait()
                return await stub()

            tasks.append(asyncio.create_task(later()))

        async with serving(leave) as front, calling(front) as client:
            await client.raw_call("leave", priority="sheddable")
            over.set()
            assert await tasks[0] == ["default", None]


async def test_a_sync_client_names_priorities() -> None:
    async with serving(*FUNCTIONS) as server:
        address = str(server.addresses[0])

        def call() -> None:
            with SyncClient(address, priority="sheddable") as client:
                assert client.raw_call("seen") == ["sheddable", "sheddable"]
                assert client.call(seen, priority="critical") == ["critical", "critical"]
                assert [*client.iterator_call(items, priority="critical")] == [["critical"] * 2]
                stub: Any = client.register(priority="critical")(seen)
                assert stub() == ["critical", "critical"]
                assert stub(priority="default") == ["default", "default"]
                with client.channel("talk", priority="critical") as channel:
                    assert channel.result() == ["critical", "critical"]

        await asyncio.to_thread(call)


async def test_processors_do_not_see_a_priority_as_a_trace() -> None:
    """A call in no trace takes the fast path, whatever its priority is."""

    class Traces(BaseProcessor):
        def __init__(self) -> None:
            self.scopes = 0

        def wants_next(self) -> bool:
            return False

        def scope(self, call: Any) -> Any:
            self.scopes += 1
            return super().scope(call)

    traces = Traces()
    async with serving(*FUNCTIONS) as server:
        async with calling(server, processor_list=[traces], priority="sheddable") as client:
            assert await client.register(seen)() == ["sheddable", "sheddable"]
            assert await client.raw_call("seen") == ["sheddable", "sheddable"]
    assert traces.scopes == 0


async def test_an_unknown_priority_is_refused_where_it_is_named() -> None:
    text = "priority must be one of critical, default, sheddable, got 'urgent'"
    with pytest.raises(ValueError, match=text):
        Client(priority="urgent")
    async with serving(*FUNCTIONS) as server, calling(server) as client:
        with pytest.raises(ValueError, match=text):
            client.register(priority="urgent")
        with pytest.raises(ValueError, match=text):
            await client.raw_call("seen", priority="urgent")


def test_there_is_no_priority_without_a_call() -> None:
    with pytest.raises(RuntimeError, match=r"context\.priority"):
        print(context.priority)
