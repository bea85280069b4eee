"""The gateway continues the trace of its caller, in the format of W3C or Jaeger."""

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.middleware import Middleware
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from rap.client import Client
from rap.client.processor import OpenTelemetryProcessor
from rap.gateway import create_app
from rap.server import Channel, Server, context
from tests.client.threaded import serving

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN_ID = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"
UBER_TRACE_ID = f"{TRACE_ID}:{SPAN_ID}:0:1"


async def seen() -> dict[str, Any]:
    return dict(context.request.header)


async def seen_by_channel(channel: Channel) -> None:
    await channel.write(dict(context.request.header))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(seen, seen_by_channel) as server:
        yield server


class Instrumented:
    """What an instrumentation of ASGI does: a span around each request."""

    def __init__(self, app: ASGIApp, provider: TracerProvider) -> None:
        self._app = app
        self._tracer = provider.get_tracer("asgi")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        with self._tracer.start_as_current_span("request"):
            await self._app(scope, receive, send)


def header_seen(http: TestClient, headers: dict[str, str]) -> dict[str, Any]:
    answer = http.post("/api/call/default/seen", json={}, headers=headers)
    found: dict[str, Any] = answer.json()["data"]
    assert found.pop("forwarded_for") == "testclient"
    return found


@pytest.mark.parametrize(
    ("headers", "passed"),
    [
        ({"Traceparent": TRACEPARENT, "tracestate": "a=1"},) * 2,
        ({"uber-trace-id": UBER_TRACE_ID},) * 2,
        ({"baggage": "a=1", "uberctx-user": "somebody", "x-other": "b"}, {}),
        ({"traceparent": "x" * 513}, {}),
        ({"traceparent": ""}, {}),
    ],
)
def test_only_trace_headers_are_forwarded(
    server: Server, headers: dict[str, str], passed: dict[str, str]
) -> None:
    with TestClient(create_app("/api", Client(server.addresses))) as http:
        found = header_seen(http, headers)
        with http.websocket_connect("/api/channel", headers=dict(headers)) as socket:
            socket.send_json({"func_name": "seen_by_channel"})
            assert socket.receive_json()["data"] == "accept"
            said = socket.receive_json()
    assert found == {name.lower(): value for name, value in passed.items()}
    del said["session_id"]
    assert said == {"forwarded_for": "testclient", **found}


@pytest.mark.parametrize("instrumented", [False, True])
@pytest.mark.parametrize(
    "headers", [{"traceparent": TRACEPARENT}, {"uber-trace-id": UBER_TRACE_ID}]
)
def test_the_span_of_the_gateway_continues_the_trace(
    server: Server, headers: dict[str, str], instrumented: bool
) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    client = Client(server.addresses, processor_list=[OpenTelemetryProcessor(provider)])
    app = create_app("/api", client)
    if instrumented:
        app.user_middleware.append(Middleware(Instrumented, provider))
    with TestClient(app) as http:
        found = header_seen(http, headers)
    spans = {span.name: span for span in exporter.get_finished_spans()}
    calling = spans["default/seen"]
    assert calling.context is not None
    assert calling.parent is not None
    if instrumented:
        request = spans["request"].context
        assert request is not None
        parent = (request.trace_id, request.span_id)
    else:
        parent = (int(TRACE_ID, 16), int(SPAN_ID, 16))
    assert (calling.parent.trace_id, calling.parent.span_id) == parent
    # What the service reads is the span of the gateway, in one form only.
    said = f"00-{calling.context.trace_id:032x}-{calling.context.span_id:016x}-"
    assert found.keys() == {"traceparent"}
    assert found["traceparent"].startswith(said)
