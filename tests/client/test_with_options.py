"""Options of one call, by `with_options`."""

import inspect
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any, Protocol

import pytest

from rap import Channel, Client, Session, SyncChannel, SyncClient, channel_method, with_options
from rap.call import current
from rap.clock import NEVER
from rap.errors import DeadlineExceeded
from rap.server import context
from rap.testing import fake
from tests.client import threaded
from tests.loopback import calling, serving

OPTIONS: dict[str, Any] = {"header": {"mark": 7}, "priority": "sheddable", "timeout": 30}
SEEN = {"mark": 7, "priority": "sheddable", "limited": True}


def seen() -> dict[str, Any]:
    """Return what a handler sees of the options of its call."""
    call = current.get()
    assert call is not None
    return {
        "mark": context.call.header.get("mark"),
        "priority": context.priority,
        "limited": call.deadline != NEVER,
    }


async def unary(n: int = 0) -> dict[str, Any]:
    return seen()


async def stream(n: int) -> AsyncIterator[dict[str, Any]]:
    for _ in range(n):
        yield seen()


async def upload(rows: AsyncIterator[int]) -> dict[str, Any]:
    return {**seen(), "sum": sum([n async for n in rows])}


async def both(rows: AsyncIterator[int]) -> AsyncIterator[dict[str, Any]]:
    async for _ in rows:
        yield seen()


async def chat(channel: Channel, room: str) -> dict[str, Any]:
    async for text in channel:
        await channel.write(f"{room}: {text}")
    return seen()


async def shadow(timeout: float) -> dict[str, Any]:
    return {**seen(), "timeout": timeout}


async def session_id() -> str | None:
    session = context.session
    return None if session is None else session.id


FUNCTIONS = (unary, stream, upload, both, chat, shadow, session_id)


class Api(Protocol):
    async def unary(self, n: int = 0) -> dict[str, Any]: ...
    def stream(self, n: int) -> AsyncIterator[dict[str, Any]]: ...
    async def upload(self, rows: AsyncIterable[int] | Iterable[int]) -> dict[str, Any]: ...
    def both(self, rows: AsyncIterable[int] | Iterable[int]) -> AsyncIterator[dict[str, Any]]: ...
    @channel_method
    async def chat(self, channel: Channel[str, str], room: str) -> dict[str, Any]:
        await channel.write("hello")
        assert await channel.read_body() == f"{room}: hello"
        outcome: dict[str, Any] = await channel.result()
        return outcome

    async def shadow(self, timeout: float) -> dict[str, Any]: ...
    async def session_id(self) -> str | None: ...


class SyncApi(Protocol):
    def unary(self, n: int = 0) -> dict[str, Any]: ...
    def stream(self, n: int) -> Iterator[dict[str, Any]]: ...
    def upload(self, rows: AsyncIterable[int] | Iterable[int]) -> dict[str, Any]: ...
    def both(self, rows: AsyncIterable[int] | Iterable[int]) -> Iterator[dict[str, Any]]: ...
    def chat(self, channel: SyncChannel[str, str], room: str) -> dict[str, Any]: ...
    def session_id(self) -> str | None: ...


async def test_a_call_of_each_shape_has_the_options() -> None:
    async with serving(*FUNCTIONS) as server, calling(server) as client:
        api = client.bind(Api, group="default")
        assert await with_options(api.unary, **OPTIONS)(3) == SEEN
        assert [it async for it in with_options(api.stream, **OPTIONS)(2)] == [SEEN, SEEN]
        assert await with_options(api.upload, **OPTIONS)([1, 2]) == {**SEEN, "sum": 3}
        assert [it async for it in with_options(api.both, **OPTIONS)([1, 2])] == [SEEN, SEEN]
        assert await with_options(api.chat, **OPTIONS)("tea") == SEEN


async def test_the_stub_itself_is_as_before() -> None:
    async with serving(*FUNCTIONS) as server, calling(server) as client:
        api = client.bind(Api, group="default")
        with_options(api.unary, **OPTIONS)
        assert await api.unary() == {"mark": None, "priority": "default", "limited": True}
        assert [it["limited"] async for it in api.stream(1)] == [False]


async def test_a_stub_with_options_may_be_kept_and_given_more() -> None:
    async with serving(*FUNCTIONS) as server, calling(server) as client:
        api = client.bind(Api, group="default")
        marked = with_options(api.unary, header={"mark": 1})
        both = with_options(marked, priority="critical")
        again = with_options(both, header={"mark": 2}, timeout=None)
        for _ in range(2):
            assert (await marked())["mark"] == 1
            assert [(await both())[name] for name in ("mark", "priority")] == [1, "critical"]
            assert [(await again())[name] for name in ("mark", "priority")] == [2, "critical"]


async def test_a_keyword_of_the_call_comes_before_the_option_of_the_stub() -> None:
    async with serving(*FUNCTIONS) as server, calling(server) as client:
        stub: Any = with_options(client.bind(Api, group="default").unary, header={"mark": 1})
        assert (await stub(header={"mark": 2}))["mark"] == 2


async def test_an_option_may_have_the_name_of_a_parameter() -> None:
    async with serving(*FUNCTIONS) as server, calling(server) as client:
        api = client.bind(Api, group="default")
        with pytest.raises(DeadlineExceeded):
            await with_options(api.shadow, timeout=0)(timeout=3)
        assert (await with_options(api.shadow, timeout=9)(timeout=3))["timeout"] == 3


async def test_the_stub_has_name_signature_and_start_of_the_declared_function() -> None:
    async with serving(*FUNCTIONS) as server, calling(server) as client:
        stub = client.register(unary)
        changed = with_options(stub, **OPTIONS)
        assert changed.__name__ == "unary"
        assert inspect.signature(changed) == inspect.signature(stub)
        assert inspect.iscoroutinefunction(changed)
        assert await changed.start() == SEEN


async def test_a_timeout_of_nothing_is_that_of_the_stub() -> None:
    async with serving(*FUNCTIONS) as server, calling(server, timeout=9) as client:
        api = client.bind(Api, group="default")
        assert (await with_options(api.unary, timeout=None)())["limited"]


async def test_the_session_of_a_call() -> None:
    async with serving(*FUNCTIONS) as server, calling(server) as client:
        api = client.bind(Api, group="default")
        async with client.session as session:
            pass_on = with_options(api.session_id, session=session)
        async with client.session as session, client.session as inner:
            pass_on = with_options(api.session_id, session=session)
            assert await pass_on() == session.id
            assert await api.session_id() == inner.id


async def test_a_session_makes_calls_with_options() -> None:
    async with serving(*FUNCTIONS) as server, calling(server) as client:
        api = client.bind(Api, group="default")
        async with client.session as session:
            stub = with_options(api.unary, **OPTIONS)
            assert await session.execute(stub, [3]) == SEEN
            assert await session.execute(stub(3)) == SEEN
            items = await session.execute(with_options(api.stream, **OPTIONS), [2])
            assert [it async for it in items] == [SEEN, SEEN]
            assert await session.execute(with_options(api.chat, **OPTIONS), ["tea"]) == SEEN
            found = await session.execute(with_options(api.session_id, **OPTIONS))
            assert found == session.id


async def test_a_fake_answers_calls_with_options() -> None:
    client = Client()
    api = client.bind(Api, group="default")
    async with fake(client, unary={"n": 1}) as fakes:
        assert await with_options(api.unary, timeout=3)(2) == {"n": 1}
        fakes.unary.assert_called_once_with(2)


async def test_a_call_by_its_declaration_refuses_options_that_it_would_lose() -> None:
    async with serving(*FUNCTIONS) as server, calling(server) as client:
        stub: Any = with_options(client.register(unary), timeout=3)
        with pytest.raises(TypeError, match="take the options of a call as keywords"):
            await client.call(stub)
        with pytest.raises(TypeError, match="take the options of a call as keywords"):
            client.channel(stub)


def test_an_option_that_does_not_exist_is_refused_with_the_one_that_was_meant() -> None:
    stub = Client().register(unary)
    use: Any = with_options
    with pytest.raises(TypeError, match="no option 'timeuot'; did you mean 'timeout'"):
        use(stub, timeuot=3)
    with pytest.raises(TypeError, match="no option 'group'"):
        use(stub, group="x")


@pytest.mark.parametrize("option", ["idempotent", "max_attempts", "retry_codes", "hedge"])
def test_an_option_of_functions_is_refused_with_where_to_give_it(option: str) -> None:
    use: Any = with_options
    said = f"no option '{option}'; it is an option of functions: .* with {option}=..."
    with pytest.raises(TypeError, match=said):
        use(Client().register(unary), **{option: 1})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("timeout", value) for value in ("3", True, float("nan"), object())),
        *(("priority", value) for value in ("high", 3)),
        *(("wait_for_ready", value) for value in ("yes", float("nan"))),
        *(("header", value) for value in ([("a", 1)], "a", 3)),
        *(("affinity", value) for value in (3, b"a")),
        *(("session", value) for value in ("a", 3, Client())),
    ],
)
def test_a_wrong_value_is_refused_at_once_by_the_name_of_its_option(
    option: str, value: object
) -> None:
    stub = Client().register(unary)
    is_of_its_type = value != value or value == "high"
    with pytest.raises(ValueError if is_of_its_type else TypeError) as caught:
        with_options(stub, **{option: value})  # type: ignore[arg-type]  # that is the mistake
    assert isinstance(caught.value, TypeError) is not is_of_its_type
    assert str(caught.value).startswith(f"{option} must be ")
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("given", [unary, Client, 3, None, "unary", Client().bind(Api)])
def test_what_is_not_a_stub_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match="takes a function of client"):
        with_options(given, timeout=3)


async def test_a_call_in_the_place_of_its_function_is_refused_with_what_to_write() -> None:
    async with serving(*FUNCTIONS) as server, calling(server) as client:
        api: Any = client.bind(Api, group="default")
        started = api.unary.start()
        for call in (api.unary(), api.stream(1), started):
            with pytest.raises(TypeError, match=r"write with_options\(calc.add, timeout=3\)"):
                with_options(call, timeout=3)
        assert await started


def test_a_client_without_asyncio_has_the_options_too() -> None:
    with threaded.serving(*FUNCTIONS) as server, threaded.calling(server) as client:
        api = client.bind(SyncApi, group="default")
        assert with_options(api.unary, **OPTIONS)(3) == SEEN
        assert [*with_options(api.stream, **OPTIONS)(2)] == [SEEN, SEEN]
        assert with_options(api.upload, **OPTIONS)([1, 2]) == {**SEEN, "sum": 3}
        assert [*with_options(api.both, **OPTIONS)([1, 2])] == [SEEN, SEEN]

        @client.register(name="chat")
        def talk(channel: SyncChannel[str, str], room: str) -> dict[str, Any]:
            channel.write("hello")
            assert channel.read_body() == f"{room}: hello"
            outcome: dict[str, Any] = channel.result()
            return outcome

        assert with_options(talk, **OPTIONS)("tea") == SEEN
        stub = client.register(unary)
        assert with_options(stub, **OPTIONS).start().result() == SEEN
        assert stub()["mark"] is None


def test_sessions_of_a_client_without_asyncio() -> None:
    with threaded.serving(*FUNCTIONS) as server, threaded.calling(server) as client:
        api = client.bind(SyncApi, group="default")
        with client.session as session:
            pass_on = with_options(api.session_id, session=session)
            assert pass_on() == session.id
            assert session.execute(with_options(api.unary, **OPTIONS)) == SEEN
            assert session.execute(with_options(api.session_id, **OPTIONS)) == session.id
            items = session.execute(with_options(api.stream, **OPTIONS), [2])
            assert [*items] == [SEEN, SEEN]


async def test_the_session_of_another_client_is_refused_by_the_call() -> None:
    async with serving(*FUNCTIONS) as server, calling(server) as client:
        api = client.bind(Api, group="default")
        with pytest.raises(Exception, match="belongs to another client"):
            await with_options(api.unary, session=Session(Client()))()


def test_stubs_of_a_client_that_is_not_connected_take_options() -> None:
    assert with_options(SyncClient().bind(SyncApi).unary, timeout=3).__name__ == "unary"
