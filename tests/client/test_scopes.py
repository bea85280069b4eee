"""A processor's scope is entered and left exactly once, whatever way a call ends."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from rap.call import Call, Request, Response
from rap.client import Channel, Client
from rap.errors import Unavailable
from rap.processor.base import BaseProcessor
from rap.server import Channel as ServerChannel
from rap.server import Server
from tests.fake_clock import FakeClock
from tests.loopback import calling, eventually, expired, serving, within


class Scoped(BaseProcessor):
    """Records every scope and how it was left; at the end none may be open."""

    def __init__(self) -> None:
        self.inside = 0
        self.left: list[str] = []
        self.attempts: list[int] = []

    @contextmanager
    def _scope(self, call: Call) -> Any:
        self.inside += 1
        try:
            yield
        except BaseException as exc:
            self.left.append(type(exc).__name__)
            raise
        else:
            self.left.append("")
        finally:
            self.inside -= 1
            self.attempts.append(call.attempt)

    def scope(self, call: Call) -> AbstractContextManager[None]:
        scope: AbstractContextManager[None] = self._scope(call)
        return scope


class Failing(BaseProcessor):
    """Fails where it is told to."""

    def __init__(self, where: str) -> None:
        self._where = where

    def scope(self, call: Call) -> AbstractContextManager[None]:
        if self._where == "scope":
            raise ValueError("in scope")
        return super().scope(call)

    async def process_request(self, request: Request) -> Request:
        if self._where == "request":
            raise ValueError("in request")
        return request

    async def process_response(self, response: Response) -> Response:
        if self._where == "response":
            raise ValueError("in response")
        return response


async def fine() -> int:
    return 1


async def fail() -> int:
    raise ValueError("bad")


async def hang() -> None:
    await asyncio.Event().wait()


async def items(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i
    if n == 7:
        raise ValueError("bad")
    await asyncio.sleep(0)


async def echo(channel: ServerChannel) -> None:
    async for body in channel:
        await channel.write(body)


@pytest.fixture
def scoped() -> Scoped:
    return Scoped()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving(fine, fail, hang, items, echo) as server:
        yield server


@pytest.fixture
async def client(server: Server, scoped: Scoped) -> AsyncIterator[Client]:
    async with calling(server, processor_list=[scoped]) as client:
        yield client


async def all_items(client: Client, n: int) -> list[Any]:
    return [item async for item in client.iterator_call("items", n)]


async def first_item(client: Client, n: int) -> None:
    async for _ in client.iterator_call("items", n):
        return


async def close_item(client: Client, n: int) -> None:
    iterator = client.iterator_call("items", n)
    await anext(iterator)
    await iterator.aclose()
    await iterator.aclose()


async def talk(client: Client, error: Exception | None = None) -> Any:
    async def echo(channel: Channel) -> Any:
        await channel.write(1)
        if error is not None:
            raise error
        return await channel.read_body()

    stub: Any = client.register()(echo)
    return await stub()


@pytest.mark.parametrize(
    ("call", "left"),
    [
        (lambda client: client.raw_call("fine"), ""),
        (lambda client: client.raw_call("fail"), "ValueError"),
        (lambda client: client.raw_call("hang", timeout=0.02), "DeadlineExceeded"),
        (lambda client: all_items(client, 5), ""),
        (lambda client: all_items(client, 0), ""),
        (lambda client: all_items(client, 7), "ValueError"),
        (lambda client: first_item(client, 5), ""),
        (lambda client: close_item(client, 5), ""),
        (lambda client: client.iterator_call("hang", timeout=0.02).__anext__(), "DeadlineExceeded"),
        (talk, ""),
        (lambda client: talk(client, KeyError("own")), "KeyError"),
    ],
)
async def test_a_scope_is_left_once_with_the_outcome(
    client: Client, scoped: Scoped, call: Callable[[Client], Awaitable[Any]], left: str
) -> None:
    (outcome,) = await within(asyncio.gather(call(client), return_exceptions=True))
    assert not left or type(outcome).__name__ == left
    assert scoped.left == [left]
    assert scoped.inside == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.raw_call("hang"),
        lambda client: anext(client.iterator_call("hang")),
    ],
)
async def test_a_cancelled_call_leaves_its_scope(
    client: Client, scoped: Scoped, call: Callable[[Client], Awaitable[Any]]
) -> None:
    task = asyncio.ensure_future(call(client))
    await eventually(lambda: scoped.inside == 1)
    task.cancel()
    await asyncio.wait([task])
    assert scoped.left == ["CancelledError"]


async def test_an_iterator_that_was_never_asked_has_no_scope(
    client: Client, scoped: Scoped
) -> None:
    client.iterator_call("items", 5)
    iterator = client.iterator_call("items", 5)
    await iterator.aclose()
    assert scoped.left == []


async def test_a_call_that_finds_no_server_leaves_its_scope(scoped: Scoped) -> None:
    async with serving() as server:
        address = server.addresses[0]
    client = Client(address, processor_list=[scoped], connect_timeout=0.02, timeout=0.02)
    with pytest.raises(Unavailable):
        await client.connect()
    for call in (client.raw_call("fine"), anext(client.iterator_call("items", 5)), talk(client)):
        with pytest.raises(Unavailable):
            await call
    assert scoped.left == ["Unavailable"] * 3
    await client.await_close()


class Refusing(BaseProcessor):
    """Refuses the first requests."""

    def __init__(self, count: int) -> None:
        self._left = count

    async def process_request(self, request: Request) -> Request:
        if self._left:
            self._left -= 1
            raise Unavailable("not yet", unserved=True)
        return request


async def test_a_call_has_one_scope_whatever_its_attempts(scoped: Scoped) -> None:
    async with (
        serving(fine, items, processor_list=[Refusing(2)]) as server,
        calling(server, processor_list=[scoped]) as client,
    ):
        assert await client.raw_call("fine") == 1
        assert scoped.left == [""]
        assert scoped.attempts == [3]


@pytest.mark.parametrize("where", ["scope", "request", "response"])
@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_processor_that_fails_fails_the_call_and_nothing_else(
    where: str, side: str, scoped: Scoped
) -> None:
    processors = [scoped, Failing(where)]
    mine = {"processor_list": processors}
    theirs: dict[str, Any] = {}
    if side == "server":
        mine, theirs = theirs, mine
    async with serving(fine, items, **theirs) as server, calling(server, **mine) as client:
        for call in (client.raw_call("fine"), all_items(client, 3)):
            with pytest.raises(ValueError, match=f"in {where}"):
                await within(call)
        await eventually(lambda: scoped.inside == 0)
        assert scoped.left == ["ValueError"] * 2
        (node,) = client.cluster.nodes.values()
        assert (node.stats.in_flight, node.stats.open_streams) == (0, 0)


async def test_the_server_leaves_its_scope_when_the_client_gives_up(
    scoped: Scoped, clock: FakeClock
) -> None:
    async with (
        serving(hang, items, processor_list=[scoped]) as server,
        calling(server, clock=clock) as client,
    ):
        call = client.raw_call("hang", timeout=5.0)
        await expired(call, clock, 5.0, once=lambda: scoped.inside)
        await first_item(client, 1_000_000)
        await eventually(lambda: len(scoped.left) == 2)
        assert scoped.inside == 0


async def test_processors_see_messages_in_order_and_in_reverse() -> None:
    log: list[str] = []

    class Named(BaseProcessor):
        def __init__(self, name: str) -> None:
            self._name = name

        async def process_request(self, request: Request) -> Request:
            log.append(f"{self._name} request")
            return request

        async def process_response(self, response: Response) -> Response:
            log.append(f"{self._name} response")
            return response

        async def start_event_handle(self) -> None:
            log.append(f"{self._name} starts")

        def stop_event_handle(self) -> None:
            log.append(f"{self._name} stops")

    async with serving(fine, processor_list=[Named("s1"), Named("s2")]) as server:
        client = Client(server.addresses)
        client.load_processor([Named("c1"), Named("c2")])
        async with client:
            assert await client.raw_call("fine") == 1
            with pytest.raises(RuntimeError, match="before connect"):
                client.load_processor([Named("c3")])
    assert log == [
        *("s1 starts", "s2 starts"),
        *("c1 request", "c2 request", "s2 request", "s1 request"),
        *("s1 response", "s2 response", "c2 response", "c1 response"),
        *("s2 stops", "s1 stops"),
    ]


def test_a_processor_is_loaded_once() -> None:
    scoped = Scoped()
    with pytest.raises(ValueError, match="is loaded already"):
        Client(processor_list=[scoped, scoped])
    with pytest.raises(ValueError, match="is loaded already"):
        Server(processor_list=[scoped, scoped])


class Numbering(BaseProcessor):
    """Numbers messages in their header, each way."""

    def __init__(self) -> None:
        self.count = 0

    async def process_request(self, request: Request) -> Request:
        self.count += 1
        request.header["n"] = self.count
        return request

    async def process_response(self, response: Response) -> Response:
        self.count += 1
        response.header["n"] = self.count
        return response


@pytest.mark.parametrize("side", ["client", "server"])
async def test_processors_see_every_message_of_a_channel(side: str) -> None:
    processor = Numbering()
    here = {"processor_list": [processor]}
    options: list[dict[str, Any]] = [here, {}] if side == "client" else [{}, here]

    async def talk(channel: Channel) -> list[Any]:
        for body in ("a", "b", "c", "d"):
            await channel.write(body)
        first = await channel.read()
        rest = [await channel.read_body()]
        async for message in channel.iter_response():
            rest.append(message.body)
            if message.body == "c":
                break
        async for body in channel:
            rest.append(body)
            await channel.close()
        assert "n" in first.header
        return [first.body, *rest]

    async with serving(**options[1]) as server, calling(server, **options[0]) as client:
        server.register(echo, name="talk")
        stub: Any = client.register()(talk)
        assert await within(stub()) == ["a", "b", "c", "d"]
        assert processor.count == 9  # the opening, and four messages each way
