"""Request streams, results, headers and trailers pass the processors of both ends."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from rap.call import Call, Request, Response
from rap.client import Client
from rap.errors import CallError, InvalidArgument, NotFound, ResourceExhausted
from rap.processor.base import BaseProcessor
from rap.processor.compress import CompressProcessor
from rap.processor.limit import LimitProcessor, Rule
from rap.processor.metrics.prometheus import PrometheusMessageProcessor, PrometheusProcessor
from rap.server import Channel, Server, context
from tests.event_loops import nothing_goes_unnoticed
from tests.loopback import calling, inside, serving
from tests.processor.encrypted import KEY, KEY_ID, ClientCrypto, ServerCrypto

__all__ = ["nothing_goes_unnoticed"]


def note() -> None:
    context.set_header("h", "head")
    context.set_trailer("t", "tail")


async def total(name: str, rows: AsyncIterator[list[int]]) -> str:
    note()
    return f"{name} {sum([sum(row) async for row in rows])}"


async def echo(rows: AsyncIterator[list[int]]) -> AsyncIterator[list[int]]:
    note()
    async for row in rows:
        yield row


async def count(n: int) -> AsyncIterator[int]:
    note()
    for number in range(n):
        yield number


async def add(a: int) -> int:
    note()
    return a


async def fail(rows: AsyncIterator[list[int]]) -> int:
    note()
    raise NotFound("gone", details={"n": 1})


async def chat(channel: Channel, name: str) -> list[Any]:
    note()
    found = []
    async for body in channel:
        found.append(body)
        await channel.write(body)
    return [name, found]


FUNCTIONS = (total, echo, count, add, fail, chat)
Make = Callable[[], tuple[list[BaseProcessor], list[BaseProcessor]]]


def none() -> tuple[list[BaseProcessor], list[BaseProcessor]]:
    return [], []


def crypto() -> tuple[list[BaseProcessor], list[BaseProcessor]]:
    return [ClientCrypto(KEY_ID, KEY)], [ServerCrypto({KEY_ID: KEY})]


def compressed() -> tuple[list[BaseProcessor], list[BaseProcessor]]:
    return [CompressProcessor(1)], [CompressProcessor(1)]


def all_of_them() -> tuple[list[BaseProcessor], list[BaseProcessor]]:
    registry = CollectorRegistry()
    sides = []
    for last in (ClientCrypto(KEY_ID, KEY), ServerCrypto({KEY_ID: KEY})):
        side: list[BaseProcessor] = [PrometheusProcessor(registry)]
        sides.append([*side, PrometheusMessageProcessor(registry), CompressProcessor(1), last])
    return sides[0], sides[1]


@asynccontextmanager
async def pair(make: Make) -> AsyncIterator[tuple[Client, Server]]:
    ours, theirs = make()
    async with (
        serving(*FUNCTIONS, processor_list=theirs) as server,
        calling(server, processor_list=ours) as client,
    ):
        yield client, server


kinds = pytest.mark.parametrize("make", [none, crypto, compressed, all_of_them])
ROWS = [[n] * 100 for n in range(150)]


@kinds
async def test_a_request_stream_passes_the_processors(make: Make) -> None:
    async with pair(make) as (client, _):
        stub: Any = client.register()(total)
        call = stub.start("all", iter(ROWS))
        assert await call == f"all {sum(map(sum, ROWS))}"
        assert (call.header, call.trailer) == ({"h": "head"}, {"t": "tail"})


@kinds
async def test_both_directions_pass_the_processors(make: Make) -> None:
    async with pair(make) as (client, _):
        stub: Any = client.register()(echo)
        for rows in (ROWS, []):
            call = stub(rows)
            assert [row async for row in call] == rows
            assert (call.header, call.trailer) == ({"h": "head"}, {"t": "tail"})


@kinds
async def test_generators_and_unary_calls_have_header_and_trailer(make: Make) -> None:
    async with pair(make) as (client, _):
        for n in (0, 3):
            call: Any = client.register()(count)(n)
            assert [row async for row in call] == [*range(n)]
            assert (call.header, call.trailer) == ({"h": "head"}, {"t": "tail"})
        stub: Any = client.register()(add)
        started = stub.start(1)
        assert await started == 1
        assert (started.header, started.trailer) == ({"h": "head"}, {"t": "tail"})


@kinds
async def test_an_error_has_header_and_trailer(make: Make) -> None:
    async with pair(make) as (client, _):
        stub: Any = client.register()(fail)
        call = stub.start(ROWS)
        with pytest.raises(NotFound, match="gone") as caught:
            await call
        assert caught.value.details == {"n": 1}
        assert (call.header, call.trailer) == ({"h": "head"}, {"t": "tail"})


@kinds
async def test_arguments_and_the_result_of_a_channel_pass_the_processors(make: Make) -> None:
    async with pair(make) as (client, _):
        async with client.channel("chat", "me") as channel:
            for row in ROWS[:3]:
                await channel.write(row)
                assert await channel.read_body() == row
            assert await channel.result() == ["me", ROWS[:3]]
            assert (channel.header, channel.trailer) == ({"h": "head"}, {"t": "tail"})


async def test_a_server_whose_client_sends_batches_sees_each_item() -> None:
    class Watch(BaseProcessor):
        def __init__(self) -> None:
            self.seen: list[Any] = []

        async def process_request(self, request: Request) -> Request:
            self.seen.append(request.body)
            return request

        async def process_response(self, response: Response) -> Response:
            self.seen.append(("answer", response.body))
            return response

    watch = Watch()
    async with inside(total, processor_list=[watch]) as client:
        assert await client.register()(total)("x", [[1], [2]]) == "x 3"  # type: ignore[arg-type]
    assert watch.seen == [["x"], [1], [2], ("answer", "x 3")]


async def test_each_item_counts_for_a_limit() -> None:
    def key(request: Request) -> str:
        return request.method

    limit = LimitProcessor("memory://", [(key, Rule(second=1, max_token=3))])
    async with inside(total, processor_list=[limit]) as client:
        stub: Any = client.register()(total)
        assert await stub("x", [[1], [2]]) == "x 3"
        with pytest.raises(ResourceExhausted):
            await stub("x", [[1], [2]])


async def test_calls_of_request_streams_are_counted_by_their_type() -> None:
    registry = CollectorRegistry()
    async with inside(total, echo, processor_list=[PrometheusProcessor(registry)]) as client:
        assert await client.register()(total)("x", ROWS) is not None  # type: ignore[arg-type]
        stub: Any = client.register()(echo)
        assert [row async for row in stub(ROWS)] == ROWS
    for name, kind in (("total", "client_stream"), ("echo", "bidi")):
        labels = {"method": f"/default/{name}", "shape": kind, "code": "OK"}
        found = [
            sample.value
            for family in registry.collect()
            for sample in family.samples
            if sample.name == "rap_server_handled_total" and labels.items() <= sample.labels.items()
        ]
        assert found == [1.0], (name, found)


async def test_a_scope_is_around_a_call_with_a_request_stream() -> None:
    seen: list[str] = []

    class Scope(BaseProcessor):
        @contextmanager
        def scope(self, call: Call) -> Iterator[None]:
            seen.append(f"begin {call.stream_type.value}")
            yield
            seen.append("end")

    async with inside(total, processor_list=[Scope()]) as client:
        await client.register()(total)("x", [[1]])  # type: ignore[arg-type]
    assert seen == ["begin client_stream", "end"]


@kinds
async def test_a_function_that_answers_once_is_named_when_its_items_are_asked_for(
    make: Make,
) -> None:
    async def items(name: str, rows: AsyncIterator[list[int]]) -> AsyncIterator[str]:
        yield ""

    async def result(rows: AsyncIterator[list[int]]) -> list[int]:
        return []

    async with pair(make) as (client, _):
        stub: Any = client.register("total")(items)
        with pytest.raises(InvalidArgument, match="/total is a client-streaming function"):
            await anext(stub("all", ROWS[:2]))
        stub = client.register("echo")(result)
        with pytest.raises(CallError, match="ended the call without a response"):
            await stub([])
