"""What `PrometheusProcessor` counts on both ends, and how few series it makes of hostile names."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest

from rap.client import Channel, Client
from rap.client.processor import PrometheusMessageProcessor as ClientMessages
from rap.client.processor import PrometheusProcessor as ClientPrometheus
from rap.errors import CallError, Code, HandlerError, Unimplemented
from rap.processor.metrics.counts import UNKNOWN_METHOD
from rap.server import Channel as ServerChannel
from rap.server import Server
from rap.server.processor import PrometheusMessageProcessor, PrometheusProcessor
from tests.fake_clock import FakeClock
from tests.loopback import calling, eventually, expired, serving

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


async def add(a: int, b: int) -> int:
    return a + b


async def fail() -> None:
    raise RuntimeError("no")


async def hang() -> None:
    await asyncio.Event().wait()


async def count(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i


async def echo(channel: ServerChannel) -> None:
    async for body in channel:
        await channel.write(body)


class Metrics:
    """A registry that answers what a test asks."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def value(self, name: str, method: str, **labels: str) -> float:
        labels = {"method": method, "shape": "unary", **labels}
        return self.registry.get_sample_value(name, labels) or 0.0

    def methods(self, name: str) -> set[str]:
        return {
            sample.labels["method"]
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == name
        }


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@asynccontextmanager
async def counted(
    metrics: Metrics, clock: FakeClock | None = None
) -> AsyncIterator[tuple[Server, Client]]:
    on_server = [PrometheusProcessor(metrics.registry)]
    on_client = [ClientPrometheus(metrics.registry)]
    functions = (add, fail, hang, count, echo)
    async with (
        serving(*functions, processor_list=on_server, clock=clock) as server,
        calling(server, processor_list=on_client, clock=clock) as client,
    ):
        yield server, client


async def test_calls_are_counted_and_timed_on_both_ends(metrics: Metrics) -> None:
    async with counted(metrics) as (_, client):
        for _ in range(3):
            await client.call(add, 1, 2)
        with pytest.raises(HandlerError):
            await client.call(fail)
    for side in ("server", "client"):
        assert metrics.value(f"rap_{side}_started_total", "/default/add") == 3
        assert metrics.value(f"rap_{side}_handled_total", "/default/add", code="OK") == 3
        assert metrics.value(f"rap_{side}_handled_total", "/default/fail", code="UNKNOWN") == 1
        assert metrics.value(f"rap_{side}_handling_seconds_count", "/default/add") == 3
        assert metrics.value(f"rap_{side}_handling_seconds_sum", "/default/add") > 0


async def test_a_deadline_is_a_deadline_on_both_ends_and_a_caller_who_leaves_a_cancel(
    metrics: Metrics, clock: FakeClock
) -> None:
    async with counted(metrics, clock) as (_, client):
        name = "rap_server_started_total"
        call = client.call(hang, timeout=5.0)
        await expired(call, clock, 5.0, once=lambda: metrics.value(name, "/default/hang") == 1)
        calling_it = asyncio.create_task(client.call(hang))
        await eventually(lambda: metrics.value(name, "/default/hang") == 2)
        calling_it.cancel()
        name = "rap_server_handled_total"
        await eventually(lambda: metrics.value(name, "/default/hang", code="CANCELLED"))
    for side in ("server", "client"):
        for code in ("DEADLINE_EXCEEDED", "CANCELLED"):
            name = f"rap_{side}_handled_total"
            assert metrics.value(name, "/default/hang", code=code) == 1


async def test_generators_and_channels_are_calls_too(metrics: Metrics) -> None:
    async with counted(metrics) as (_, client):

        @client.register("echo")
        async def talk(channel: Channel) -> None:
            await channel.write("hello")
            assert await channel.read_body() == "hello"

        assert [i async for i in client.iterator_call(count, 3)] == [0, 1, 2]
        async for _ in client.iterator_call(count, 1000):
            break
        await talk()
        name = "rap_client_handled_total"
        await eventually(
            lambda: metrics.value(name, "/default/count", shape="stream", code="OK") == 2
        )
        assert metrics.value(name, "/default/echo", shape="channel", code="OK") == 1


async def test_names_that_no_server_knows_share_one_series(metrics: Metrics) -> None:
    async with counted(metrics) as (_, client):
        await client.call(add, 1, 2)
        for i in range(50):
            with pytest.raises(Unimplemented):
                await client.raw_call(f"no_{i}")
    assert metrics.methods("rap_server_started_total") == {"/default/add"}
    assert metrics.methods("rap_client_started_total") == {"/default/add", UNKNOWN_METHOD}
    assert metrics.value("rap_client_handled_total", UNKNOWN_METHOD, code="UNIMPLEMENTED") == 50


async def test_retries_are_counted(metrics: Metrics) -> None:
    on_client = [ClientPrometheus(metrics.registry)]
    tries: list[int] = []

    async def flaky() -> int:
        tries.append(1)
        if len(tries) == 1:
            raise CallError("not now", code=Code.UNAVAILABLE)
        return len(tries)

    async with (
        serving(flaky) as server,
        calling(server, processor_list=on_client) as client,
    ):

        @client.register("flaky", idempotent=True)
        async def again() -> int:
            raise AssertionError("it runs on the server")

        assert await again() == 2
    assert metrics.value("rap_client_retries_total", "/default/flaky") == 1


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ({"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"}, True),
        ({"uber-trace-id": f"{TRACE_ID}:00f067aa0ba902b7:0:1"}, True),
        ({"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-00"}, False),  # not sampled
        ({"traceparent": "hello"}, False),
        ({"traceparent": 7}, False),
        ({}, False),
    ],
)
async def test_a_sampled_trace_is_the_exemplar(
    metrics: Metrics, header: dict[str, object], found: bool
) -> None:
    async with counted(metrics) as (_, client):
        await client.call(add, 1, 2, header=header)
    text = generate_latest(metrics.registry).decode()  # type: ignore[no-untyped-call]
    assert (f'# {{trace_id="{TRACE_ID}"}}' in text) is found


async def test_messages_are_counted_by_a_processor_of_their_own(metrics: Metrics) -> None:
    async with (
        serving(
            add, count, echo, processor_list=[PrometheusMessageProcessor(metrics.registry)]
        ) as server,
        calling(server, processor_list=[ClientMessages(metrics.registry)]) as client,
    ):

        @client.register("echo")
        async def talk(channel: Channel) -> None:
            for _ in range(2):
                await channel.write("hello")
                await channel.read_body()

        await client.call(add, 1, 2)
        assert [i async for i in client.iterator_call(count, 5)] == [0, 1, 2, 3, 4]
        await talk()
    for sent, received in (("server", "client"), ("client", "server")):
        for method, shape, number in (
            ("/default/add", "unary", (1, 1)),
            ("/default/count", "stream", (5, 1)),
            ("/default/echo", "channel", (2, 2)),
        ):
            expected = number[0] if sent == "server" else number[1]
            name = f"rap_{received}_messages_received_total"
            assert metrics.value(name, method, shape=shape) == expected


async def test_processors_of_one_registry_share_their_metrics(metrics: Metrics) -> None:
    one, other = PrometheusProcessor(metrics.registry), PrometheusProcessor(metrics.registry)
    async with (
        serving(add, processor_list=[one]) as first,
        serving(add, processor_list=[other]) as second,
    ):
        for server in (first, second):
            async with calling(server) as client:
                await client.call(add, 1, 2)
    assert metrics.value("rap_server_started_total", "/default/add") == 2
