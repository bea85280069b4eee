"""Logs: nothing above INFO in normal operation, and records of calls with their fields."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rap.client import Channel
from rap.client.processor import OpenTelemetryProcessor
from rap.errors import CallError, Code, Internal
from rap.server import Channel as ServerChannel
from rap.server.middleware import AccessMsgMiddleware
from tests.loopback import calling, eventually, serving

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADER = {"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"}


async def add(a: int, b: int) -> int:
    return a + b


async def fail() -> None:
    raise LookupError("no")


async def count(n: int) -> AsyncIterator[int]:
    for number in range(n):
        yield number
    if n == 1:
        raise LookupError("no more")


async def echo(channel: ServerChannel) -> None:
    async for body in channel:
        await channel.write(body)


async def broken() -> None:
    raise Internal("a promise was lost")


def about_calls(caplog: pytest.LogCaptureFixture, logger: str) -> list[Any]:
    return [each for each in caplog.records if each.name == logger and hasattr(each, "method")]


async def test_normal_operation_logs_nothing_above_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.NOTSET)  # of all that is logged; the library sets no level itself
    async with (
        serving(add, fail, count, echo, middleware_list=[AccessMsgMiddleware()]) as server,
        calling(server) as client,
    ):

        @client.register("echo")
        async def talk(channel: Channel) -> Any:
            await channel.write("hello")
            return await channel.read_body()

        assert await client.call(add, 1, 2) == 3
        assert [each async for each in client.iterator_call(count, 3)] == [0, 1, 2]
        said: Any = await talk()
        assert said == "hello"
        async with client.session:
            assert await client.call(add, 1, 2) == 3
    found = [each for each in caplog.records if each.name.startswith("rap")]
    assert [each.getMessage() for each in found if each.levelno > logging.INFO] == []
    ends = [each.getMessage() for each in found if each.name == "rap.server"]
    assert [each for each in ends if each.endswith(" ended: the peer closed it")]
    assert not [each for each in ends if "lost" in each]
    assert {each.name for each in found} == {"rap.server", "rap.client", "rap.server.access"}


@pytest.mark.parametrize("access", [False, True])
async def test_a_handler_that_raises_is_logged_with_all_fields(
    caplog: pytest.LogCaptureFixture, access: bool
) -> None:
    caplog.set_level(logging.INFO, "rap.server")
    middleware = [AccessMsgMiddleware()] if access else []
    async with (
        serving(fail, middleware_list=middleware) as server,
        calling(server) as client,
    ):
        with pytest.raises(LookupError):
            await client.raw_call("fail", header=HEADER, timeout=5)
        peer = str(next(iter(server.connection_manager.connections)).peer)
    (record,) = about_calls(caplog, "rap.server")
    assert (record.method, record.peer, record.code) == ("/default/fail", peer, "UNKNOWN")
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("/default/fail raised LookupError(")
    assert 0 <= record.seconds < 5
    assert record.trace_id == TRACE_ID
    assert record.exc_info[0] is LookupError
    assert len(about_calls(caplog, "rap.server.access")) == access


async def test_a_broken_guarantee_is_logged_as_an_error_with_all_fields(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        serving(broken) as server,
        calling(server) as client,
    ):
        with pytest.raises(CallError) as raised:
            await client.raw_call("broken", header=HEADER)
    assert raised.value.code is Code.INTERNAL
    (record,) = about_calls(caplog, "rap.server")
    assert (record.levelname, record.method) == ("ERROR", "/default/broken")
    assert (record.code, record.trace_id) == ("INTERNAL", TRACE_ID)


async def test_the_seconds_of_a_generator_without_a_deadline_are_unknown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "rap.server")
    async with serving(count) as server, calling(server) as client:
        with pytest.raises(LookupError):
            _ = [each async for each in client.iterator_call(count, 1)]
        with pytest.raises(LookupError):
            _ = [each async for each in client.iterator_call(count, 1, timeout=5)]
    one, other = about_calls(caplog, "rap.server")
    assert one.seconds is None
    assert 0 <= other.seconds < 5
    assert not math.isnan(other.seconds)
    assert one.trace_id == ""


async def test_a_trace_started_by_the_server_is_in_its_log_records(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    caplog.set_level(logging.INFO, "rap.server")
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with (
        serving(
            fail,
            middleware_list=[AccessMsgMiddleware()],
            processor_list=[OpenTelemetryProcessor(provider)],
        ) as server,
        calling(server) as client,
    ):
        with pytest.raises(LookupError):
            await client.call(fail)
        await eventually(lambda: about_calls(caplog, "rap.server.access"))
    (span,) = exporter.get_finished_spans()
    assert span.context is not None
    records = [*about_calls(caplog, "rap.server"), *about_calls(caplog, "rap.server.access")]
    assert [record.trace_id for record in records] == [f"{span.context.trace_id:032x}"] * 2


async def test_a_malformed_request_is_logged_without_the_fields_of_a_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "rap.server")
    async with serving(add) as server, calling(server) as client:
        with pytest.raises(CallError):
            await client.raw_call("nothing")
        await asyncio.sleep(0)
    assert about_calls(caplog, "rap.server") == []
