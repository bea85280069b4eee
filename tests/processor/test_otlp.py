"""Spans on their way to a collector by OTLP over HTTP, and collectors that are none."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.semconv._incubating.attributes import rpc_attributes
from opentelemetry.semconv.attributes import (
    client_attributes,
    error_attributes,
    exception_attributes,
    network_attributes,
    server_attributes,
)

from rap.client import Client
from rap.client.processor import OpenTelemetryProcessor
from rap.errors import CallError, Code, HandlerError
from tests.collectors import Collected, OtlpCollector
from tests.loopback import PATIENCE, calling, serving, within

CONVENTIONS = {
    value
    for module in (
        rpc_attributes,
        client_attributes,
        error_attributes,
        exception_attributes,
        network_attributes,
        server_attributes,
    )
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, str)
}
OLD = {
    rpc_attributes.RPC_SYSTEM,
    rpc_attributes.RPC_SERVICE,
    rpc_attributes.RPC_GRPC_STATUS_CODE,
}  # what they were before they were stable


async def add(a: int, b: int) -> int:
    return a + b


async def fail() -> None:
    raise RuntimeError("no")


async def flaky() -> int:
    raise CallError("never", code=Code.UNAVAILABLE)


def provider_for(url: str, timeout: float = PATIENCE, batch: int = 1) -> TracerProvider:
    """Return one that sends spans as soon as so many have ended."""
    provider = TracerProvider(
        resource=Resource.create({"service.name": "shop"}), shutdown_on_exit=False
    )
    exporter = OTLPSpanExporter(f"{url}/v1/traces", timeout=timeout)
    provider.add_span_processor(
        BatchSpanProcessor(exporter, max_queue_size=16, max_export_batch_size=batch)
    )
    return provider


@asynccontextmanager
async def traced(provider: TracerProvider) -> AsyncIterator[Client]:
    async with (
        serving(add, fail, flaky, processor_list=[OpenTelemetryProcessor(provider)]) as server,
        calling(server, processor_list=[OpenTelemetryProcessor(provider)]) as client,
    ):
        yield client


async def collect(number: int) -> list[Collected]:
    """Return what has come of a call that succeeds, one that fails, and one that is tried again."""
    with OtlpCollector() as collector:
        provider = provider_for(collector.url)
        async with traced(provider) as client:

            @client.register("flaky", idempotent=True)
            async def again() -> int:
                raise AssertionError("it runs on the server")

            assert await client.call(add, 1, 2) == 3
            with pytest.raises(HandlerError):
                await client.call(fail)
            with pytest.raises(CallError):
                await again()
            spans = await asyncio.to_thread(
                collector.wait_for, lambda spans: len(spans) >= number, PATIENCE
            )
        await asyncio.to_thread(provider.shutdown)
    return spans


async def test_spans_come_to_a_collector_with_their_parents_and_attributes() -> None:
    spans = await collect(2 + 2 + 5)
    assert {span.service for span in spans} == {"shop"}
    by_kind = {(span.name, span.kind): span for span in spans}
    for name in ("add", "fail", "flaky"):
        asking, answering = (by_kind[f"default/{name}", kind] for kind in ("client", "server"))
        assert asking.parent_id == 0
        assert answering.parent_id == asking.span_id
        assert answering.trace_id == asking.trace_id
    added, failed = by_kind["default/add", "client"], by_kind["default/fail", "server"]
    assert added.tags["rpc.system.name"] == "rap"
    assert added.tags["rpc.method"] == "default/add"
    assert added.tags["rpc.response.status_code"] == "OK"
    assert failed.tags["error.type"] == "UNKNOWN"
    assert [name for name, _ in failed.events] == ["exception"]
    tried = by_kind["default/flaky", "client"]
    attempts = [fields["rap.attempt"] for name, fields in tried.events if name == "rap.attempt"]
    assert attempts == [1, 2, 3, 4]
    assert tried.tags["rap.attempts"] == 4


async def test_attributes_are_those_of_the_conventions_or_rap_s_own() -> None:
    spans = await collect(2 + 2 + 5)
    names = {name for span in spans for name in span.tags}
    names |= {name for span in spans for _, fields in span.events for name in fields}
    known = {name for name in names if not name.startswith("rap.")}
    assert known <= CONVENTIONS - OLD
    assert {"server.address", "client.address", "network.peer.address", "error.type"} <= known


@contextmanager
def refusing() -> Iterator[tuple[str, threading.Event]]:
    """A port at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        asked = threading.Event()
        asked.set()  # nobody can tell
        yield f"http://127.0.0.1:{taken.getsockname()[1]}", asked


@contextmanager
def hanging() -> Iterator[tuple[str, threading.Event]]:
    """A collector that takes a connection, and never answers."""
    asked = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        taken: list[socket.socket] = []

        def take() -> None:
            while True:
                try:
                    one, _ = listening.accept()
                except OSError:
                    return  # closed
                taken.append(one)
                asked.set()

        thread = threading.Thread(target=take)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", asked
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
            for each in taken:
                each.close()


@pytest.mark.parametrize("collector", [refusing, hanging])
async def test_a_dead_collector_holds_up_neither_calls_nor_their_end(collector: object) -> None:
    assert callable(collector)
    with collector() as (url, asked):
        provider = provider_for(url, timeout=0.3, batch=16)
        async with traced(provider) as client:
            for number in range(10):
                assert await within(client.call(add, number, 0)) == number
            assert await asyncio.to_thread(asked.wait, PATIENCE)
            for number in range(100):  # more spans than are kept
                assert await within(client.call(add, number, 0)) == number
            closing = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - closing < PATIENCE
        # The provider is its program's to end; that takes as long as a request of the exporter may.
        await within(asyncio.to_thread(provider.shutdown))
