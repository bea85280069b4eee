"""Client-streaming and bidirectional functions, called by a peer that knows only the protocol."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from rap.call import Request
from rap.errors import CallError, InvalidArgument, RegistrationError
from rap.processor import BaseProcessor
from rap.server import Server, context
from rap.server.middleware import BaseMsgMiddleware
from tests.event_loops import nothing_goes_unnoticed
from tests.loopback import PATIENCE, eventually, serving
from tests.wire.independent import DATA, MESSAGE, Call, Failed, Peer

__all__ = ["nothing_goes_unnoticed"]


@dataclass
class Row:
    n: int


async def total(name: str, rows: AsyncIterator[Row], *, factor: int = 1) -> str:
    return f"{name}: {factor * sum([row.n async for row in rows])}"


async def first(numbers: AsyncIterator[int]) -> int:
    return await anext(numbers)


async def doubled(numbers: AsyncIterator[int]) -> AsyncIterator[int]:
    async for number in numbers:
        yield 2 * number


async def two(numbers: AsyncIterator[int]) -> AsyncIterator[int]:
    yield 1
    yield await anext(numbers)


def plain_total(numbers: Iterator[int]) -> int:
    return sum(numbers)


def plain_doubled(numbers: Iterator[int]) -> Iterator[int]:
    for number in numbers:
        yield 2 * number


class Gate:
    """A handler that reads when it is told to, and says how it ended."""

    def __init__(self) -> None:
        self.entered, self.open = asyncio.Event(), asyncio.Event()
        self.error: BaseException | None = None

    async def wait(self, blobs: AsyncIterator[bytes]) -> int:
        self.entered.set()
        try:
            await self.open.wait()
            return sum([len(blob) async for blob in blobs])
        except BaseException as exc:
            self.error = exc
            raise


FUNCTIONS = (total, first, doubled, two, plain_total, plain_doubled)


@asynccontextmanager
async def talking(*functions: Any, **options: Any) -> AsyncIterator[Peer]:
    """Connect the independent client to a server."""
    async with serving(*(functions or FUNCTIONS), **options) as server:
        async with connected(server) as peer:
            yield peer


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[Peer]:
    host, port = str(server.addresses[0]).removeprefix("tcp://").split(":")
    async with await Peer.connect(host, int(port), abilities=["outcome"]) as peer:
        async with asyncio.timeout(10):
            yield peer


async def opened(peer: Peer, name: str, *arguments: Any, **options: Any) -> Call:
    return await peer.open(f"/default/{name}", list(arguments), end=False, **options)


async def test_a_server_says_that_it_knows_the_outcome_of_calls() -> None:
    async with talking() as peer:
        assert (await peer.greeted())["abilities"] == ["outcome"]


async def test_items_come_one_by_one_or_in_batches_until_the_end() -> None:
    async with talking() as peer:
        call = await opened(peer, "total", "sum")
        await call.send({"n": 1})
        await call.send([{"n": 2}, {"n": 3}], batch=True)
        await call.send({"n": 4})
        await call.end()
        assert await call.receive() == "sum: 10"
        assert call.done


async def test_the_end_may_come_with_the_last_items() -> None:
    async with talking() as peer:
        call = await peer.open(
            "/default/total", {"args": ["sum"], "kwargs": {"factor": 2}}, end=False
        )
        await call.send([{"n": 2}, {"n": 3}], batch=True, end=True)
        assert await call.receive() == "sum: 10"
        call = await opened(peer, "total", "one")
        await call.send({"n": 2}, end=True)
        assert await call.receive() == "one: 2"


async def test_a_stream_of_requests_may_be_empty() -> None:
    async with talking() as peer:
        call = await opened(peer, "total", "none")
        await call.end()
        assert await call.receive() == "none: 0"
        call = await opened(peer, "doubled")
        await call.end()
        assert await call.rest() == []


async def test_everything_may_come_in_one_packet() -> None:
    async with talking() as peer:
        await peer.greeted()
        sent = peer.new_call()
        for frame in (
            (1, 1, b"\x92\xae/default/total\x00", b"\x91\xa1x"),  # Open, MESSAGE
            (0, 1, b"", b"\x81\xa1n\x05"),
            (0, 4, b"", b""),
        ):
            kind, flags, meta, body = frame
            size = len(meta) + len(body)
            head = size.to_bytes(4, "big") + bytes((kind, flags))
            head += sent.stream.to_bytes(4, "big") + len(meta).to_bytes(2, "big")
            peer.write(head + meta + body)
        sent.we_ended = True
        assert await sent.receive() == "x: 5"


async def test_responses_come_before_the_requests_have_ended() -> None:
    async with talking() as peer:
        for name in ("doubled", "plain_doubled"):
            call = await opened(peer, name)
            for number in range(3):
                await call.send(number)
                assert await call.receive() == 2 * number
            await call.end()
            assert await call.rest() == []
            assert call.done


async def test_requests_may_end_before_a_response_is_read() -> None:
    async with talking() as peer:
        call = await opened(peer, "doubled")
        await call.send([1, 2, 3], batch=True, end=True)
        assert await call.rest() == [2, 4, 6]


async def test_a_def_reads_its_requests_in_a_thread() -> None:
    threads = []

    def where(numbers: Iterator[int]) -> int:
        threads.append(threading.current_thread())
        return sum(numbers)

    async with talking(where) as peer:
        call = await opened(peer, "where")
        for number in range(200):
            await call.send(number)
        await call.end()
        assert await call.receive() == sum(range(200))
    assert threads != [threading.main_thread()]


@pytest.mark.parametrize("name", ["first", "two"])
async def test_a_client_is_told_to_stop_when_the_server_has_answered(name: str) -> None:
    async with talking() as peer:
        call = await opened(peer, name)
        await call.send([7, 8, 9], batch=True)
        assert await call.rest() in ([7], [1, 7])
        while not call.done:
            await peer.read()
        assert call.stopped
        assert call.failure is None


async def test_items_that_were_not_read_give_their_credit_back() -> None:
    async with talking(first, stream_window=64 * 1024, connection_window=64 * 1024) as peer:
        for _ in range(20):
            call = await opened(peer, "first")
            await call.send([1, *range(3000)], batch=True)
            await call.send([1, *range(3000)], batch=True)
            assert await call.receive() == 1
            while not call.done:
                await peer.read()


async def test_a_handler_that_does_not_read_holds_its_client_back() -> None:
    gate = Gate()
    async with talking(gate.wait, stream_window=64 * 1024) as peer:
        call = await opened(peer, "wait")

        async def fill() -> None:
            for _ in range(50):
                await call.send(bytes(10_000))
            await call.end()

        filling = asyncio.create_task(fill())
        await gate.entered.wait()
        await eventually(lambda: call.may_send < 10_000)
        assert not filling.done()
        gate.open.set()
        await filling
        assert await call.receive() == 500_000


async def test_a_cancelled_call_cancels_its_handler() -> None:
    gate = Gate()
    async with talking(gate.wait) as peer:
        call = await opened(peer, "wait")
        await call.send(b"one")
        await gate.entered.wait()
        await call.reset(1)
        await eventually(lambda: gate.error is not None)
        assert isinstance(gate.error, asyncio.CancelledError)


async def test_a_client_that_is_lost_ends_the_loop_of_a_thread() -> None:
    errors: list[BaseException] = []
    reading = threading.Event()

    def read(numbers: Iterator[int]) -> int:
        try:
            for _ in numbers:
                reading.set()
        except BaseException as exc:
            errors.append(exc)
            raise
        return 0

    async with serving(read) as server:
        async with connected(server) as peer:
            call = await opened(peer, "read")
            await call.send(1)
            await eventually(reading.is_set)
        await eventually(lambda: bool(errors))
        assert isinstance(errors[0], CallError)


@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "stopped, then closed"])
def test_a_thread_that_outlives_the_event_loop_gets_an_error(is_closed: bool) -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def read(numbers: Iterator[int]) -> int:
        next(numbers)
        begun.set()
        assert go_on.wait(PATIENCE)
        try:
            next(numbers)
        except BaseException as exc:
            errors.append(exc)
        ended.set()
        return 0

    async def main() -> None:
        async with serving(read, close_timeout=0.01) as server, connected(server) as peer:
            call = await opened(peer, "read")
            await call.send(1)
            await eventually(begun.is_set)

    class Told(asyncio.SelectorEventLoop):
        """Says when a thread has asked for something that the loop will not do."""

        asked = threading.Event()

        def call_soon_threadsafe(self, *args: Any, **options: Any) -> asyncio.Handle:  # type: ignore[override]
            handle = super().call_soon_threadsafe(*args, **options)
            if go_on.is_set():
                self.asked.set()
            return handle

    loop = Told()
    loop.run_until_complete(main())
    if is_closed:
        loop.close()
        go_on.set()
    else:
        go_on.set()
        assert loop.asked.wait(PATIENCE)
        loop.close()
    assert ended.wait(PATIENCE)
    assert [str(error) for error in errors] == ["the server has stopped"]


async def test_a_deadline_ends_a_call_that_waits_for_requests() -> None:
    gate = Gate()
    gate.open.set()
    async with talking(gate.wait) as peer:
        call = await opened(peer, "wait", timeout_ms=50)
        with pytest.raises(Failed) as caught:
            await call.receive()
        assert caught.value.code == 4
        await eventually(lambda: gate.error is not None)


async def test_a_function_may_have_a_time_limit_for_its_stream() -> None:
    gate = Gate()
    gate.open.set()
    async with serving() as server:
        server.register(gate.wait, run_timeout=0.05)
        async with connected(server) as peer:
            call = await opened(peer, "wait")
            with pytest.raises(Failed, match=r"its run_timeout of 0\.05 s passed"):
                await call.receive()


async def test_a_lost_client_cancels_the_handler() -> None:
    gate = Gate()
    async with serving(gate.wait) as server:
        async with connected(server) as peer:
            await opened(peer, "wait")
            await gate.entered.wait()
        await eventually(lambda: gate.error is not None)


@pytest.mark.parametrize(
    ("items", "batch", "message"),
    [
        ([{"n": 1}, {"n": "x"}], False, "total(): item 2 of 'rows': expected `int`, got `str`"),
        ([{"n": 1}, {"n": "x"}], True, "total(): item 2 of 'rows': expected `int`, got `str`"),
        ([], True, "total(): a batch of items is empty"),
    ],
)
async def test_a_wrong_item_fails_the_call(items: list[Any], batch: bool, message: str) -> None:
    async with talking() as peer:
        call = await opened(peer, "total", "x")
        if batch:
            await call.send(items, batch=True, end=True)
        else:
            for item in items:
                await call.send(item)
        with pytest.raises(Failed) as caught:
            await call.receive()
        assert caught.value.code == 3
        assert caught.value.message.startswith(message)


@pytest.mark.parametrize(
    ("meta", "why"), [(b"\x91\x01", "it must be a map, got list"), (b"\xc1", "")]
)
async def test_an_item_with_a_header_that_cannot_be_read_fails_the_call(
    meta: bytes, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Reading(BaseProcessor):
        async def process_request(self, request: Request) -> Request:
            return request

    async with talking(processor_list=[Reading()]) as peer:
        call = await opened(peer, "first")
        await peer.send_message(call, DATA, MESSAGE, meta, b"\x01")
        with pytest.raises(Failed) as caught:
            await call.receive()
    assert caught.value.code == 3
    assert caught.value.message.startswith(f"first(): the header of an item is malformed: {why}")
    assert not caplog.messages  # it is the fault of the client


async def test_a_handler_reads_on_after_a_wrong_item() -> None:
    async def lenient(numbers: AsyncIterator[int]) -> list[int | str]:
        found: list[int | str] = []
        while True:
            try:
                found.append(await anext(numbers))
            except InvalidArgument:
                found.append("wrong")
            except StopAsyncIteration:
                return found

    async with talking(lenient) as peer:
        call = await opened(peer, "lenient")
        await call.send([1, "two", 3], batch=True)
        await call.send("four", end=True)
        assert await call.receive() == [1, "wrong", 3, "wrong"]


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("total", {}, "is a client-streaming function"),
        ("doubled", {}, "is a bidirectional function"),
    ],
)
async def test_another_stream_type_is_refused(
    name: str, options: dict[str, Any], text: str
) -> None:
    async with talking() as peer:
        for call in (
            await peer.open(f"/default/{name}", ["x"]),
            await peer.open(f"/default/{name}", end=False),
        ):
            with pytest.raises(Failed) as caught:
                await call.receive()
            assert caught.value.code == 3
            assert text in caught.value.message


async def test_arguments_beside_the_stream_are_checked() -> None:
    async with talking() as peer:
        call = await opened(peer, "total", 3)
        with pytest.raises(Failed) as caught:
            await call.receive()
        assert "argument 'name'" in caught.value.message


async def plain_async(numbers: AsyncIterator[int]) -> int:
    return 0


def wrong_def(numbers: AsyncIterator[int]) -> int:
    return 0


@pytest.mark.parametrize(
    ("func", "options", "message"),
    [
        (wrong_def, {}, "declare 'numbers' as Iterator"),
        (plain_total, {"inline": True}, "'numbers' is a stream"),
        (plain_async, {"inline": True}, "inline=True is for `def` functions"),
    ],
)
def test_a_server_refuses_a_stream_that_its_function_could_not_read(
    func: Callable[..., Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RegistrationError, match=message):
        Server().register(func, **options)


async def test_message_middleware_wraps_a_client_streaming_call() -> None:
    seen: list[Any] = []

    class Watch(BaseMsgMiddleware):
        async def dispatch(
            self, request: Any, call_id: int, func: Any, param: list[Any]
        ) -> tuple[int, Any]:
            seen.append((request.body, len(param), hasattr(param[1], "__aiter__")))
            call_id, result = await self.call_next(request, call_id, func, param)
            return call_id, f"<{result}>"

        def answered(self, answer: Any) -> None:
            seen.append((answer.error, answer.request_size))

    async with talking(middleware_list=[Watch()]) as peer:
        call = await opened(peer, "total", "x")
        await call.send({"n": 3}, end=True)
        assert await call.receive() == "<x: 3>"
        await eventually(lambda: len(seen) == 2)
        assert seen == [(["x"], 2, True), (None, 3 + 4)]


async def test_context_tells_arguments_without_the_stream() -> None:
    async def tell(name: str, numbers: AsyncIterator[int]) -> list[Any]:
        return [context.request.body, context.call.stream_type.value]

    async with talking(tell) as peer:
        call = await opened(peer, "tell", "x")
        await call.end()
        assert await call.receive() == [["x"], "client_stream"]


async def test_a_drain_waits_for_a_call_that_still_sends() -> None:
    async with serving(total, close_timeout=10) as server:
        async with connected(server) as peer:
            call = await opened(peer, "total", "x")
            await call.send({"n": 1})
            await peer.ping()
            stopping = asyncio.create_task(server.await_closed())
            while not peer.goaways:
                await peer.read()
            await call.send({"n": 2}, end=True)
            assert await call.receive() == "x: 3"
            peer.close()
            await stopping
