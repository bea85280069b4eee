"""A server whose callers get no text of what its functions raise, only the code and the trace."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from rap.channel import Channel
from rap.client import Client
from rap.errors import CallError, Code, HandlerError, InvalidArgument
from rap.server import Server
from tests.loopback import calling, inside, serving, within

SECRET = "db.inner:5432 password=hunter2"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


class Odd(ValueError):
    pass


async def crash() -> None:
    raise Odd(SECRET)


def crash_in_thread() -> None:
    raise Odd(SECRET)


async def crash_items() -> AsyncIterator[int]:
    yield 1
    raise Odd(SECRET)


async def crash_upload(rows: AsyncIterator[int]) -> int:
    raise Odd(SECRET)


async def crash_channel(channel: Channel) -> None:
    raise Odd(SECRET)


async def crash_in_group() -> None:
    raise ExceptionGroup(SECRET, [Odd(SECRET)])


async def fail(code: int) -> None:
    raise CallError(SECRET, code=Code(code), details={"note": SECRET, "retry_after": 2.0})


async def bad_result() -> int:
    return SECRET  # type: ignore[return-value]


async def call_unary(client: Client, name: str) -> None:
    await client.raw_call(name)


async def call_items(client: Client, name: str) -> None:
    async for _ in client.iterator_call(name):
        pass


async def call_upload(client: Client, name: str) -> None:
    async def rows() -> AsyncIterator[int]:
        yield 1

    await client.register(crash_upload)(rows())


async def call_channel(client: Client, name: str) -> None:
    async with client.channel(name) as channel:
        await channel.read()


FUNCTIONS = (
    crash,
    crash_in_thread,
    crash_items,
    crash_upload,
    crash_channel,
    crash_in_group,
    fail,
    bad_result,
)
CALLS: dict[str, Callable[[Client, str], Awaitable[None]]] = {
    "crash": call_unary,
    "crash_in_thread": call_unary,
    "crash_in_group": call_unary,
    "bad_result": call_unary,
    "crash_items": call_items,
    "crash_upload": call_upload,
    "crash_channel": call_channel,
}


def check(error: CallError, code: Code = Code.UNKNOWN) -> None:
    assert error.code is code
    assert error.message == "the function failed"
    assert SECRET not in repr(error.details)
    assert "Odd" not in f"{error!r} {error} {error.details}"
    assert not getattr(error, "__notes__", [])


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("name", CALLS)
async def test_callers_do_not_see_what_a_function_has_raised(
    name: str, debug: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with inside(*FUNCTIONS, expose_errors=False, debug=debug) as client:
        client.load_exception([Odd])
        with pytest.raises(CallError) as caught:
            await within(CALLS[name](client, name))
    check(caught.value, Code.INTERNAL if name == "bad_result" else Code.UNKNOWN)
    assert not isinstance(caught.value, HandlerError)
    assert ("str" if name == "bad_result" else SECRET) in caplog.text


@pytest.mark.parametrize("code", [code for code in Code if code])
async def test_errors_that_a_function_raises_on_purpose_are_sent(
    code: Code, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(fail, expose_errors=False) as server, calling(server) as client:
        with pytest.raises(CallError) as caught:
            await within(client.raw_call("fail", int(code)))
    error = caught.value
    if code in (Code.UNKNOWN, Code.INTERNAL, Code.UNAVAILABLE):
        check(error, code)
        assert error.details == {"retry_after": 2.0}
        assert SECRET in caplog.text
    else:
        assert SECRET in error.message
        assert error.details["note"] == SECRET


async def test_the_trace_id_leads_to_the_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    header = {"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"}
    async with serving(crash, fail, expose_errors=False) as server, calling(server) as client:
        for call in (
            client.raw_call("crash", header=header),
            client.raw_call("fail", int(Code.UNKNOWN), header=header),
        ):
            caplog.clear()
            with pytest.raises(CallError, match="the function failed") as caught:
                await within(call)
            assert caught.value.message == f"the function failed (trace {TRACE_ID})"
            (record,) = [it for it in caplog.records if SECRET in it.getMessage()]
            assert getattr(record, "trace_id", None) == TRACE_ID


async def test_wrong_arguments_and_unknown_functions_are_explained_nevertheless() -> None:
    async with serving(fail, expose_errors=False) as server, calling(server) as client:
        with pytest.raises(InvalidArgument, match="missing a required argument: 'code'"):
            await within(client.raw_call("fail"))
        with pytest.raises(CallError, match="did you mean 'fail'"):
            await within(client.raw_call("fai"))


async def test_callers_see_errors_by_default() -> None:
    async with serving(crash) as server, calling(server) as client:
        with pytest.raises(HandlerError, match=SECRET):
            await within(client.raw_call("crash"))


def test_the_option_is_true_or_false() -> None:
    with pytest.raises(ValueError, match="expose_errors must be True or False"):
        Server("localhost:0", expose_errors="no")  # type: ignore[arg-type]
