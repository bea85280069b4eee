"""Unary calls in all their forms."""

import asyncio
import inspect
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rap.client import Client
from rap.errors import DeadlineExceeded, InvalidArgument, Unimplemented
from rap.server import Server, context
from tests.loopback import calling, eventually, serving, within

ON_BOTH_LOOPS = True


async def add(a: int, b: int) -> int:
    return a + b


def total(values: list[int], *more: int) -> int:
    return sum(values) + sum(more)


def limited(timeout: int, group: str = "", *, name: str = "") -> list[Any]:
    return [timeout, group, name]


async def seen_header() -> dict[str, Any]:
    return dict(context.request.header)


async def counted() -> AsyncIterator[int]:
    yield 1


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving(add, total, limited, seen_header, counted) as server:
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with calling(server) as client:
        yield client


async def test_raw_call_takes_a_name_and_arguments(client: Client) -> None:
    assert await client.raw_call("add", 1, 2) == 3
    assert await client.raw_call("add", 1, b=2) == 3
    assert await client.raw_call("add", a=1, b=2) == 3


async def test_raw_call_with_a_list_passes_one_argument(client: Client) -> None:
    assert await client.raw_call("total", [1, 2]) == 3
    assert await client.raw_call("total", [1, 2], 3, 4) == 10


async def test_raw_call_takes_the_arguments_as_a_list(client: Client) -> None:
    assert await client.raw_call("add", arg_param=[1, 2]) == 3
    assert await client.raw_call("add", arg_param=[1], kwarg_param={"b": 2}) == 3


async def test_kwarg_param_reaches_parameters_named_like_options(client: Client) -> None:
    arguments = {"timeout": 3, "group": "x", "name": "y"}
    assert await client.raw_call("limited", kwarg_param=arguments) == [3, "x", "y"]
    assert await client.call(limited, kwarg_param=arguments) == [3, "x", "y"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"arg_param": [1]}, "not both"),
        ({"kwarg_param": {"b": 1}, "b": 2}, r"\['b'\] are given as keywords and in kwarg_param"),
    ],
)
async def test_arguments_given_twice_are_refused(
    client: Client, arguments: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(TypeError, match=complaint):
        await client.raw_call("add", 1, **arguments)


async def test_arg_param_must_be_a_list(client: Client) -> None:
    wrong: Any = "12"
    with pytest.raises(TypeError, match="arg_param must be a list or tuple, got '12'"):
        await client.raw_call("add", arg_param=wrong)


@pytest.mark.parametrize(
    ("option", "value"),
    [("header", 5), ("header", "x"), ("session", 5), ("kwarg_param", [1]), ("group", 5)],
)
async def test_an_option_of_another_type_is_refused_by_its_name(
    client: Client, option: str, value: Any
) -> None:
    with pytest.raises(TypeError, match=f"{option} must be a "):
        await client.raw_call("add", 1, 2, **{option: value})


async def test_what_cannot_be_sent_is_said_of_the_arguments(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="arguments: an object of type `object` cannot be"):
        await client.raw_call("add", 1, object())


async def test_raw_call_of_a_generator_says_what_to_use(client: Client) -> None:
    with pytest.raises(InvalidArgument, match=r"a generator answers: .* iterator_call"):
        await client.raw_call("counted")


@pytest.mark.parametrize("name", ["", 3, None, ["f"]])
async def test_raw_call_wants_a_name(client: Client, name: Any) -> None:
    with pytest.raises(TypeError, match="name of a function"):
        await client.raw_call(name)


async def test_call_takes_name_and_hints_of_a_function(client: Client) -> None:
    assert await client.call(add, 1, 2) == 3
    assert await client.call(add, arg_param=[1, 2]) == 3
    with pytest.raises(InvalidArgument, match=r"add\(\): argument 'b': expected `int`, got `str`"):
        await client.call(add, 1, "2")


async def test_call_of_a_generator_says_what_to_use(client: Client) -> None:
    with pytest.raises(TypeError, match="call is for unary functions, counted is a stream"):
        await client.call(counted)
    with pytest.raises(TypeError, match="iterator_call is for generators, add is unary"):
        client.iterator_call(add, 1, 2)  # type: ignore[arg-type]  # that is the mistake


async def test_raw_call_of_a_generator_is_an_error(client: Client) -> None:
    with pytest.raises(InvalidArgument):
        await client.raw_call("counted")
    assert await client.raw_call("add", 1, 2) == 3


async def test_a_stub_is_called_like_its_function(client: Client) -> None:
    stub = client.register()(add)
    assert await stub(1, 2) == 3
    assert await stub(a=1, b=2) == 3
    assert inspect.iscoroutinefunction(stub)
    assert inspect.signature(stub) == inspect.signature(add)
    assert (stub.__name__, stub.__doc__) == ("add", add.__doc__)


async def test_a_stub_may_have_another_name_than_the_function(client: Client) -> None:
    async def plus(a: int, b: int) -> int:
        raise AssertionError("it runs on the server")

    assert await client.register("add")(plus)(1, 2) == 3
    assert await client.register(name="add")(plus)(1, 2) == 3


async def test_a_stub_checks_arguments_before_it_sends(client: Client) -> None:
    stub: Any = client.register()(add)
    with pytest.raises(InvalidArgument) as caught:
        await stub(1, "2")
    assert not caught.value.remote
    with pytest.raises(InvalidArgument, match="missing a required argument: 'b'"):
        await stub(1)


async def test_without_the_check_the_server_refuses(client: Client) -> None:
    stub: Any = client.register(enable_type_check=False)(add)
    with pytest.raises(InvalidArgument) as caught:
        await stub(1, "2")
    assert caught.value.remote
    assert await stub(1, 2) == 3


async def test_a_stub_takes_options_of_the_call(client: Client) -> None:
    stub: Any = client.register()(seen_header)
    assert (await stub(header={"tag": "x"}))["tag"] == "x"
    async with client.session as session:
        assert (await stub(session=session))["session_id"] == session.id
    with pytest.raises(DeadlineExceeded):
        await stub(timeout=-1)


async def test_a_parameter_named_like_an_option_is_an_argument(client: Client) -> None:
    async def own(timeout: int, group: str = "", *, name: str = "") -> list[Any]:
        raise AssertionError("it runs on the server")

    stub = client.register("limited")(own)
    assert await stub(timeout=-3, name="n") == [-3, "", "n"]


@pytest.mark.parametrize("header", [{":attempt": 2}, {1: 2}])
async def test_names_of_rap_in_a_header_are_refused(client: Client, header: Any) -> None:
    with pytest.raises(InvalidArgument, match="header"):
        await client.raw_call("add", 1, 2, header=header)


async def test_what_cannot_be_sent_in_a_header_is_refused(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="/default/add: the header cannot be sent"):
        await client.raw_call("add", 1, 2, header={"x": object()})


def test_only_async_functions_can_be_stubs() -> None:
    client = Client()
    with pytest.raises(TypeError, match="needs an `async def` function"):
        client.register()(total)  # type: ignore[arg-type]  # the mistake
    group: Any = 5
    with pytest.raises(TypeError, match="group must be a string, got 5"):
        client.register(group=group)(add)
    options: Any = {"group": "math"}
    with pytest.raises(TypeError, match=r"options first, .* @client\.register\(group=\.\.\.\)"):
        client.register(add, **options)


async def test_a_stub_needs_no_parentheses_without_options(server: Server) -> None:
    async with calling(server) as client:

        @client.register
        async def add(a: int, b: int) -> int:
            raise AssertionError("it runs on the server")

        assert await add(1, 2) == 3


async def test_nothing_is_sent_before_a_call_is_awaited() -> None:
    calls: list[int] = []

    async def note(n: int) -> None:
        calls.append(n)

    async with serving(note) as server, calling(server) as client:
        stub = client.register()(note)
        pending = stub(1)
        await stub(2)
        assert calls == [2]
        await pending
        assert calls == [2, 1]


async def test_a_pending_call_fits_what_takes_coroutines(client: Client) -> None:
    stub = client.register()(add)
    assert await asyncio.create_task(stub(1, 2)) == 3
    assert await asyncio.wait_for(stub(1, 2), 5) == 3
    assert await asyncio.gather(*(stub(i, i) for i in range(100))) == [*range(0, 200, 2)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(stub(i, 1)) for i in range(10)]
    assert [task.result() for task in tasks] == [*range(1, 11)]


async def test_two_pending_calls_never_mix(client: Client) -> None:
    stub = client.register()(add)
    first, second = stub(1, 1), stub(10, 10)
    assert (await second, await first) == (20, 2)


async def test_answers_come_in_any_order() -> None:
    gates = {n: asyncio.Event() for n in range(3)}

    async def gated(n: int) -> int:
        await gates[n].wait()
        return n

    async with serving(gated) as server, calling(server) as client:
        tasks = [asyncio.create_task(client.raw_call("gated", n)) for n in range(3)]
        for n in (2, 0, 1):
            gates[n].set()
            assert await within(tasks[n]) == n


async def test_an_unknown_function_is_unimplemented(client: Client) -> None:
    with pytest.raises(Unimplemented, match="/default/nothing") as caught:
        await client.raw_call("nothing")
    assert caught.value.remote
    with pytest.raises(Unimplemented, match="/elsewhere/add"):
        await client.raw_call("add", 1, 2, group="elsewhere")


async def test_calls_after_close_raise_until_it_is_connected_again(server: Server) -> None:
    client = Client(server.addresses)
    stub = client.register()(add)
    generator = client.register()(counted)
    for _ in range(2):
        await client.connect()
        assert await stub(1, 2) == 3
        await client.await_close()
        for call in (client.raw_call("add", 1, 2), client.call(add, 1, 2), stub(1, 2)):
            with pytest.raises(RuntimeError, match=r"was closed; connect\(\) it"):
                await call
        with pytest.raises(RuntimeError, match="was closed"):
            generator()
        with pytest.raises(RuntimeError, match="was closed"):
            await client.session.__aenter__()


async def test_a_client_can_be_closed_twice_and_before_it_connects(server: Server) -> None:
    async with calling(server) as client:
        await client.await_close()
    unused = Client()
    await unused.await_close()


async def test_in_flight_is_counted_back_to_nothing(client: Client, server: Server) -> None:
    await asyncio.gather(*(client.raw_call("add", i, i) for i in range(50)))
    stats = [node.stats for node in client.cluster.nodes.values()]
    await eventually(lambda: all(s.in_flight == 0 and s.open_streams == 0 for s in stats))
