"""Values that cannot be sent."""

from io import StringIO
from typing import Any

from rap import Client, Server
from rap.testing import TestClient
from tests.mistakes.catalogue import Scene, mistake


def store() -> Server:
    """Return a server that takes anything."""
    server = Server(max_message=100_000)

    @server.register
    async def put(value: Any) -> None: ...

    @server.register
    async def add(a: int, b: int) -> int:
        return a + b

    @server.register
    async def sizes(values: dict[str, float]) -> int:
        return len(values)

    return server


async def _put(value: object) -> Any:
    async with TestClient(store()) as client:
        await client.raw_call("put", value)


class Basket:
    """An object of the user's own."""


@mistake(
    "an integer has more than 64 bits",
    3,
    what="can't serialize ints",
    where="/default/add: arguments",
    remedy="send a larger one as a str",
)
async def large_integer(scene: Scene) -> Any:
    async with TestClient(store()) as client:
        await client.raw_call("add", 2**64, 1)


@mistake(
    "an integer has more than 64 bits, for a stub",
    3,
    what="can't serialize ints",
    where="add(): argument 'a'",
    remedy="send a larger one as a str",
)
async def large_integer_of_stub(scene: Scene) -> Any:
    async with TestClient(store()) as client:

        @client.register
        async def add(a: int, b: int) -> int: ...  # type: ignore[empty-body]

        await add(2**64, 1)


@mistake(
    "a result has more than 64 bits",
    3,
    what="can't serialize ints",
    where="add(): return value",
    remedy="send a larger one as a str",
)
async def large_result(scene: Scene) -> Any:
    async with TestClient(store()) as client:
        await client.raw_call("add", 2**63, 2**63)


@mistake(
    "an object of a class is an argument",
    3,
    what="an object of type `Basket` cannot be sent",
    where="/default/put: arguments",
    remedy="send a dict, a dataclass or a msgspec.Struct instead",
)
async def sent_object(scene: Scene) -> Any:
    await _put(Basket())


@mistake(
    "a lambda is an argument",
    3,
    what="an object of type `function` cannot be sent",
    where="/default/put: arguments",
    remedy="send a dict, a dataclass or a msgspec.Struct instead",
)
async def sent_function(scene: Scene) -> Any:
    await _put(lambda: 1)


@mistake(
    "an open file is an argument",
    3,
    what="an object of type `StringIO` cannot be sent",
    where="/default/put: arguments",
    remedy="read it, and send what it holds",
)
async def sent_file(scene: Scene) -> Any:
    with StringIO("data") as file:
        await _put({"file": file})


@mistake(
    "a dict with int keys is an argument for dict[str, float]",
    3,
    what="got `int`",
    where="sizes(): argument 'values'",
    remedy="expected `str`",
)
async def int_keys(scene: Scene) -> Any:
    async with TestClient(store()) as client:
        await client.raw_call("sizes", {1: 2.0})


@mistake(
    "a coroutine is an argument: it forgot an await",
    3,
    what="an object of type `coroutine` cannot be sent",
    where="/default/put: arguments",
    remedy="await it first",
)
async def sent_coroutine(scene: Scene) -> Any:
    async def price() -> float:
        return 1.0

    await _put(price())


@mistake(
    "an argument is larger than max_message of the server",
    3,
    what="the message has 200006 bytes",
    where="the receiver's max_message is 100000",
    remedy="send it in parts, or raise that option there",
)
async def large_argument(scene: Scene) -> Any:
    await _put(b"x" * 200_000)


@mistake(
    "a result is larger than max_message of the client",
    3,
    what="the message has 200005 bytes",
    where="the receiver's max_message is 100000",
    remedy="send it in parts, or raise that option there",
)
async def large_answer(scene: Scene) -> Any:
    server = Server()

    @server.register
    async def image() -> bytes:
        return b"x" * 200_000

    async with TestClient(server, max_message=100_000) as client:
        await client.raw_call("image")


@mistake(
    "an argument contains itself",
    3,
    what="nested too deep, or in itself",
    where="/default/put: arguments",
    remedy="send a flat value",
)
async def circular(scene: Scene) -> Any:
    value: list[Any] = []
    value.append(value)
    await _put(value)


@mistake(
    "text has a lone surrogate",
    3,
    what="surrogates not allowed",
    where="/default/put: arguments",
    remedy="send bytes, or a str that UTF-8 can encode",
)
async def surrogate(scene: Scene) -> Any:
    await _put("caf\udce9")


_ = Client
