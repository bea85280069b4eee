"""The order of hooks, private functions, and the ends and openings that processors see."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from rap.call import Call, Request, Response, Side, StreamType
from rap.client import Channel
from rap.errors import CallError
from rap.processor.base import BaseProcessor, Failure, Pipeline
from rap.server import Server
from tests.loopback import calling, inside, serving
from tests.processor.encrypted import remote


class Marked(BaseProcessor):
    """Puts its mark around whatever leaves its side, and takes it off what comes in."""

    def __init__(self, mark: str, side: Side) -> None:
        self.mark = mark
        self.side = side

    def _handle(self, body: Any, sender: Side) -> Any:
        if self.side is sender:
            return [self.mark, body]
        mark, inner = body
        assert mark == self.mark
        return inner

    async def process_request(self, request: Request) -> Request:
        request.body = self._handle(request.body, Side.CLIENT)
        return request

    async def process_response(self, response: Response) -> Response:
        response.body = self._handle(response.body, Side.SERVER)
        return response

    def process_error(self, call: Call, failure: Failure) -> Failure:
        code, message, details = failure
        if self.side is Side.SERVER:
            return code, self.mark + message, details
        assert message.startswith(self.mark)
        return code, message[len(self.mark) :], details

    def send_end(self, call: Call, body: Any) -> Any:
        return [self.mark, body]

    def receive_end(self, call: Call, body: Any) -> Any:
        if body is None or body[0] != self.mark:
            raise CallError(f"the end lacks {self.mark}")
        return body[1]


def marks(side: Side) -> list[BaseProcessor]:
    return [Marked(mark, side) for mark in "abc"]


async def double(n: int) -> int:
    return 2 * n


async def count(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i


async def fail(text: str) -> None:
    raise ValueError(text)


async def echo(channel: Channel) -> None:
    async for body in channel:
        await channel.write(body)


async def say(channel: Channel) -> Any:
    await channel.write("hello")
    return await channel.read_body()


async def test_the_same_list_on_both_ends_mirrors_itself() -> None:
    async with serving(double, count, fail, echo, processor_list=marks(Side.SERVER)) as server:
        async with calling(server, processor_list=marks(Side.CLIENT)) as client:
            assert await client.raw_call("double", 4) == 8
            assert [i async for i in client.iterator_call("count", 3)] == [0, 1, 2]
            assert await remote(client, "echo", say)() == "hello"
            with pytest.raises(ValueError, match=r"^text\n/default/fail raised it on"):
                await client.raw_call("fail", "text")


async def test_an_end_without_what_a_processor_sends_is_refused() -> None:
    async with serving(count, echo, processor_list=marks(Side.SERVER)[:2]) as server:
        async with calling(server, processor_list=marks(Side.CLIENT)[:2]) as client:
            # As if its processors refused what came with END, and took it for no message either.
            pipeline, pass_message = client.invoker.pipeline, client.invoker.pipeline.response
            refused: list[bytes | memoryview] = []

            def refuse(call: Call, body: bytes | memoryview) -> None:
                refused.append(body)
                raise CallError(f"refused {len(body)} bytes")

            async def pass_items(response: Response) -> Response:
                if refused:
                    raise CallError("no message")
                return await pass_message(response)

            pipeline.receive_end = refuse  # type: ignore[method-assign]
            pipeline.response = pass_items
            with pytest.raises(CallError, match="refused"):
                assert [i async for i in client.iterator_call("count", 2)] == []


class Seen(BaseProcessor):
    def __init__(self) -> None:
        self.bodies: list[Any] = []

    async def process_request(self, request: Request) -> Request:
        self.bodies.append(request.body)
        return request


async def test_a_processor_sees_the_opening_of_a_channel_as_a_message_without_body() -> None:
    here, there = Seen(), Seen()
    async with serving(echo, processor_list=[there]) as server:
        async with calling(server, processor_list=[here]) as client:
            assert await remote(client, "echo", say)() == "hello"
    assert here.bodies == there.bodies == [None, "hello"]


async def test_a_channel_can_be_refused_before_its_function_runs() -> None:
    began = []

    class Refusing(BaseProcessor):
        async def process_request(self, request: Request) -> Request:
            raise CallError("not today")

    async def begin(channel: Any) -> None:
        began.append(channel)

    begin.__annotations__["channel"] = Channel
    async with inside(begin, processor_list=[Refusing()]) as client:
        with pytest.raises(CallError, match="not today"):
            await remote(client, "begin", say)()
    assert began == []


class Batches(BaseProcessor):
    def __init__(self) -> None:
        self.seen: list[tuple[Any, Any]] = []

    async def process_response(self, response: Response) -> Response:
        self.seen.append((response.header.get(":batch"), response.body))
        return response


async def test_a_processor_of_a_client_knows_a_batch_of_items_by_its_header() -> None:
    batches = Batches()
    async with serving(count, double) as server:
        async with calling(server, processor_list=[batches]) as client:
            assert [i async for i in client.iterator_call("count", 3)] == [0, 1, 2]
            assert await client.raw_call("double", 1) == 2
    assert batches.seen == [(True, [0, 1, 2]), (None, 2)]


# Private functions.


class Telling(BaseProcessor):
    def __init__(self) -> None:
        self.register(self.tell)

    async def tell(self) -> str:
        return "told"

    async def start_event_handle(self) -> None:
        self.register(self.tell, "late", "other")


async def test_a_processor_registers_private_functions_when_made_and_when_started() -> None:
    async with serving(processor_list=[Telling()]) as server, calling(server) as client:
        assert await client.raw_call("tell", group="Telling") == "told"
        assert await client.raw_call("late", group="other") == "told"
        assert all(each.is_private for each in server.handlers if each.name in ("tell", "late"))


def test_the_functions_of_a_processor_on_a_client_are_nobodys() -> None:
    assert len(Telling().take_private_functions()) == 1
    assert BaseProcessor().take_private_functions() == []


def test_two_processors_cannot_register_one_name() -> None:
    with pytest.raises(Exception, match="'tell' is registered already"):
        Server("127.0.0.1:0", processor_list=[Telling(), Telling()])


# A pipeline alone.


def test_a_pipeline_of_nothing_is_empty() -> None:
    for processors in ([], [BaseProcessor()]):
        pipeline = Pipeline(processors, Side.CLIENT)
        assert pipeline.empty
        call = Call("/g/f", StreamType.STREAM, Side.CLIENT, {})
        assert pipeline.send_end(call) == b""
        pipeline.receive_end(call, b"")
        assert pipeline.error(call, (2, "text", {})) == (2, "text", {})


@pytest.mark.parametrize("hook", ["process_error", "send_end", "process_request", "scope"])
def test_a_pipeline_with_any_hook_is_not_empty(hook: str) -> None:
    kind = type("Hooked", (BaseProcessor,), {hook: lambda self, *args: None})
    assert not Pipeline([kind()], Side.CLIENT).empty
