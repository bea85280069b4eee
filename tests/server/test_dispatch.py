"""Each handler runs in its own task, as the tools of asyncio expect."""

import asyncio
from collections.abc import AsyncIterator
from contextvars import ContextVar

from rap.server import Channel
from tests.loopback import inside

_who: ContextVar[str] = ContextVar("who", default="nobody")


async def test_each_call_has_its_own_task() -> None:
    tasks: list[asyncio.Task[object] | None] = []

    async def note() -> bool:
        task = asyncio.current_task()
        tasks.append(task)
        await asyncio.sleep(0)
        return asyncio.current_task() is task

    async with inside(note) as client:
        assert await asyncio.gather(*[client.call(note) for _ in range(8)]) == [True] * 8
    assert len({id(task) for task in tasks}) == 8
    assert None not in tasks


async def test_a_timeout_inside_a_handler_ends_its_block() -> None:
    async def hurry() -> str:
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            return "gave up"
        return "never"

    async with inside(hurry) as client:
        assert await client.call(hurry) == "gave up"


async def test_a_handler_may_use_a_task_group() -> None:
    async def double(n: int) -> int:
        await asyncio.sleep(0)
        return 2 * n

    async def doubled() -> list[int]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(double(n)) for n in range(3)]
        return [task.result() for task in tasks]

    async with inside(doubled) as client:
        assert await client.call(doubled) == [0, 2, 4]


async def test_each_call_has_its_own_context_variables() -> None:
    async def sign(name: str) -> str:
        before = _who.get()
        _who.set(name)
        await asyncio.sleep(0)
        return f"{before} {_who.get()}"

    async with inside(sign) as client:
        found = await asyncio.gather(*[client.call(sign, name) for name in ("a", "b", "c")])
    assert found == ["nobody a", "nobody b", "nobody c"]


async def test_generators_and_channels_keep_their_context_too() -> None:
    async def items(name: str) -> AsyncIterator[str]:
        _who.set(name)
        for _ in range(3):
            await asyncio.sleep(0)
            yield _who.get()

    async def answers(channel: Channel) -> None:
        _who.set(await channel.read_body())
        task = asyncio.current_task()
        async for _ in channel:
            assert asyncio.current_task() is task
            await channel.write(_who.get())

    async with inside(items, answers) as client:

        @client.register("answers")
        async def ask(channel: Channel) -> list[str]:
            await channel.write("channel")
            found = []
            for _ in range(2):
                await channel.write("who?")
                found.append(await channel.read_body())
            return found

        streamed = [item async for item in client.iterator_call(items, "stream")]
        assert streamed == ["stream"] * 3
        assert await ask() == ["channel"] * 2
