"""Mistakes in the declaration and registration of functions."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from rap import Channel, Client, Server
from rap.testing import TestClient
from tests.mistakes.catalogue import Scene, mistake


class Engine:
    """Not known to msgpack, and it has no type hints."""

    def __init__(self, power):  # type: ignore[no-untyped-def]
        self.power = power


@mistake(
    "a parameter has no type hint",
    3,
    what="has no type hint",
    where="price(): parameter 'name'",
    remedy="write one, such as `name: int`",
)
def no_hint(scene: Scene) -> Any:
    async def price(name, count: int) -> float:  # type: ignore[no-untyped-def]
        return 1.0

    Server().register(price)


@mistake(
    "the result has no type hint",
    3,
    what="has no type hint",
    where="price(): return value",
    remedy="write one, such as `-> None`",
)
def no_result_hint(scene: Scene) -> Any:
    async def price(name: str):  # type: ignore[no-untyped-def]
        return 1.0

    Server().register(price)


@mistake(
    "a class with a method, and `self` without a hint, is registered from its class",
    3,
    what="has no type hint",
    where="price(): parameter 'self'",
    remedy="register an object of its class, or the class",
)
def method_of_a_class(scene: Scene) -> Any:
    class Shop:
        async def price(self, name: str) -> float:
            return 1.0

    Server().register(Shop.price)


@mistake(
    "a hint is a class that cannot be sent",
    3,
    what="cannot be sent",
    where="start(): parameter 'engine'",
    remedy="make it a dataclass, a TypedDict or a msgspec.Struct",
)
def unsendable_hint(scene: Scene) -> Any:
    async def start(engine: Engine) -> None: ...

    Server().register(start)


@mistake(
    "a hint is a name that does not exist",
    3,
    what="name 'Motor' is not defined",
    where="start(): parameter 'engine'",
    remedy="import it, or define it outside of functions and `if TYPE_CHECKING`",
)
def unknown_hint(scene: Scene) -> Any:
    async def start(engine: "Motor") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    Server().register(start)


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
    "two functions of one name are registered",
    3,
    what="is registered already",
    where="'price' is registered already in group 'default'",
    remedy="give one of the two another name= or group=",
)
def registered_twice(scene: Scene) -> Any:
    server = Server()

    async def price(name: str) -> float:
        return 1.0

    server.register(price)
    server.register(price)


@mistake(
    "a function is registered for a client as a `def`",
    3,
    what="needs an `async def` function",
    where="got plain_stub.<locals>.price",
    remedy="write `async def`, or register it with a SyncClient",
)
def plain_stub(scene: Scene) -> Any:
    def price(name: str) -> float:
        return 1.0

    register: Any = Client("localhost:9000").register
    register(price)


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
    "the result of a function is registered, not the function",
    3,
    what="got 1.0",
    where="register takes",
    remedy="to register a function, give it without calling it",
)
def registered_result(scene: Scene) -> Any:
    def price(name: str) -> float:
        return 1.0

    Server().register(price("tea"))


@mistake(
    "a class without methods is registered",
    3,
    what="has no public method",
    where="Shop has no",
    remedy="define a method whose name does not begin with '_'",
)
def empty_class(scene: Scene) -> Any:
    @Server().register
    class Shop: ...


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
    "a function with *args without a hint is registered",
    3,
    what="has no type hint",
    where="add(): parameter 'args'",
    remedy="write one, such as `args: int`",
)
def star_arguments(scene: Scene) -> Any:
    async def add(*args) -> int:  # type: ignore[no-untyped-def]
        return sum(args)

    Server().register(add)


@mistake(
    "a client binds an object instead of a class",
    3,
    what="got <tests.mistakes",
    where="bind takes a class",
    remedy="give the class: bind(Shop)",
)
def bound_object(scene: Scene) -> Any:
    class Shop:
        async def price(self, name: str) -> float: ...  # type: ignore[empty-body]

    Client("localhost:9000").bind(Shop())  # type: ignore[arg-type]


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
    "a server names a registry without a service",
    3,
    what="the name under which to register",
    where="registry",
    remedy="needs service",
)
def registry_without_service(scene: Scene) -> Any:
    Server("localhost:9000", registry="redis://localhost")


@mistake(
    "a client is given neither an address nor a service",
    3,
    what="where to find its servers",
    where="service='shop'",
    remedy="needs registry",
)
async def no_target(scene: Scene) -> Any:
    async with Client(service="shop"):
        pass


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
    "a channel function on the server is a generator",
    3,
    what="it has a Channel and a `yield`",
    where="chat()",
    remedy="send messages with `await channel.write(...)` instead",
)
def channel_generator(scene: Scene) -> Any:
    async def chat(channel: Channel) -> AsyncIterator[str]:
        yield "hello"

    Server().register(chat)


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
    "a function is declared on the client in another group",
    3,
    what="no function '/default/price'",
    where="there is one in the group 'shop'",
    remedy="pass group='shop'",
)
async def wrong_group(scene: Scene) -> Any:
    server = Server()

    @server.register(group="shop")
    async def price(name: str) -> float:
        return 1.0

    async with TestClient(server) as client:
        await client.raw_call("price", "tea")


@mistake(
    "the name of a function is misspelled",
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
    "a private function is called from another machine",
    2,
    what="no function '/default/secret'",
    where="on this server",
)
async def private_function(scene: Scene) -> Any:
    server = Server()

    @server.register(is_private=True)
    async def secret() -> int:
        return 1

    async with TestClient(server, client_host="203.0.113.9") as client:
        await client.raw_call("secret")


@mistake(
    "a processor is loaded while the server runs",
    3,
    what="was started",
    where="load_processor: <Server",
    remedy="call it before the server starts",
)
async def late_processor(scene: Scene) -> Any:
    from rap.processor.compress import CompressProcessor

    server = Server()
    async with TestClient(server):
        server.load_processor([CompressProcessor()])


@mistake(
    "the name of a function is given as a start event",
    3,
    what="got 'connect_database'",
    where="load_start_event",
    remedy="takes coroutines, async functions or functions",
)
def coroutine_event(scene: Scene) -> Any:
    Server().load_start_event(["connect_database"])  # type: ignore[list-item]


_ = asyncio
