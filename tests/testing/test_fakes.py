"""fake(): the calls of a client are answered without its server."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from rap import Channel, Client, SyncClient
from rap.errors import Internal, InvalidArgument, Unavailable, Unimplemented
from rap.testing import FakeClock, fake


@dataclass
class Order:
    sku: str
    count: int = 1


class Stock:
    """Declares a group."""

    async def reserve(self, order: Order) -> int: ...  # type: ignore[empty-body]  # a declaration

    async def watch(self, sku: str) -> AsyncIterator[int]:
        yield 0

    async def total(self, orders: AsyncIterator[Order]) -> int: ...  # type: ignore[empty-body]  # likewise


client = Client("stock:9000", service=None, token=None)
stock = client.bind(Stock)
sync_client = SyncClient("stock:9000")


@client.register
async def ping(text: str = "ping") -> str: ...  # type: ignore[empty-body]  # a declaration


@client.register
async def talk(channel: Channel[str, int]) -> None:
    for number in range(2):
        await channel.write(number)
    await channel.end()
    heard.extend([text async for text in channel])


@sync_client.register(name="ping")
def sync_ping(text: str = "ping") -> str: ...  # type: ignore[empty-body]  # a declaration


@sync_client.register
def numbers() -> Iterator[int]:
    yield 0


heard: list[str] = []


async def orders() -> AsyncIterator[Order]:
    yield Order("a", 2)
    yield Order("b", 3)


async def test_a_function_answers_and_its_calls_can_be_asserted() -> None:
    async with fake(client, reserve=lambda order: order.count * 2) as fakes:
        assert await stock.reserve(Order("hat", 3)) == 6
        fakes.reserve.assert_called_once_with(Order("hat", 3))
        fakes.reserve.assert_called_once_with(order=Order("hat", 3))
        fakes["Stock/reserve"].assert_called_once()
        fakes[stock.reserve].assert_called_once()


async def test_an_answer_is_a_value_an_error_or_an_async_function_too() -> None:
    async def pong(text: str) -> str:
        await asyncio.sleep(0)
        return text + "!"

    async with fake(client, {stock.reserve: 5, "ping": pong}) as fakes:
        assert await stock.reserve(Order("hat")) == 5
        assert await ping("a") == "a!"
        fakes.reserve.side_effect = Unavailable("the stock is on fire")
        with pytest.raises(Unavailable, match="on fire"):
            await stock.reserve(Order("hat"))
        fakes.ping.side_effect = ["one", "two"]
        assert [await ping(), await ping()] == ["one", "two"]


async def test_streams_and_channels_are_answered() -> None:
    async def count(orders: AsyncIterator[Order]) -> int:
        return sum([order.count async for order in orders])

    async def words(channel: Channel[int, str]) -> None:
        async for number in channel:
            await channel.write(f"number {number}")

    async with fake(client, watch=[1, 2], total=count, talk=words) as fakes:
        assert [item async for item in stock.watch("hat")] == [1, 2]
        fakes.watch.assert_called_with("hat")
        assert await stock.total(orders()) == 5
        await talk()
        assert heard == ["number 0", "number 1"]


async def test_arguments_and_results_are_checked_against_the_declaration() -> None:
    async with fake(client, reserve="many", ping=lambda: "pong") as fakes:
        with pytest.raises(InvalidArgument):
            await stock.reserve("hat")  # type: ignore[arg-type]  # what the test is about
        assert not fakes.reserve.called
        with pytest.raises(Internal, match="reserve"):
            await stock.reserve(Order("hat"))
        with pytest.raises(TypeError):  # the fake takes no argument
            await ping("a")


async def test_a_fake_may_answer_with_the_items_of_another_call() -> None:
    other = Client("shelf:9000")
    shelf = other.bind(Stock)
    async with fake(other, watch=[1, 2]), fake(client, watch=shelf.watch):
        assert [left async for left in stock.watch("hat")] == [1, 2]


async def test_items_of_a_call_are_not_sent_as_an_argument() -> None:
    async with fake(client, watch=[1, 2], ping="pong"):
        with pytest.raises(InvalidArgument, match="`ResponseStream` can be read only once"):
            await client.raw_call("ping", stock.watch("hat"))


async def test_a_name_that_the_client_does_not_declare_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'reserve'"):
        fake(client, reserv=1)
    with pytest.raises(AttributeError, match="those with an answer: default/ping"):
        _ = fake(client, ping="pong").reserve


async def test_one_name_in_two_groups_needs_the_group() -> None:
    twice = Client("stock:9000")

    async def ping() -> str: ...  # type: ignore[empty-body]  # a declaration

    twice.register(group="a")(ping)
    twice.register(group="b")(ping)
    with pytest.raises(ValueError, match="name one as 'a/ping' or 'b/ping'"):
        fake(twice, ping="pong")
    async with fake(twice, {"a/ping": "a", "b/ping": "b"}):
        assert await twice.raw_call("ping", group="b") == "b"


async def test_a_call_without_an_answer_fails() -> None:
    async with fake(client, ping="pong") as fakes:
        with pytest.raises(Unimplemented, match="no fake answers Stock/reserve"):
            await stock.reserve(Order("hat"))
        assert fakes.unanswered == ["Stock/reserve"]


async def hide_errors() -> None:
    async with fake(client, ping="pong", strict=True):
        for _ in range(2):
            with pytest.raises(Unimplemented):
                await stock.reserve(Order("hat"))
        with pytest.raises(Unimplemented):
            await client.raw_call("audit")


async def test_strict_fakes_fail_the_test_although_the_code_hides_the_error() -> None:
    with pytest.raises(
        AssertionError, match=r"have no fake: Stock/reserve, default/audit; give each"
    ):
        await hide_errors()


async def test_an_error_of_the_test_is_not_hidden_by_strict_fakes() -> None:
    with pytest.raises(Unimplemented):
        async with fake(client, ping="pong", strict=True):
            await stock.reserve(Order("hat"))


async def test_a_slow_answer_takes_the_time_of_the_clock() -> None:
    clock = FakeClock()

    async def slowly(text: str) -> str:
        await clock.sleep(5)
        return text

    async with fake(client, ping=slowly, clock=clock):
        call = asyncio.create_task(ping("a"))
        await clock.advance(4.9)
        assert not call.done()
        await clock.advance(0.2)
        assert await call == "a"


def test_a_client_that_blocks_has_fakes_too() -> None:
    with fake(sync_client, ping="pong", numbers=[1, 2]) as fakes:
        assert sync_ping("a") == "pong"
        assert list(numbers()) == [1, 2]
        fakes.ping.assert_called_once_with("a")


async def test_each_kind_of_client_has_its_own_kind_of_block() -> None:
    with pytest.raises(TypeError, match="entered by `with`"):
        async with fake(sync_client, ping="pong"):
            pass
    with pytest.raises(TypeError, match="entered by `async with`"):
        with fake(client, ping="pong"):
            pass
