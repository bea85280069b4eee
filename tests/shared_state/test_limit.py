"""The limit processor, alone with a clock that stands still, and in a server."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from rap.call import Call, Request, Side, StreamType
from rap.client import Client
from rap.errors import Code, ResourceExhausted
from rap.processor.limit import LimitProcessor, Rule
from rap.server import Channel
from rap.shared_state import MemoryBuckets
from tests.fake_clock import FakeClock
from tests.loopback import calling, serving


def by_name(request: Request) -> str:
    return request.func_name


def request_of(name: str, **header: object) -> Request:
    call = Call(f"/default/{name}", StreamType.UNARY, Side.SERVER, header)
    return Request(call, [], header)


async def refusal(limit: LimitProcessor, request: Request) -> float:
    """Return after how long to come again; 0 if the request passes."""
    try:
        assert await limit.process_request(request) is request
    except ResourceExhausted as exc:
        return float(exc.details["retry_after"])
    return 0


@pytest.fixture
def limit(clock: FakeClock) -> Callable[..., LimitProcessor]:
    def make(*rules: Any) -> LimitProcessor:
        return LimitProcessor(MemoryBuckets(clock=clock), rules)

    return make


async def test_requests_above_a_rule_are_told_when_to_come_again(
    limit: Callable[..., LimitProcessor], clock: FakeClock
) -> None:
    one = limit((by_name, Rule(minute=1, gen_token=6, max_token=2)))
    assert [await refusal(one, request_of("f")) for _ in range(3)] == [0, 0, 10]
    assert await refusal(one, request_of("g")) == 0
    clock.advance(10)
    assert [await refusal(one, request_of("f")) for _ in range(2)] == [0, 10]


async def test_the_units_of_a_period_add_up(
    limit: Callable[..., LimitProcessor],
) -> None:
    rule = Rule(second=1, minute=1, hour=1, day=1, week=1, init_token=0)
    assert await refusal(limit((by_name, rule)), request_of("f")) == 694_861


async def test_a_rule_without_a_key_does_not_apply(limit: Callable[..., LimitProcessor]) -> None:
    one = limit((lambda request: request.header.get("user"), Rule(second=1, max_token=1)))
    assert [await refusal(one, request_of("f")) for _ in range(3)] == [0, 0, 0]
    assert [await refusal(one, request_of("f", user="u")) for _ in range(2)] == [0, 1]


async def test_all_rules_that_match_must_let_a_request_pass(
    limit: Callable[..., LimitProcessor],
) -> None:
    many, few = Rule(second=1, max_token=2), Rule(hour=1, max_token=1)
    one = limit((by_name, many), (by_name, few))
    assert [await refusal(one, request_of("f")) for _ in range(2)] == [0, 3600]


async def test_rules_of_one_group_share_buckets(limit: Callable[..., LimitProcessor]) -> None:
    rule = Rule(hour=1, max_token=3, group="all")
    one = limit((by_name, rule), (by_name, rule))
    assert [await refusal(one, request_of("f")) for _ in range(2)] == [0, 3600]


async def test_an_async_function_may_choose_the_key(limit: Callable[..., LimitProcessor]) -> None:
    async def choose(request: Request) -> str | None:
        return None if request.func_name == "free" else "k"

    one = limit((choose, Rule(hour=1, max_token=1)))
    assert [await refusal(one, request_of(name)) for name in ("f", "g", "free")] == [0, 3600, 0]


async def test_an_empty_bucket_refuses_all_for_the_block_time(
    limit: Callable[..., LimitProcessor], clock: FakeClock
) -> None:
    one = limit((by_name, Rule(second=1, max_token=1, block_time=60)))
    assert [await refusal(one, request_of("f")) for _ in range(2)] == [0, 60]
    clock.advance(59)
    assert await refusal(one, request_of("f")) == 1
    clock.advance(1)
    assert await refusal(one, request_of("f")) == 0


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "a Rule needs a period: one of second, minute, hour, day, week above 0"),
        ({"second": -1}, "second must be a number of at least 0, got -1"),
        ({"second": 1, "max_token": 0}, "max_token must be a number of at least 1, got 0"),
        ({"second": 1, "gen_token": 0}, "gen_token must be a number of more than 0, got 0"),
        ({"second": 1, "init_token": 101}, "init_token must be at most max_token, 100, got 101"),
        ({"second": 1, "block_time": "1"}, "block_time must be a number of at least 0, got '1'"),
    ],
)
def test_a_bad_rule_is_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Rule(**values)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (("memory://", []), ValueError, "rule_list must have a rule, got an empty list"),
        (("memory://", [Rule(second=1)]), TypeError, "pairs (function, Rule), got Rule("),
        (("memory://", [(by_name, 1)]), TypeError, "pairs (function, Rule), got (<function"),
        (("etcd://", [(by_name, Rule(second=1))]), ValueError, "unknown scheme 'etcd'"),
        ((None, [(by_name, Rule(second=1))]), TypeError, "a URL or a TokenBuckets, got None"),
    ],
)
def test_bad_options_are_refused(arguments: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=re.escape(text)):
        LimitProcessor(*arguments)


async def add(a: int, b: int) -> int:
    return a + b


async def echo(channel: Channel) -> None:
    async for body in channel:
        await channel.write(body)


def rules(number: int) -> list[Any]:
    return [(by_name, Rule(hour=1, gen_token=1, max_token=number))]


async def test_a_caller_above_the_limit_gets_resource_exhausted() -> None:
    limits = LimitProcessor("memory://", rules(2))
    async with serving(add, processor_list=[limits]) as server, calling(server) as client:
        assert [await client.call(add, 1, n) for n in (1, 2)] == [2, 3]
        with pytest.raises(ResourceExhausted, match="too many requests for /default/add") as caught:
            await client.call(add, 1, 2)
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        assert not caught.value.unserved
        assert 3500 < caught.value.details["retry_after"] <= 3600


async def test_each_message_of_a_channel_is_a_request() -> None:
    limits = LimitProcessor("memory://", rules(4))
    async with serving(echo, processor_list=[limits]) as server, calling(server) as client:
        assert await read_until_refused(client) < 5


async def read_until_refused(client: Client) -> int:
    count = 0

    @client.register("echo")
    async def talk(channel: Channel) -> None:
        nonlocal count
        while True:
            await channel.write(count)
            await channel.read_body()
            count += 1

    with pytest.raises(ResourceExhausted):
        await talk()
    return count


def test_the_server_has_it_among_its_processors() -> None:
    from rap.server import processor

    assert processor.LimitProcessor is LimitProcessor
