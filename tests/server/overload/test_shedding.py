"""Overloaded servers with real connections; handlers take simulated time."""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rap.call import Request
from rap.client import Client
from rap.client.processor import CompressProcessor as ClientCompress
from rap.client.processor import CryptoProcessor as ClientCrypto
from rap.errors import CallError, Code, ResourceExhausted, Unavailable
from rap.server import Channel, Server
from rap.server.middleware import BaseMsgMiddleware
from rap.server.overload.refusals import Refusals
from rap.server.processor import CompressProcessor, CryptoProcessor
from tests.fake_clock import FakeClock
from tests.loopback import calling, eventually, serving, within
from tests.transport.certificates import Certificates

MANY = 400
TIMEOUT = 5.0  # simulated seconds


class Shop:
    """Functions of every kind that take 50 ms of the loop's simulated time."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.begun = 0

    def _work(self) -> None:
        self.begun += 1
        self.clock.advance(0.05)

    async def unary(self) -> int:
        self._work()
        return 1

    def inline(self) -> int:
        self._work()
        return 1

    async def items(self) -> AsyncIterator[int]:
        self._work()
        yield 1

    async def total(self, numbers: AsyncIterator[int]) -> int:
        self._work()
        return sum([number async for number in numbers])

    async def double(self, numbers: AsyncIterator[int]) -> AsyncIterator[int]:
        self._work()
        async for number in numbers:
            yield 2 * number

    async def echo(self, channel: Channel) -> None:
        self._work()
        async for body in channel:
            await channel.write(body)


@pytest.fixture
def shop() -> Shop:
    return Shop()


def server_of(shop: Shop, **options: Any) -> Any:
    return serving(clock=shop.clock, **options)


def asking(server: Server, **options: Any) -> Any:
    """Connect a client whose time stands still: only the server knows how late it is."""
    return calling(server, max_attempts=1, clock=FakeClock(), **options)


def register(server: Server, shop: Shop) -> None:
    for each in (shop.unary, shop.items, shop.total, shop.double, shop.echo):
        server.register(each)
    server.register(shop.inline, inline=True)


async def unary(client: Client) -> None:
    assert await client.raw_call("unary", timeout=TIMEOUT) == 1


async def inline(client: Client) -> None:
    assert await client.raw_call("inline", timeout=TIMEOUT) == 1


async def items(client: Client) -> None:
    found = client.iterator_call(Shop().items, timeout=TIMEOUT)
    assert [each async for each in found] == [1]


async def client_stream(client: Client) -> None:
    assert await client.call(Shop().total, iter([1]), timeout=TIMEOUT) == 1


async def bidirectional(client: Client) -> None:
    found = client.iterator_call(Shop().double, iter([1]), timeout=TIMEOUT)
    assert [each async for each in found] == [2]


async def channel(client: Client) -> None:
    async with client.channel(Shop().echo, timeout=TIMEOUT) as call:
        await call.write(1)
        assert await call.read_body() == 1


KINDS = {
    "unary": unary,
    "inline": inline,
    "generator": items,
    "client streaming": client_stream,
    "bidirectional": bidirectional,
    "channel": channel,
}


@pytest.mark.parametrize("kind", KINDS)
async def test_an_overloaded_server_begins_what_it_can_and_refuses_the_rest(
    shop: Shop, kind: str
) -> None:
    async with server_of(shop) as server, asking(server) as client:
        register(server, shop)
        calls = [KINDS[kind](client) for _ in range(MANY)]
        found = await within(asyncio.gather(*calls, return_exceptions=True))
        refused = [each for each in found if isinstance(each, ResourceExhausted)]
        assert [each for each in found if each and each not in refused] == []
        assert len(refused) == MANY - shop.begun
        assert found.count(None) == shop.begun
        assert 60 <= shop.begun <= 150  # three quarters of 5 s, and what came meanwhile
        assert all(each.unserved and each.remote for each in refused)
        assert all(0 < each.details["retry_after"] <= 5 for each in refused)


class Pass(BaseMsgMiddleware):
    """Message middleware that does nothing."""

    async def dispatch(
        self, request: Request, call_id: int, func: Any, param: Any
    ) -> tuple[int, Any]:
        return await self.call_next(request, call_id, func, param)


@pytest.mark.parametrize("how", ["encryption", "a processor", "middleware", "TLS"])
async def test_it_does_so_with_everything_that_may_stand_around_a_call(
    shop: Shop, how: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {}
    client_options: dict[str, Any] = {}
    if how == "encryption":
        options["processor_list"] = [CryptoProcessor({"k": "0123456789abcdef"})]
        client_options["processor_list"] = [ClientCrypto("k", "0123456789abcdef")]
    elif how == "a processor":
        options["processor_list"] = [CompressProcessor()]
        client_options["processor_list"] = [ClientCompress()]
    elif how == "middleware":
        options["middleware_list"] = [Pass()]
    else:
        own = Certificates(tmp_path).server
        options |= {"ssl_crt_path": own.crt_path, "ssl_key_path": own.key_path}
        client_options["ssl_crt_path"] = own.crt_path
    async with (
        server_of(shop, **options) as server,
        asking(server, **client_options) as client,
    ):
        register(server, shop)
        calls = [unary(client) for _ in range(MANY)]
        found = await within(asyncio.gather(*calls, return_exceptions=True))
        refused = [each for each in found if isinstance(each, ResourceExhausted)]
        assert len(refused) == MANY - shop.begun > 100
        assert found.count(None) == shop.begun
        assert all(each.unserved and each.details["retry_after"] > 0 for each in refused)
        assert sum(server.overload_state.refused.values()) == len(refused)


async def test_a_server_with_shed_off_begins_every_call(shop: Shop) -> None:
    async with server_of(shop, shed=False) as server, calling(server) as client:
        register(server, shop)
        calls = [client.raw_call("inline", timeout=60) for _ in range(MANY)]
        assert await within(asyncio.gather(*calls)) == [1] * MANY


async def test_a_burst_of_calls_with_much_time_loses_none(shop: Shop) -> None:
    async with server_of(shop) as server, calling(server) as client:
        register(server, shop)
        calls = [client.raw_call("unary", timeout=120) for _ in range(1000)]
        assert await within(asyncio.gather(*calls)) == [1] * 1000


async def test_one_warning_names_the_functions_and_the_reasons(
    shop: Shop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else a busy machine logs the first ones after a second, and the others at the end.
    monkeypatch.setattr("rap.server.overload.refusals._LOG_DELAY", 60.0)
    caplog.set_level(logging.WARNING, "rap.server")
    async with server_of(shop) as server, asking(server) as client:
        register(server, shop)
        calls = [unary(client) for _ in range(MANY)]
        await within(asyncio.gather(*calls, return_exceptions=True))
    (line,) = [each.getMessage() for each in caplog.records if "overloaded" in each.getMessage()]
    assert f"{MANY - shop.begun} calls were refused" in line
    assert "/default/unary: " in line
    assert "late: " in line
    assert "add servers" in line


@dataclass
class FromSomeone:
    """A call that is refused."""

    method: str = "/default/report"
    conn: object = None
    handler: object = None


@pytest.mark.parametrize(
    ("why", "advice"),
    [
        ("queue", "add servers"),
        ("threads", "raise threads"),
        ("limit", "find what these functions wait for"),
        ("max_concurrency", "raise max_concurrency"),
    ],
)
async def test_the_warning_says_what_helps_against_the_most_common_reason(
    why: str, advice: str, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = Refusals(logging.getLogger("rap.server"), asyncio.get_running_loop())
    for reason in ("late", why, why):
        refusals.count(FromSomeone(), 1, reason)
    refusals.close()
    (line,) = [each.getMessage() for each in caplog.records]
    assert f"by reason: {why}: 2, late: 1): {advice}" in line


async def test_calls_that_wait_count_as_open_and_a_drain_serves_them(shop: Shop) -> None:
    hold = asyncio.Event()

    async def stop() -> None:
        shop.clock.advance(0.05)
        await hold.wait()

    async with server_of(shop, close_timeout=60) as server, calling(server) as client:
        register(server, shop)
        server.register(stop)
        calls = [asyncio.create_task(client.raw_call("unary", timeout=90)) for _ in range(200)]
        held = asyncio.create_task(client.raw_call("stop", timeout=90))
        await eventually(lambda: shop.begun > 1)
        closing = asyncio.create_task(server.await_closed())
        assert await within(asyncio.gather(*calls)) == [1] * 200
        hold.set()
        await within(asyncio.gather(held, closing))


async def test_a_server_that_stops_tells_waiting_calls_that_they_never_began(shop: Shop) -> None:
    stopping = asyncio.Event()

    async def stop() -> None:
        shop.begun += 1
        shop.clock.advance(1.0)
        stopping.set()

    async with server_of(shop, close_timeout=0.01) as server:
        server.register(stop)
        async with calling(server, max_attempts=1) as client:
            calls = [client.raw_call("stop", timeout=900) for _ in range(100)]
            found = asyncio.gather(*calls, return_exceptions=True)
            await within(stopping.wait())
            await within(server.await_closed())
            outcome = await within(found)
    failed = [each for each in outcome if isinstance(each, CallError)]
    assert len(failed) >= 100 - shop.begun
    unserved = [each for each in failed if each.unserved]
    assert len(unserved) >= 100 - shop.begun
    assert all(isinstance(each, Unavailable) for each in unserved)


async def test_a_call_that_ends_while_it_waits_never_begins(shop: Shop) -> None:
    async with server_of(shop) as server, calling(server) as client:
        register(server, shop)
        calls = [asyncio.create_task(unary_for(client, 900)) for _ in range(300)]
        await eventually(lambda: shop.begun > 1)
        for call in calls[100:]:
            call.cancel()
        await within(asyncio.gather(*calls, return_exceptions=True))
        await eventually(lambda: not server.connection_manager.open_calls)
        assert shop.begun < 250
        await unary_for(client, 900)


async def unary_for(client: Client, timeout: float) -> None:
    await client.raw_call("unary", timeout=timeout)


async def test_admin_calls_come_first(shop: Shop) -> None:
    async with server_of(shop) as server, asking(server) as client:
        register(server, shop)
        calls = [asyncio.create_task(unary(client)) for _ in range(MANY)]
        await eventually(lambda: shop.begun > 1)
        listed = await within(client.raw_call("list", group="registry", timeout=TIMEOUT))
        assert any(each["func_name"] == "unary" for each in listed)
        assert not all(call.done() for call in calls)
        await within(asyncio.gather(*calls, return_exceptions=True))


async def test_a_sheddable_function_is_refused_first(shop: Shop) -> None:
    async with server_of(shop) as server, asking(server) as client:
        server.register(shop.unary)
        server.register(shop.unary, "extra", priority="sheddable")
        names = ["extra", "unary"] * 60
        calls = [client.raw_call(name, timeout=TIMEOUT) for name in names]
        found = await within(asyncio.gather(*calls, return_exceptions=True))
        refused = [
            name
            for name, each in zip(names, found, strict=True)
            if isinstance(each, CallError) and each.code is Code.RESOURCE_EXHAUSTED
        ]
        assert refused
        assert set(refused) == {"extra"}


@pytest.mark.parametrize("priority", ["high", 1, "Critical"])
def test_an_unknown_priority_is_an_error_at_registration(priority: Any) -> None:
    with pytest.raises(ValueError, match="priority must be one of critical, default, sheddable"):
        Server().register(Shop().unary, priority=priority)
