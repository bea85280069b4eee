"""Typed stubs of whole groups."""

import inspect
from collections.abc import AsyncIterator
from typing import Any, Protocol

import pytest

from rap import channel_method, idempotent, interface
from rap.client import Channel, Client
from rap.errors import InvalidArgument, RegistrationError, Unimplemented
from rap.server import Channel as ServerChannel
from rap.server import Server
from tests.loopback import calling, eventually, serving


class Store:
    """The service of the server."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}

    async def put(self, key: str, value: int = 1) -> None:
        self.values[key] = value

    async def keys(self) -> AsyncIterator[str]:
        for key in self.values:
            yield key

    async def follow(self, channel: ServerChannel) -> None:
        async for key in channel:
            await channel.write(self.values.get(key))

    @staticmethod
    async def version() -> int:
        return 3


class StoreApi(Protocol):
    """The interface that the client knows."""

    limit: int = 5

    async def put(self, key: str, value: int = 1) -> None:
        """Keep a value."""

    async def keys(self) -> AsyncIterator[str]:
        yield ""

    @staticmethod
    async def version() -> int:
        raise NotImplementedError


class Following:
    """A channel function may call the other methods of its object."""

    async def put(self, key: str, value: int = 1) -> None:
        raise NotImplementedError

    async def follow(self, channel: Channel) -> Any:
        await self.put("a", 9)
        await channel.write("a")
        return await channel.read_body()


@pytest.fixture
async def store() -> Store:
    return Store()


@pytest.fixture
async def server(store: Store) -> AsyncIterator[Server]:
    async with serving() as server:
        server.register(store)
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with calling(server) as client:
        yield client


async def test_all_methods_of_a_protocol_are_callable(client: Client, store: Store) -> None:
    api = client.bind(StoreApi, group="Store")
    await api.put("a", 2)
    await api.put("b")
    assert store.values == {"a": 2, "b": 1}
    assert [key async for key in api.keys()] == ["a", "b"]
    assert await api.version() == 3


async def test_the_group_is_the_name_of_the_class_by_default(client: Client) -> None:
    assert await client.bind(Store).version() == 3
    with pytest.raises(Unimplemented, match="/StoreApi/version"):
        await client.bind(StoreApi).version()


async def test_the_methods_keep_signature_and_docstring(client: Client) -> None:
    api = client.bind(StoreApi)
    assert str(inspect.signature(api.put)) == "(key: str, value: int = 1) -> None"
    assert api.put.__doc__ == "Keep a value."
    with pytest.raises(InvalidArgument, match="argument 'value'"):
        await api.put("a", "b")  # type: ignore[arg-type]  # the mistake


async def test_a_channel_method_has_the_stub_as_self(client: Client) -> None:
    follow: Any = client.bind(Following, group="Store").follow
    assert await follow() == 9


async def test_options_hold_for_all_methods(client: Client) -> None:
    api: Any = client.bind(StoreApi, group="Store", timeout=0.5, idempotent=True)
    assert api.put.__rap_method__.timeout == 0.5
    assert api.put.__rap_method__.idempotent
    await api.put("x", timeout=5)
    async with client.session as session:
        assert await session.execute(api.version()) == 3
    await eventually(lambda: client.cluster.ready)


class Empty:
    """Declares nothing."""

    async def _hidden(self) -> int:
        return 1


class NoHints:
    """Declares too little."""

    async def f(self, a):  # type: ignore[no-untyped-def]
        return a


def test_an_interface_without_methods_is_refused() -> None:
    client = Client()
    with pytest.raises(TypeError, match="declares no public method"):
        client.bind(Empty)
    no_class: Any = Empty()._hidden
    with pytest.raises(TypeError, match="bind takes a class or Protocol"):
        client.bind(no_class)
    with pytest.raises(RegistrationError, match=r"f\(\): parameter 'a' has no type hint"):
        client.bind(NoHints)


async def plain(n: int) -> int:
    return n


async def numbers(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i


async def talk(channel: ServerChannel, room: str) -> int:
    async for text in channel:
        await channel.write(f"{room}: {text}")
    return 7


class Plain(Protocol):
    async def plain(self, n: int) -> int: ...
    def numbers(self, n: int) -> AsyncIterator[int]: ...
    async def talk(self, channel: Channel[str, str], room: str) -> int: ...
    @channel_method
    async def greet(self, channel: Channel[str, str], room: str) -> str:
        await channel.write("hello")
        return await channel.read_body()


async def test_an_interface_of_functions_that_are_registered_without_a_group() -> None:
    async with serving(plain, numbers) as server, calling(server) as client:
        api = client.bind(Plain, group="default")
        assert await api.plain(3) == 3
        assert [n async for n in api.numbers(3)] == [0, 1, 2]


async def test_a_call_in_the_wrong_group_fails_with_what_to_write() -> None:
    async with serving(plain) as server, calling(server) as client:
        with pytest.raises(Unimplemented) as caught:
            await client.bind(Plain).plain(3)
        assert str(caught.value) == (
            "no function '/Plain/plain' on this server; there is one in the group 'default':"
            " pass group='default', as in client.bind(Plain, group='default')"
        )


async def test_a_class_of_the_server_is_found_by_an_interface_of_its_name() -> None:
    class Plain2:
        async def plain(self, n: int) -> int:
            return n + 1

    Plain2.__name__ = "Plain"
    async with serving() as server, calling(server) as client:
        server.register(Plain2)
        assert await client.bind(Plain).plain(3) == 4
        with pytest.raises(Unimplemented, match="in the group 'Plain': pass group='Plain'"):
            await client.bind(Plain, group="default").plain(3)


async def test_an_interface_may_name_its_group() -> None:
    @interface(group="default")
    class Named(Plain, Protocol): ...

    async with serving(plain) as server, calling(server) as client:
        server.register(plain, group="other")
        assert await client.bind(Named).plain(3) == 3
        assert client.bind(Named, group="other").plain.__rap_method__.path == "/other/plain"  # type: ignore[attr-defined]  # of stubs

        class Derived(Named): ...

        assert client.bind(Derived).plain.__rap_method__.path == "/default/plain"  # type: ignore[attr-defined]  # of stubs


@pytest.mark.parametrize("group", [None, "", 3])
def test_the_group_of_an_interface_is_a_name(group: Any) -> None:
    with pytest.raises(TypeError, match="group must be the name of a group"):
        interface(group=group)


def test_only_a_class_is_an_interface() -> None:
    declare: Any = interface(group="default")
    with pytest.raises(TypeError, match="interface is for classes"):
        declare(plain)


async def test_a_channel_of_an_interface_is_opened_by_the_client() -> None:
    async with serving(talk) as server, calling(server) as client:
        api = client.bind(Plain, group="default")
        async with client.channel(api.talk, "tea") as channel:
            await channel.write("hello")
            assert await channel.read_body() == "tea: hello"
            assert await channel.result() == 7


async def test_a_channel_method_is_called_without_its_channel() -> None:
    async with serving() as server, calling(server) as client:
        server.register(talk, name="greet")
        assert await client.bind(Plain, group="default").greet("tea") == "tea: hello"
        assert await client.bind(Plain, group="default").greet(room="tea") == "tea: hello"


class Rides(Protocol):
    @idempotent
    async def request(self, key: str) -> str: ...
    @idempotent
    def watch(self, key: str) -> AsyncIterator[str]: ...
    async def cancel(self, key: str) -> None: ...


class MoreRides(Rides, Protocol):
    async def request(self, key: str) -> str: ...


@pytest.mark.parametrize("declared", [Rides, MoreRides])
def test_the_functions_that_a_declaration_marks_are_idempotent(declared: type[Rides]) -> None:
    client = Client()
    client.bind(declared, group="Rides", hedge=0.1)
    found = {each.name: each for each in client.methods.declared.values()}
    assert {name for name, each in found.items() if each.idempotent} == {"request", "watch"}
    assert [name for name, each in found.items() if each.hedge is not None] == ["request"]


def test_a_declaration_may_be_idempotent_as_a_whole() -> None:
    client = Client()
    client.bind(Rides, idempotent=True)
    assert all(each.idempotent for each in client.methods.declared.values())


def test_nothing_is_hedged_that_may_run_only_once() -> None:
    with pytest.raises(ValueError, match="needs idempotent=True"):
        Client().bind(StoreApi, hedge=0.1)


def test_a_lone_function_may_be_marked() -> None:
    @idempotent
    async def request(key: str) -> str:
        raise NotImplementedError

    client, server = Client(), Server()
    client.register(request)
    server.register(request)
    assert [each.idempotent for each in client.methods.declared.values()] == [True]
    assert [each.idempotent for each in server.handlers if each.name == "request"] == [True]


def test_a_server_tells_what_its_declaration_marks() -> None:
    class Taxis(Rides):
        async def request(self, key: str) -> str:
            return key

        async def watch(self, key: str) -> AsyncIterator[str]:
            yield key

        async def cancel(self, key: str) -> None: ...

    server = Server()
    server.register(Taxis)
    marked = {each.name for each in server.handlers if each.idempotent and each.group == "Taxis"}
    assert marked == {"request", "watch"}


def test_only_functions_are_marked() -> None:
    mark: Any = idempotent
    with pytest.raises(TypeError, match=r"idempotent is for a function .*bind\(..., idempotent=T"):
        mark(Rides)
