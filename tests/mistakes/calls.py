"""Mistakes in calls."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from rap import Channel, Client, Server, SyncClient, context
from rap.errors import CallError, Code, ConnectionClosed
from rap.testing import TestClient
from tests.loopback import LOOPBACK, eventually
from tests.mistakes.catalogue import Scene, mistake


def shop() -> Server:
    """Return a server with a function of each kind."""
    server = Server()

    @server.register
    async def add(a: int, b: int) -> int:
        return a + b

    @server.register
    async def count(n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i

    @server.register
    async def shout(channel: Channel) -> None:
        async for text in channel:
            await channel.write(text.upper())

    return server


@mistake(
    "a handler blocks the event loop",
    3,
    what="held the event loop",
    where="handler /default/resize",
    remedy="block in a thread: in a `def` handler, or by asyncio.to_thread",
)
async def blocked_loop(scene: Scene) -> Any:
    server = Server(LOOPBACK, block_threshold=0.1)

    @server.register
    async def resize() -> None:
        time.sleep(0.3)  # noqa: ASYNC251

    async with server, Client(server.addresses) as client:
        await client.raw_call("resize")
        await eventually(lambda: scene.logged("event loop"))
    return scene.log


@mistake(
    "a client declares the Channel[In, Out] of its server, and reads",
    3,
    what="expected `str`, got `int`",
    where="lengths(): message",
    remedy="swap In and Out on the client",
)
async def swapped_channel(scene: Scene) -> Any:
    server = Server()

    @server.register
    async def lengths(channel: Channel[str, int]) -> None:
        await channel.write(1)

    async with TestClient(server) as client:
        async with client.channel(lengths) as channel:
            await channel.read_body()


@mistake(
    "a handler raises: what the client sees",
    3,
    what="KeyError: coffee",
    where="/default/price raised it on inproc://server",
    remedy="whose log has the traceback",
)
async def handler_raises(scene: Scene) -> Any:
    server = Server()

    @server.register
    async def price(name: str) -> float:
        return {"tea": 2.5}[name]

    async with TestClient(server) as client:
        await client.raw_call("price", "coffee")


@mistake(
    "a handler raises: what the server logs",
    2,
    what="/default/price raised KeyError('coffee')",
    where="in price",
)
async def handler_raises_log(scene: Scene) -> Any:
    server = Server()

    @server.register
    async def price(name: str) -> float:
        return {"tea": 2.5}[name]

    async with TestClient(server) as client:
        try:
            await client.raw_call("price", "coffee")
        except KeyError:
            pass
    return scene.log


@mistake(
    "a handler raises an exception class of its own",
    3,
    what="OutOfStock: ('coffee', 0)",
    where="/default/price raised it",
    remedy="client.load_exception([OutOfStock])",
)
async def own_exception(scene: Scene) -> Any:
    class OutOfStock(Exception):
        def __init__(self, name: str, left: int) -> None:
            self.left = left

    server = Server()

    @server.register
    async def price(name: str) -> float:
        raise OutOfStock(name, 0)

    async with TestClient(server) as client:
        await client.raw_call("price", "coffee")


@mistake(
    "an error class of the contract is not loaded into the client",
    3,
    what="CallError: only 3 of 'hat' are left",
    where="/default/reserve raised SoldOut on",
    remedy="client.load_exception([SoldOut])",
)
async def error_not_loaded(scene: Scene) -> Any:
    class SoldOut(CallError):
        code = Code.FAILED_PRECONDITION

        def __init__(self, sku: str, left: int) -> None:
            super().__init__(f"only {left} of {sku!r} are left")
            self.sku = sku
            self.left = left

    server = Server()

    @server.register
    async def reserve(sku: str) -> int:
        raise SoldOut(sku, 3)

    async with TestClient(server) as client:
        await client.raw_call("reserve", "hat")


@mistake(
    "a parameter of an error class has no type hint",
    3,
    what="cannot be made of what arrives: parameter 'sku' of SoldOut.__init__ has no type hint",
    where="SoldOut",
    remedy="write one, such as `sku: str`, and keep the value as self.sku",
)
def untyped_error(scene: Scene) -> Any:
    class SoldOut(CallError):
        def __init__(self, sku) -> None:  # type: ignore[no-untyped-def]  # the mistake
            super().__init__(f"{sku} is sold out")
            self.sku = sku

    Client("localhost:9000").load_exception([SoldOut])


@mistake(
    "an error class does not keep what its constructor takes",
    3,
    what="it did not arrive as SoldOut: it came without 'sku'",
    where="SoldOut.__init__ on the server",
    remedy="has to keep it as self.sku",
)
async def error_without_attribute(scene: Scene) -> Any:
    class SoldOut(CallError):
        def __init__(self, sku: str) -> None:
            super().__init__(f"{sku} is sold out")

    server = Server()

    @server.register
    async def reserve(sku: str) -> int:
        raise SoldOut(sku)

    async with TestClient(server) as client:
        client.load_exception([SoldOut])
        await client.raw_call("reserve", "hat")


@mistake(
    "an error class that carries values is not derived from CallError",
    3,
    what="missing a required argument: 'left'",
    where="OutOfStock",
    remedy="class OutOfStock(CallError)",
)
def error_of_another_class(scene: Scene) -> Any:
    class OutOfStock(Exception):
        def __init__(self, sku: str, left: int) -> None:
            self.left = left

    Client("localhost:9000").load_exception([OutOfStock])


@mistake(
    "a call takes longer than its timeout",
    3,
    what="DeadlineExceeded",
    where="/default/slow",
    remedy="call it with a longer timeout=",
)
async def deadline_passed(scene: Scene) -> Any:
    server = Server()

    @server.register
    async def slow() -> None:
        await asyncio.Event().wait()

    async with TestClient(server) as client:
        await client.raw_call("slow", timeout=0.05)


@mistake(
    "a call takes longer than the run_timeout of the function",
    3,
    what="its run_timeout of <time> s passed while the handler was running",
    where="/default/slow",
    remedy="register the function with a longer run_timeout=",
)
async def run_timeout_passed(scene: Scene) -> Any:
    server = Server()

    @server.register(run_timeout=0.05)
    async def slow() -> None:
        await asyncio.Event().wait()

    async with TestClient(server) as client:
        await client.raw_call("slow")


@mistake(
    "an inner call takes longer than what is left of the outer deadline",
    3,
    what="/default/slow: ",
    where="the deadline of /default/outer left no more",
    remedy="call that with a longer timeout=",
)
async def inherited_deadline(scene: Scene) -> Any:
    back, front = Server(LOOPBACK), Server(LOOPBACK)

    @back.register
    async def slow() -> None:
        await asyncio.Event().wait()

    async with back, Client(back.addresses) as inner:

        @front.register
        async def outer() -> None:
            await inner.raw_call("slow", timeout=5)

        async with front, Client(front.addresses) as client:
            await client.raw_call("outer", timeout=0.2)


@mistake(
    "the result of a call is used without await",
    2,
    what="unsupported operand type(s) for +: 'coroutine'",
    where="add' was never awaited",
)
async def forgotten_await(scene: Scene) -> Any:
    async with TestClient(shop()) as client:

        @client.register
        async def add(a: int, b: int) -> int: ...  # type: ignore[empty-body]

        return add(1, 2) + 1  # type: ignore[operator]


@mistake(
    "the result of raw_call is used without await",
    2,
    what="'coroutine' object is not subscriptable",
    where="coroutine 'Client.raw_call' was never awaited",
)
async def forgotten_await_by_name(scene: Scene) -> Any:
    async with TestClient(shop()) as client:
        return client.raw_call("add", 1, 2)["x"]  # type: ignore[index]


@mistake(
    "a generator is called with await",
    3,
    what="answers with items",
    where="/default/count",
    remedy="use `async for`, not `await`",
)
async def awaited_generator(scene: Scene) -> Any:
    async with TestClient(shop()) as client:

        @client.register
        async def count(n: int) -> AsyncIterator[int]:
            yield 0

        await count(3)  # type: ignore[misc]


@mistake(
    "a generator is called by name with raw_call",
    3,
    what="a generator answers",
    where="/default/count",
    remedy="iterate over it, by iterator_call or a stub with `yield`",
)
async def generator_by_raw_call(scene: Scene) -> Any:
    async with TestClient(shop()) as client:
        await client.raw_call("count", 3)


@mistake(
    "a generator is iterated with a plain for",
    3,
    what="answers with items",
    where="/default/count",
    remedy="use `async for`, not `for`",
)
async def plain_for(scene: Scene) -> Any:
    async with TestClient(shop()) as client:

        @client.register
        async def count(n: int) -> AsyncIterator[int]:
            yield 0

        for _ in count(3):  # type: ignore[attr-defined]
            pass


@mistake(
    "a unary function is iterated",
    3,
    what="is not a generator",
    where="/default/add",
    remedy="call it instead",
)
async def iterated_unary(scene: Scene) -> Any:
    async with TestClient(shop()) as client:
        async for _ in client.iterator_call("add", 1, 2):
            pass


@mistake(
    "a stub of a unary function is iterated",
    2,
    what="'async for' requires an object with __aiter__ method, got coroutine",
    where="add' was never awaited",
)
async def iterated_stub(scene: Scene) -> Any:
    async with TestClient(shop()) as client:

        @client.register
        async def add(a: int, b: int) -> int: ...  # type: ignore[empty-body]

        async for _ in add(1, 2):  # type: ignore[attr-defined]
            pass


@mistake(
    "a channel function is called by name with raw_call",
    3,
    what="is a channel function",
    where="/default/shout",
    remedy="declare it with a parameter of type Channel",
)
async def channel_by_raw_call(scene: Scene) -> Any:
    async with TestClient(shop()) as client:
        await client.raw_call("shout")


@mistake(
    "a channel stub is given a channel",
    3,
    what="its channel is made for it",
    where="shout() takes no argument",
    remedy="call shout(), or declare further parameters",
)
async def channel_argument(scene: Scene) -> Any:
    async with TestClient(shop()) as client:

        @client.register
        async def shout(channel: Channel) -> None: ...

        await shout("hello")


@mistake(
    "a channel is read after it has ended",
    2,
    what="the peer closed the channel",
    where="/default/shout",
)
async def read_after_end(scene: Scene) -> Any:
    async with TestClient(shop()) as client, client.channel("shout") as channel:
        await channel.end()
        await channel.read_body()


@mistake(
    "a channel is written to after it was closed",
    2,
    what="this side closed the channel",
    where="/default/shout",
)
async def write_after_close(scene: Scene) -> Any:
    async with TestClient(shop()) as client, client.channel("shout") as channel:
        await channel.close()
        await channel.write("hello")


@mistake(
    "an argument is missing",
    3,
    what="missing a required argument",
    where="add()",
    remedy="expected add(a: int, b: int), got 1 by position",
)
async def missing_argument(scene: Scene) -> Any:
    async with TestClient(shop()) as client:
        await client.raw_call("add", 1)


@mistake(
    "an argument has a wrong name",
    3,
    what="missing a required argument",
    where="add()",
    remedy="expected add(a: int, b: int), got 1 by position and ['c']",
)
async def wrong_argument_name(scene: Scene) -> Any:
    async with TestClient(shop()) as client:
        await client.raw_call("add", a=1, c=2)


@mistake(
    "an argument has the wrong type",
    3,
    what="got `str`",
    where="add(): argument 'b'",
    remedy="expected `int`",
)
async def wrong_argument_type(scene: Scene) -> Any:
    async with TestClient(shop()) as client:
        await client.raw_call("add", 1, "2")


@mistake(
    "a call is made by a client that was never connected, in no event loop",
    3,
    what="no event loop runs here",
    where="<Client localhost:<port> not connected>",
    remedy="call it inside `async with client`, or use a SyncClient",
)
def call_before_loop(scene: Scene) -> Any:
    client = Client("localhost:9000")

    @client.register
    async def count(n: int) -> AsyncIterator[int]:
        yield 0

    count(3)


@mistake(
    "a call is made after `async with`",
    3,
    what="the client was closed",
    where="<Client inproc://",
    remedy="connect() it to use it again",
)
async def call_after_close(scene: Scene) -> Any:
    async with TestClient(shop()) as client:
        pass
    await client.raw_call("add", 1, 2)


@mistake(
    "a blocking client is used after `with`",
    3,
    what="the client was closed",
    where="<SyncClient inproc://",
    remedy="connect() it to use it again",
)
def sync_call_after_close(scene: Scene) -> Any:
    with TestClient(shop()) as client:
        pass
    client.raw_call("add", 1, 2)


@mistake(
    "a blocking client is used with `async with`",
    3,
    what="not by `async with`",
    where="a SyncClient is",
    remedy="with asyncio, use a Client",
)
async def sync_client_async_with(scene: Scene) -> Any:
    async with SyncClient("localhost:9000"):  # type: ignore[attr-defined]
        pass


@mistake(
    "a client is used with a plain `with`",
    3,
    what="not by `with`",
    where="a Client is",
    remedy="entered by `async with`",
)
def client_plain_with(scene: Scene) -> Any:
    with Client("localhost:9000"):  # type: ignore[attr-defined]
        pass


@mistake(
    "a server is used with a plain `with`",
    3,
    what="not by `with`",
    where="a Server is",
    remedy="entered by `async with`",
)
def server_plain_with(scene: Scene) -> Any:
    with Server("localhost:9000"):  # type: ignore[attr-defined]
        pass


@mistake(
    "a handler returns what its hint does not say",
    3,
    what="got `str`",
    where="price(): return value",
    remedy="expected `float`",
)
async def wrong_result(scene: Scene) -> Any:
    server = Server()

    @server.register
    async def price(name: str) -> float:
        return "2.5"  # type: ignore[return-value]

    async with TestClient(server) as client:
        await client.raw_call("price", "tea")


@mistake(
    "a handler returns a coroutine: it forgot an await",
    3,
    what="an object of type `coroutine` cannot be sent",
    where="price(): return value",
    remedy="await it first",
)
async def returned_coroutine(scene: Scene) -> Any:
    server = Server()

    async def lookup(name: str) -> float:
        return 1.0

    @server.register
    async def price(name: str) -> float:
        return lookup(name)  # type: ignore[return-value]

    async with TestClient(server) as client:
        await client.raw_call("price", "tea")


@mistake(
    "a generator yields what its hint does not say",
    3,
    what="got `str`",
    where="count(): item",
    remedy="expected `int`",
)
async def wrong_item(scene: Scene) -> Any:
    server = Server()

    @server.register
    async def count(n: int) -> AsyncIterator[int]:
        yield "one"  # type: ignore[misc]

    async with TestClient(server) as client:
        async for _ in client.iterator_call("count", 3):
            pass


@mistake(
    "a server is shut down while calls are open",
    3,
    what="1 call open on 1 connection: /default/slow; for up to 0.3 s",
    where="draining 127.0.0.1:<port>: ended 1 call open on 1 connection: /default/slow",
    remedy="option close_timeout",
)
async def silent_drain(scene: Scene) -> Any:
    server = Server(LOOPBACK, drain_delay=0, close_timeout=0.3)
    begun = asyncio.Event()

    @server.register
    async def slow() -> None:
        begun.set()
        await asyncio.Event().wait()

    async with server, Client(server.addresses) as client:
        call = asyncio.ensure_future(client.raw_call("slow"))
        await begun.wait()
        await server.close()
        await asyncio.wait([call])
    return scene.log


@mistake(
    "a server is shut down while calls are open: what the client sees",
    3,
    what="the server is shutting down",
    where="has ended /default/slow",
    remedy="option close_timeout",
)
async def drained_call(scene: Scene) -> Any:
    server = Server(LOOPBACK, drain_delay=0, close_timeout=0.1)
    begun = asyncio.Event()

    @server.register
    async def slow() -> None:
        begun.set()
        await asyncio.Event().wait()

    async with server, Client(server.addresses) as client:
        call = asyncio.ensure_future(client.raw_call("slow"))
        await begun.wait()
        await server.close()
        await call


@mistake(
    "the connection is lost during a call that is not idempotent",
    3,
    what="the call may have run",
    where="connection to 127.0.0.1:<port> lost",
    remedy="declared with idempotent=True",
)
async def lost_connection(scene: Scene) -> Any:
    server = Server(LOOPBACK)
    begun = asyncio.Event()

    @server.register
    async def buy() -> None:
        begun.set()
        await asyncio.Event().wait()

    async with server, Client(server.addresses) as client:
        call = asyncio.ensure_future(client.raw_call("buy"))
        await begun.wait()
        for conn in server.connection_manager.connections:
            conn.abort(ConnectionClosed("the cable was cut"))
        await call


@mistake(
    "the context is used outside of a handler",
    3,
    what="is available only while a handler runs",
    where="context.request",
    remedy="in a test, call the handler in `with rap.testing.handler_call():`",
)
def context_outside(scene: Scene) -> Any:
    return context.request


@mistake(
    "a middleware or client passes a header that is no dict",
    3,
    what="got 'tenant=acme'",
    where="header",
    remedy="must be a dict",
)
async def wrong_header(scene: Scene) -> Any:
    async with TestClient(shop()) as client:
        await client.raw_call("add", 1, 2, header="tenant=acme")  # type: ignore[arg-type]


@mistake(
    "a timeout is a timedelta",
    3,
    what="got datetime.timedelta(seconds=3)",
    where="timeout",
    remedy="must be a number of seconds or None",
)
async def timeout_type(scene: Scene) -> Any:
    from datetime import timedelta

    options: Any = {"timeout": timedelta(seconds=3)}
    async with TestClient(shop()) as client:
        await client.raw_call("add", 1, 2, **options)
