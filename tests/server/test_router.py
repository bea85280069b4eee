"""Registration of functions, and objects that cannot be registered."""

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Protocol, TypedDict
from uuid import UUID

import pytest

from rap.address import Peer
from rap.client import Client
from rap.errors import CallError, InvalidArgument, RegistrationError, Unimplemented
from rap.server import Channel, Server, context
from rap.server.processor import CryptoProcessor
from tests.loopback import calling, serving


def own(server: Server) -> list[Any]:
    """Return the handlers without those that every server has."""
    return [handler for handler in server.handlers if handler.group != "registry"]


async def add(a: int, b: int) -> int:
    return a + b


def where() -> str:
    return threading.current_thread().name


async def optional(a: int, b: int = 5, *rest: int, key: str = "k", **more: int) -> list[Any]:
    return [a, b, list(rest), key, more]


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: int


class Options(TypedDict):
    depth: int


class Calculator:
    """Its public methods are registered."""

    def __init__(self) -> None:
        self.calls = 0

    async def double(self, n: int) -> int:
        self.calls += 1
        return n * 2

    def half(self, n: int) -> float:
        self.calls += 1
        return n / 2

    @staticmethod
    async def zero() -> int:
        return 0

    @classmethod
    async def name(cls) -> str:
        return cls.__name__

    async def up_to(self, n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i

    async def _private(self) -> int:
        return 1


class Declared(Protocol):
    """The same as a client sees it."""

    async def double(self, n: int) -> int: ...

    async def half(self, n: int) -> float: ...

    async def up_to(self, n: int) -> AsyncIterator[int]:
        yield 0


def plain_channel(channel: Channel) -> None:
    raise AssertionError("it would block the loop")


class Demanding:
    """Cannot be made without arguments."""

    def __init__(self, size: int) -> None:
        self.size = size

    async def first(self) -> int:
        return self.size


def unnamed(func: Callable[[Any], int]) -> Callable[[Any], int]:
    def wrapper(self: Any) -> int:
        return func(self)

    return wrapper


class Wrapped:
    """Two methods that have one name."""

    @unnamed
    def first(self) -> int:
        return 1

    @unnamed
    def second(self) -> int:
        return 2


class HalfTyped:
    """One of its methods cannot be registered."""

    async def first(self) -> int:
        return 1

    async def second(self):  # type: ignore[no-untyped-def]  # the mistake
        return 2


class Costly:
    """Has properties, which registering must not run."""

    limit = 5

    @property
    def connection(self) -> object:
        raise RuntimeError("not yet")

    @functools.cached_property
    def pool(self) -> object:
        raise RuntimeError("not yet")

    async def first(self) -> int:
        return 1


@pytest.mark.parametrize("what", [Costly, Costly()])
def test_registering_an_object_runs_no_property(what: Any) -> None:
    server = Server()
    server.register(what)
    assert [h.method for h in own(server)] == ["/Costly/first"]


async def test_functions_are_found_by_name_and_group() -> None:
    async def fixed() -> int:
        return 7

    async with serving(add) as server, calling(server) as client:
        server.register(fixed, name="add-7")
        server.register(fixed, "add", "sevens")
        server.register(fixed, group="root", is_private=True)
        assert await client.raw_call("add", 1, 2) == 3
        assert await client.raw_call("add-7") == 7
        assert await client.raw_call("add", group="sevens") == 7
        assert await client.raw_call("fixed", group="root") == 7
        assert await client.call(fixed, group="root") == 7
        with pytest.raises(Unimplemented):
            await client.raw_call("fixed")


async def test_register_is_a_decorator() -> None:
    server = Server("127.0.0.1:0")

    @server.register
    async def bare() -> int:
        return 1

    @server.register(name="alias", group="g", doc="Two.")
    async def named() -> int:
        """Not this."""
        return 2

    assert await bare() == 1
    async with server, calling(server) as client:
        assert await client.raw_call("bare") == 1
        assert await client.raw_call("alias", group="g") == 2
    docs = {h.method: h.doc for h in own(server)}
    assert docs == {"/default/bare": "", "/g/alias": "Two."}


async def test_a_plain_function_runs_in_a_thread_or_inline() -> None:
    async with serving(where) as server, calling(server) as client:
        server.register(where, name="inline", inline=True)
        assert (await client.raw_call("where")).startswith("rap-handler")
        assert await client.raw_call("inline") == threading.current_thread().name


async def test_plain_functions_run_concurrently() -> None:
    barrier = threading.Barrier(3, timeout=10)

    def meet() -> int:
        return barrier.wait()

    async with serving(meet, threads=3) as server, calling(server) as client:
        met = await asyncio.gather(*(client.raw_call("meet") for _ in range(3)))
        assert sorted(met) == [0, 1, 2]


def test_async_functions_are_never_inline() -> None:
    with pytest.raises(RegistrationError, match="inline=True is for `def` functions"):
        Server().register(add, inline=True)


@pytest.mark.parametrize("what", [Calculator, Calculator()])
async def test_a_class_or_an_object_registers_its_public_methods(what: Any) -> None:
    async with serving() as server, calling(server) as client:
        server.register(what)
        assert {h.method for h in own(server)} == {
            f"/Calculator/{name}" for name in ("double", "half", "zero", "name", "up_to")
        }
        assert await client.raw_call("double", 4, group="Calculator") == 8
        assert await client.raw_call("half", 3, group="Calculator") == 1.5
        assert await client.raw_call("zero", group="Calculator") == 0
        assert await client.raw_call("name", group="Calculator") == "Calculator"
        calculator = client.bind(Declared, group="Calculator")
        assert await calculator.double(5) == 10
        assert await calculator.half(5) == 2.5
        assert [i async for i in calculator.up_to(3)] == [0, 1, 2]


async def test_an_object_may_be_registered_under_another_group() -> None:
    calculator = Calculator()
    async with serving() as server, calling(server) as client:
        server.register(calculator, group="calc")
        await client.raw_call("double", 1, group="calc")
        assert calculator.calls == 1


@pytest.mark.parametrize(
    ("register", "complaint"),
    [
        (lambda s: s.register(add), r"'add' is registered already in group 'default'"),
        (lambda s: s.register(where, "add"), r"'add' is registered already"),
        (lambda s: s.register(object()), "takes a function, a class or an object"),
        (lambda s: s.register(3), "takes a function, a class or an object with methods, got 3"),
        (lambda s: s.register(Calculator, name="x"), "name='x' is for one function"),
        (lambda s: s.register(where, "a/b"), "name must be 1 to 255 characters without '/'"),
        (lambda s: s.register(where, ""), "name must be 1 to 255 characters"),
        (lambda s: s.register(where, group=""), "group must be 1 to 255 characters"),
        (lambda s: s.register(where, "x" * 256), "name must be 1 to 255 characters"),
        (lambda s: s.register(where, 5), "name must be 1 to 255 characters without '/', got 5"),
        (lambda s: s.register(where, group=5), "group must be 1 to 255 .*, got 5"),
        (lambda s: s.register(where, doc=5), "doc must be a string, got 5"),
        (
            lambda s: s.register(plain_channel),
            "plain_channel: a channel function is an",
        ),
        (lambda s: s.register(Demanding), r"Demanding\(\) failed: .*'size'; register an object"),
        (lambda s: s.register(Wrapped), "'wrapper' is registered already in group 'Wrapped'"),
        (lambda s: s.register(HalfTyped), r"second\(\): return value has no type hint"),
    ],
)
def test_registering_an_unsupported_object_is_refused(register: Any, complaint: str) -> None:
    server = Server()
    server.register(add)
    with pytest.raises(RegistrationError, match=complaint):
        register(server)
    assert [h.method for h in own(server)] == ["/default/add"]


def test_the_same_name_in_another_group_is_another_function() -> None:
    server = Server()
    server.register(add)
    server.register(add, group="other")
    assert len(own(server)) == 2


def test_missing_and_impossible_hints_name_function_parameter_and_type() -> None:
    async def no_hint(a, b: int) -> int:  # type: ignore[no-untyped-def]
        return b

    async def no_return(a: int):  # type: ignore[no-untyped-def]
        return a

    async def impossible(a: int, b: threading.Thread) -> int:
        return a

    server = Server()
    with pytest.raises(RegistrationError, match=r"no_hint\(\): parameter 'a' has no type hint"):
        server.register(no_hint)
    with pytest.raises(RegistrationError, match=r"no_return\(\): return value has no type hint"):
        server.register(no_return)
    with pytest.raises(
        RegistrationError, match=r"impossible\(\): parameter 'b': type .*Thread cannot be sent"
    ):
        server.register(impossible)


@pytest.mark.parametrize("timeout", [0, -1, "1", True])
def test_a_bad_run_timeout_is_refused(timeout: Any) -> None:
    with pytest.raises(ValueError, match="run_timeout must be"):
        Server().register(add, run_timeout=timeout)


async def test_a_function_may_be_registered_while_the_server_runs() -> None:
    async with serving() as server, calling(server) as client:
        with pytest.raises(Unimplemented):
            await client.raw_call("add", 1, 2)
        server.register(add)
        assert await client.raw_call("add", 1, 2) == 3


async def test_arguments_are_bound_as_in_python() -> None:
    async with serving(optional) as server, calling(server) as client:
        assert await client.raw_call("optional", 1) == [1, 5, [], "k", {}]
        assert await client.raw_call("optional", 1, 2, 3, 4) == [1, 2, [3, 4], "k", {}]
        assert await client.raw_call("optional", 1, key="x", z=9) == [1, 5, [], "x", {"z": 9}]
        assert await client.raw_call("optional", b=2, a=1) == [1, 2, [], "k", {}]
        wrong: list[tuple[list[Any], dict[str, Any]]] = [(["x"], {}), ([], {}), ([1], {"z": "x"})]
        for args, kwargs in wrong:
            with pytest.raises(InvalidArgument) as caught:
                await client.raw_call("optional", *args, **kwargs)
            assert caught.value.remote


async def test_values_of_many_types_survive_the_round_trip() -> None:
    async def same(
        point: Point, colour: Colour, at: datetime, key: UUID, price: Decimal, options: Options
    ) -> tuple[Point, Colour, datetime, UUID, Decimal, Options]:
        assert isinstance(point, Point)
        assert isinstance(key, UUID)
        return point, colour, at, key, price, options

    async def either(value: int | str | None, pair: tuple[int, str], raw: bytes) -> list[Any]:
        return [value, list(pair), raw]

    async with serving(same, either) as server, calling(server) as client:
        values = (
            Point(1, 2),
            Colour.RED,
            datetime(2026, 1, 2, tzinfo=UTC),
            UUID(int=5),
            Decimal("1.10"),
            Options(depth=3),
        )
        assert await client.register()(same)(*values) == values
        assert await client.register()(either)(None, (1, "a"), b"x") == [None, [1, "a"], b"x"]


# Private functions.


async def test_private_functions_are_found_over_loopback_and_unix(tmp_path: Any) -> None:
    path = f"unix://{tmp_path}/rap.sock"
    async with serving(host=["127.0.0.1:0", path]) as server:
        server.register(add, is_private=True)
        for address in server.addresses:
            async with Client(address) as client:
                assert await client.raw_call("add", 1, 2) == 3


async def test_private_functions_do_not_exist_for_remote_clients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(where) as server:
        server.register(add, is_private=True)
        monkeypatch.setattr(Peer, "from_sockname", lambda *_: Peer("192.0.2.9", 4000))
        async with calling(server) as client:
            with pytest.raises(Unimplemented) as unknown:
                await client.raw_call("nothing")
            for call in (client.raw_call("add", 1, 2), anext(client.iterator_call("add", 1, 2))):
                with pytest.raises(Unimplemented) as hidden:
                    await call
                assert str(hidden.value) == str(unknown.value).replace("nothing", "add")
                assert hidden.value.details == unknown.value.details
            assert await client.raw_call("where")


async def refused(client: Client, name: str, group: str | None = None) -> Unimplemented:
    with pytest.raises(Unimplemented) as caught:
        await client.raw_call(name, group=group)
    return caught.value


async def test_the_error_of_an_unknown_function_suggests_a_similar_one() -> None:
    async with serving(add, where) as server, calling(server) as client:
        error = await refused(client, "ad")
        assert str(error) == "no function '/default/ad' on this server; did you mean 'add'?"
        assert (error.details, error.unserved, error.remote) == ({"suggestion": "add"}, True, True)
        assert (await refused(client, "nothing")).details == {}
        assert (await refused(client, "a" * 250 + "dd")).details == {}


async def test_the_error_of_an_unknown_function_names_the_groups_that_have_it() -> None:
    async with serving(where) as server, calling(server) as client:
        for group in ("two", "one"):
            server.register(add, group=group)
        error = await refused(client, "add")
        assert str(error).endswith("; there is one in the groups 'one', 'two': pass group='one'")
        assert error.details == {"groups": ["one", "two"]}
        error = await refused(client, "where", "Places")
        assert str(error).endswith(
            "there is one in the group 'default': pass group='default',"
            " as in client.bind(Places, group='default')"
        )


async def test_the_error_of_an_unknown_function_names_none_that_the_peer_may_not_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(where) as server:
        server.register(add, is_private=True)
        server.register(add, group="secret", is_private=True)
        server.register(add, "lists", group="admin", allow={"root"})
        async with calling(server) as local:
            assert (await refused(local, "ad")).details == {"suggestion": "add"}
            assert (await refused(local, "lists")).details == {}
        monkeypatch.setattr(Peer, "from_sockname", lambda *_: Peer("192.0.2.9", 4000))
        async with calling(server) as client:
            for name, group in [
                ("ad", None),
                ("add", None),
                ("add", "x"),
                ("list", "x"),
                ("lists", None),
                ("listz", "admin"),
                ("lst", "registry"),
                ("list", "registry"),
            ]:
                assert (await refused(client, name, group)).details == {}


async def test_the_names_of_a_server_that_encrypts_are_not_suggested() -> None:
    crypto = CryptoProcessor({"key": "k" * 16})
    async with serving(add, processor_list=[crypto]) as server, calling(server) as client:
        assert (await refused(client, "ad")).details == {}


async def test_many_calls_of_unknown_functions_get_no_suggestions() -> None:
    async with serving(add) as server, calling(server) as client:
        errors = [await refused(client, "ad") for _ in range(150)]
    assert errors[0].details == {"suggestion": "add"}
    assert errors[-1].details == {}


# The request as handlers see it.


async def test_the_request_is_available_in_tasks_and_threads() -> None:
    def in_thread(n: int) -> list[Any]:
        request = context.request
        return [request.group, request.func_name, request.body, request.header.get("tag")]

    async def in_task(n: int, *, key: str) -> list[Any]:
        found = await asyncio.create_task(later())
        return [found.body, found.header.get("tag"), context.call.peer is not None]

    async def later() -> Any:
        return context.request

    async def generator(n: int) -> AsyncIterator[Any]:
        yield [context.request.body, context.request.method]

    async with serving(in_thread, in_task, generator) as server, calling(server) as client:
        server.register(in_thread, "inline", inline=True)
        header = {"tag": "x"}
        assert await client.raw_call("in_thread", 1, header=header) == [
            *("default", "in_thread", [1], "x")
        ]
        assert await client.raw_call("inline", 1) == ["default", "inline", [1], None]
        assert await client.raw_call("in_task", 1, key="k", header=header) == [
            *([[1], {"key": "k"}], "x", True)
        ]
        found = [item async for item in client.iterator_call("generator", 3)]
        assert found == [[[3], "/default/generator"]]


def test_the_request_is_available_only_while_a_handler_runs() -> None:
    with pytest.raises(
        RuntimeError, match=r"context.request is available only while a handler runs"
    ):
        _ = context.request
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = context.nothing


async def test_calls_do_not_see_each_others_requests() -> None:
    async def tag() -> Any:
        await asyncio.sleep(0)
        return context.request.header["tag"]

    async with serving(tag) as server, calling(server) as client:
        calls = [client.raw_call("tag", header={"tag": n}) for n in range(50)]
        assert await asyncio.gather(*calls) == [*range(50)]


async def test_a_handler_changes_the_header_of_its_own_call_only() -> None:
    async def change() -> int:
        context.request.header["n"] = context.request.header.get("n", 0) + 1
        return int(context.request.header["n"])

    async with serving(change) as server, calling(server) as client:
        assert [await client.raw_call("change") for _ in range(3)] == [1, 1, 1]


async def test_a_call_that_fails_on_the_server_is_a_call_error() -> None:
    async def fail() -> int:
        raise LookupError("no")

    async with serving(fail) as server, calling(server) as client:
        with pytest.raises(CallError):
            await client.raw_call("fail")
