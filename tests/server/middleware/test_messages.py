"""Message middleware, which wraps unary calls."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from rap.call import Request
from rap.errors import Code, HandlerError, Internal, PermissionDenied
from rap.processor.base import BaseProcessor
from rap.server import Channel, context
from rap.server.middleware import Answer, BaseMsgMiddleware
from tests.fake_clock import FakeClock
from tests.loopback import calling, eventually, expired, inside, serving


async def add(a: int, b: int = 10) -> int:
    return a + b


def divide(a: int, *, by: int = 1) -> int:
    return a // by


def thread_name(a: int) -> str:
    return threading.current_thread().name


async def count(n: int) -> AsyncIterator[int]:
    for number in range(n):
        yield number


async def echo(channel: Channel) -> None:
    async for body in channel:
        await channel.write(body)


async def forever() -> None:
    await asyncio.Event().wait()


class Noting(BaseMsgMiddleware):
    """Notes what passes."""

    def __init__(self, name: str = "", log: list[Any] | None = None) -> None:
        self.name = name
        self.log: list[Any] = [] if log is None else log

    async def dispatch(
        self, request: Request, call_id: int, func: Callable[..., Any], param: list[Any]
    ) -> tuple[int, Any]:
        self.log.append((self.name, request.func_name, list(param)))
        call_id, result = await self.call_next(request, call_id, func, param)
        self.log.append((self.name, result))
        return call_id, result


async def test_the_first_middleware_is_outermost() -> None:
    log: list[Any] = []
    chain = [Noting("a", log), Noting("b", log)]
    async with inside(add, middleware_list=chain) as client:
        assert await client.call(add, 1, 2) == 3
    assert log == [("a", "add", [1, 2]), ("b", "add", [1, 2]), ("b", 3), ("a", 3)]


async def test_an_exception_of_the_function_is_a_result() -> None:
    noting = Noting()
    async with inside(divide, middleware_list=[noting]) as client:
        with pytest.raises(ZeroDivisionError):
            await client.call(divide, 1, by=0)
    assert isinstance(noting.log[1][1], ZeroDivisionError)


class Changing(BaseMsgMiddleware):
    async def dispatch(
        self, request: Request, call_id: int, func: Callable[..., Any], param: list[Any]
    ) -> tuple[int, Any]:
        call_id, result = await self.call_next(request, call_id, func, [it + 1 for it in param])
        return call_id, -1 if isinstance(result, Exception) else result * 100


async def test_arguments_and_results_can_be_changed() -> None:
    async with inside(add, divide, middleware_list=[Changing()]) as client:
        assert await client.call(add, 1, 2) == 500
        assert await client.call(divide, 5, by=2) == 300
        assert await client.call(divide, 5, by=0) == -1


class Refusing(BaseMsgMiddleware):
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def dispatch(self, *_: Any) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def test_a_call_can_be_refused_without_the_function() -> None:
    outer, inner = Noting(), Refusing(PermissionDenied("not you", details={"why": 1}))
    async with inside(add, middleware_list=[outer, inner]) as client:
        with pytest.raises(PermissionDenied, match="not you") as caught:
            await client.call(add, 1, 2)
    assert caught.value.details == {"why": 1}
    assert outer.log[1][1] is inner.answer


async def test_middleware_must_return_two_values() -> None:
    async with inside(add, middleware_list=[Refusing(3)]) as client:
        with pytest.raises(Internal, match=r"must return \(call_id, result\), got 3"):
            await client.call(add, 1, 2)


async def test_a_result_of_the_wrong_type_is_an_error_of_the_server() -> None:
    async with inside(add, middleware_list=[Refusing((1, "x"))]) as client:
        with pytest.raises(Internal, match="expected `int`"):
            await client.call(add, 1, 2)


class Legacy(BaseMsgMiddleware):
    """Takes keyword arguments as a fifth parameter, as middleware of release 0.5.3.8 does."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def dispatch(  # type: ignore[override]  # one parameter more
        self, request: Any, call_id: int, func: Any, param: list[Any], default_param: dict[str, Any]
    ) -> tuple[int, Any]:
        self.seen.append((param, dict(default_param)))
        return await self.call_next(request, call_id, func, param, default_param)


@pytest.mark.parametrize("before", [True, False])
async def test_a_fifth_parameter_of_dispatch_gets_the_keyword_arguments(before: bool) -> None:
    legacy, noting = Legacy(), Noting()
    chain = [legacy, noting] if before else [noting, legacy]
    async with inside(divide, middleware_list=chain) as client:
        assert await client.call(divide, 7, by=2) == 3
        assert await client.call(divide, 7) == 7
    assert legacy.seen[0] == ([7], {"by": 2} if before else {})
    assert legacy.seen[1][0] == [7]


class Replacing(BaseMsgMiddleware):
    def __init__(self, func: Callable[..., Any]) -> None:
        self.func = func

    async def dispatch(
        self, request: Request, call_id: int, func: Callable[..., Any], param: list[Any]
    ) -> tuple[int, Any]:
        return await self.call_next(request, call_id, self.func, param)


@pytest.mark.parametrize("called", [add, divide])
async def test_the_function_can_be_replaced(called: Any) -> None:
    async def twice(a: int) -> int:
        return 2 * a

    for replacement in (twice, lambda a: 2 * a):
        chain = [Replacing(replacement)]
        async with inside(called, middleware_list=chain) as client:
            assert await client.call(called, 4) == 8


async def test_a_plain_function_runs_in_a_thread_and_an_inline_one_on_the_loop() -> None:
    async with serving(middleware_list=[Noting()]) as server:
        server.register(thread_name)
        server.register(thread_name, "inline", inline=True)
        async with calling(server) as client:
            assert (await client.raw_call("thread_name", 1)).startswith("rap-handler")
            assert await client.raw_call("inline", 1) == threading.current_thread().name


async def test_generators_and_channels_bypass_message_middleware() -> None:
    noting = Noting()
    async with inside(count, echo, middleware_list=[noting]) as client:
        assert [n async for n in client.iterator_call(count, 3)] == [0, 1, 2]

        @client.register("echo")
        async def talk(channel: Channel) -> Any:
            await channel.write("hello")
            return await channel.read_body()

        assert await talk() == "hello"
    assert noting.log == []


async def test_middleware_and_handler_see_the_request_after_the_processors() -> None:
    class Incrementing(BaseProcessor):
        async def process_request(self, request: Request) -> Request:
            request.body = [it + 1 for it in request.body]
            return request

    async def body_of(a: int) -> list[Any]:
        return [a, context.request.body]

    noting = Noting()
    chain: dict[str, Any] = {"middleware_list": [noting], "processor_list": [Incrementing()]}
    async with inside(body_of, **chain) as client:
        assert await client.call(body_of, 1) == [2, [2]]
    assert noting.log[0] == ("", "body_of", [2])


class Judging(BaseMsgMiddleware):
    def __init__(self) -> None:
        self.answers: list[Answer] = []

    def answered(self, answer: Answer) -> None:
        self.answers.append(answer)


async def test_answered_is_called_with_the_end_of_each_call() -> None:
    judging = Judging()
    async with inside(add, divide, middleware_list=[judging]) as client:
        await client.call(add, 1, 2)
        with pytest.raises(ZeroDivisionError):
            await client.call(divide, 1, by=0)
        with pytest.raises(Exception, match="missing"):
            await client.raw_call("add")
    good, failed, refused = judging.answers
    assert (good.error, good.request_size, good.response_size) == (None, 3, 1)
    assert isinstance(failed.error, ZeroDivisionError)
    assert failed.response_size == 0
    assert 0 <= good.duration < 10
    assert getattr(refused.error, "code", None) is Code.INVALID_ARGUMENT


async def test_a_cancelled_call_is_answered_as_cancelled() -> None:
    judging = Judging()
    async with serving(forever, middleware_list=[judging]) as server, calling(server) as client:
        call = asyncio.ensure_future(client.raw_call("forever"))
        await eventually(lambda: server.connection_manager.open_calls)
        call.cancel()
        await eventually(lambda: judging.answers)
    assert getattr(judging.answers[0].error, "code", None) is Code.CANCELLED


async def test_a_call_past_its_deadline_is_answered_with_the_error(clock: FakeClock) -> None:
    judging, begun = Judging(), asyncio.Event()

    async def hang() -> None:
        begun.set()
        await asyncio.Event().wait()

    async with (
        serving(hang, middleware_list=[judging], clock=clock) as server,
        calling(server, clock=clock) as client,
    ):
        await expired(client.raw_call("hang", timeout=5.0), clock, 5.0, once=begun.is_set)
        await eventually(lambda: judging.answers)
    assert getattr(judging.answers[0].error, "code", None) in (
        Code.DEADLINE_EXCEEDED,
        Code.CANCELLED,  # the client's own clock was first
    )


async def test_an_exception_in_answered_does_not_affect_the_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(BaseMsgMiddleware):
        def answered(self, answer: Answer) -> None:
            raise LookupError("oh")

    judging = Judging()
    chain = [Failing(), judging]
    async with inside(add, middleware_list=chain) as client:
        assert await client.call(add, 1, 2) == 3
        await eventually(lambda: judging.answers)
    assert "LookupError: oh" in caplog.text


async def test_an_error_of_the_middleware_itself_reaches_the_caller() -> None:
    class Broken(BaseMsgMiddleware):
        async def dispatch(self, *_: Any) -> Any:
            raise LookupError("broken")

    async with inside(add, middleware_list=[Broken()]) as client:
        with pytest.raises(HandlerError, match="broken") as caught:
            await client.call(add, 1, 2)
    assert isinstance(caught.value, LookupError)
