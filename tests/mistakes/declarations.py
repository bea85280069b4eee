"""Mistakes in the declaration and registration of functions."""

import asyncio
from typing import Any

from rap import Client, Server
from rap.testing import TestClient
from tests.mistakes.catalogue import Scene, mistake


class Engine:
    """Not known to msgpack, and it has no type hints."""

    def __init__(self, power):  # type: ignore[no-untyped-def]
        self.power = power


@mistake(
    "the option of a function is misspelled on the server",
    3,
    what="has no option 'idempotant'",
    where="Server.register",
    remedy="did you mean 'idempotent'?",
)
def misspelled_server_option(scene: Scene) -> Any:
    async def start() -> None: ...

    options: Any = {"idempotant": True}
    Server().register(start, **options)


@mistake(
    "the option of a function is misspelled on the client",
    3,
    what="has no option 'idempotant'",
    where="Client.register",
    remedy="did you mean 'idempotent'?",
)
def misspelled_client_option(scene: Scene) -> Any:
    async def start() -> None: ...

    options: Any = {"idempotant": True}
    Client("localhost:9000").register(**options)(start)


@mistake(
    "an option of the server is misspelled",
    3,
    what="has no option 'close_timout'",
    where="Server",
    remedy="did you mean 'close_timeout'?",
)
def misspelled_option(scene: Scene) -> Any:
    Server("localhost:9000", close_timout=3)  # type: ignore[call-arg]


@mistake(
    "an option has a value of the wrong type",
    3,
    what="got '3'",
    where="timeout",
    remedy="must be a number of seconds or None",
)
def wrong_option_type(scene: Scene) -> Any:
    Client("localhost:9000", timeout="3")  # type: ignore[arg-type]


@mistake(
    "the weight of a server is 0",
    3,
    what="got 0",
    where="weight",
    remedy="must be an integer from 1 to 1000",
)
def zero_weight(scene: Scene) -> Any:
    Server("localhost:9000", service="shop", registry="memory://", weight=0)


@mistake(
    "the return type of a generator is the type of its items",
    3,
    what="got int",
    where="count(): return value",
    remedy="is declared as Iterator[...] or AsyncIterator[...]",
)
def generator_hint(scene: Scene) -> Any:
    async def count(n: int) -> int:  # type: ignore[misc]
        yield n

    Server().register(count)


@mistake(
    "a class whose constructor needs arguments is registered",
    3,
    what="missing 1 required positional argument: 'stock'",
    where="Shop() failed",
    remedy="register an object of the class",
)
def class_with_arguments(scene: Scene) -> Any:
    @Server().register
    class Shop:
        def __init__(self, stock: int) -> None:
            self.stock = stock

        async def left(self) -> int:
            return self.stock


@mistake(
    "a handler is registered with a union that cannot be told apart",
    3,
    what="cannot be told apart",
    where="feed(): parameter 'pet'",
    remedy="give each a required field that the other does not have",
)
def ambiguous_union(scene: Scene) -> Any:
    from dataclasses import dataclass

    @dataclass
    class Cat:
        name: str

    @dataclass
    class Dog:
        name: str

    async def feed(pet: Cat | Dog) -> None: ...

    Server().register(feed)


@mistake(
    "hedge is set without idempotent",
    3,
    what="a call may be served twice",
    where="hedge=0.1",
    remedy="needs idempotent=True",
)
def hedge_without_idempotent(scene: Scene) -> Any:
    @Client("localhost:9000").register(hedge=0.1)
    async def price(name: str) -> float: ...  # type: ignore[empty-body]


@mistake(
    "an address has no port",
    3,
    what="got 'localhost'",
    where="host_list",
    remedy="must be host:port",
)
def no_port(scene: Scene) -> Any:
    Client("localhost")


@mistake(
    "an address is a URL",
    3,
    what="unknown scheme 'http'",
    where="host_list",
    remedy="use host:port",
)
def http_url(scene: Scene) -> Any:
    Client("http://localhost:9000")


@mistake(
    "a function is declared on the client with other parameters than the server has",
    3,
    what="too many positional arguments",
    where="price()",
    remedy="expected price(name: str), got 2 by position",
)
async def other_parameters(scene: Scene) -> Any:
    server = Server()

    @server.register
    async def price(name: str) -> float:
        return 1.0

    async with TestClient(server) as client:

        @client.register(name="price")
        async def remote(name: str, count: int) -> float: ...  # type: ignore[empty-body]

        await remote("tea", 2)


@mistake(
    "a function is registered after an early client has called it",
    3,
    what="no function '/default/prise'",
    where="on this server",
    remedy="did you mean 'price'?",
)
async def misspelled_function(scene: Scene) -> Any:
    server = Server()

    @server.register
    async def price(name: str) -> float:
        return 1.0

    async with TestClient(server) as client:
        await client.raw_call("prise", "tea")


@mistake(
    "a coroutine object is given as start event",
    3,
    what="got 'connect_database'",
    where="load_start_event",
    remedy="takes coroutines, async functions or functions",
)
def coroutine_event(scene: Scene) -> Any:
    Server().load_start_event(["connect_database"])  # type: ignore[list-item]


_ = asyncio
