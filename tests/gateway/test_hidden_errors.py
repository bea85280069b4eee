"""HTTP clients do not see the inside: exceptions, addresses, signatures, names of functions."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.testclient import TestClient

from rap.channel import Channel
from rap.client import Client
from rap.client.processor import OpenTelemetryProcessor
from rap.errors import CallError, Code, Internal
from rap.gateway import create_app
from rap.gateway.errors import ErrorReplies
from rap.server import Server
from tests.client.threaded import serving

SECRET = "db.inner:5432 password=hunter2"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
EVENTS = {"accept": "text/event-stream"}
LINES = {"content-type": "application/x-ndjson"}
JSON = {"content-type": "application/json"}
HIDDEN = ("UNKNOWN", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "DEADLINE_EXCEEDED")


async def crash() -> None:
    raise LookupError(SECRET)


async def fail(code: int) -> None:
    raise CallError(SECRET, code=Code(code))


async def fail_at_once() -> AsyncIterator[int]:
    raise LookupError(SECRET)
    yield 1


async def fail_later() -> AsyncIterator[int]:
    yield 1
    raise LookupError(SECRET)


async def fail_upload(rows: AsyncIterator[int]) -> int:
    raise LookupError(SECRET)


async def fail_channel(channel: Channel) -> None:
    raise LookupError(SECRET)


async def transfer(to: str, password: str = SECRET) -> int:
    return 1


async def bad_result() -> int:
    return SECRET  # type: ignore[return-value]


async def slow() -> None:
    await asyncio.Event().wait()


FUNCTIONS = (crash, fail, fail_at_once, fail_later, fail_upload, fail_channel, transfer, slow)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(*FUNCTIONS, bad_result) as server:
        server.register(crash, "secret_function", "inner_group")
        yield server


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[TestClient]:
    app = create_app("", Client(server.addresses), group_filter=["inner_group"])
    with TestClient(app) as http:
        yield http


def call(http: TestClient, name: str, body: Any = None, **headers: str) -> Any:
    return http.post(f"/call/default/{name}", json=body or {}, headers=headers)


def check_hidden(body: dict[str, Any], code: str = "UNKNOWN") -> str:
    """Check that an error has its code and a trace id, and return the latter."""
    assert body.keys() == {"code", "msg", "trace_id"}
    assert body["msg"] == code
    trace_id: str = body["trace_id"]
    assert re.fullmatch("[0-9a-f]{32}", trace_id)
    return trace_id


def test_an_exception_of_a_handler_is_logged_and_not_shown(
    http: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    trace_id = check_hidden(call(http, "crash").json())
    (line,) = [it.getMessage() for it in caplog.records if it.name == "rap.gateway"]
    assert line == f"/default/crash failed: UNKNOWN: LookupError: {SECRET} (trace {trace_id})"
    body = {"func_name": "crash"}
    assert check_hidden(http.post("/normal", json=body).json()) != trace_id
    answer = http.post("/call/default/fail_upload", content="\n1\n", headers=LINES)
    check_hidden(answer.json())


def test_an_exception_of_a_generator_is_not_shown(http: TestClient) -> None:
    check_hidden(call(http, "fail_at_once", **EVENTS).json())
    text = call(http, "fail_later", **EVENTS).text
    assert re.search(r'event: error\ndata: {"code":500,"msg":"UNKNOWN","trace_id":"\w{32}"}', text)
    assert SECRET not in text


def channel_error(http: TestClient, name: str) -> Any:
    """Return the error with which a channel ends."""
    with http.websocket_connect("/channel") as socket:
        socket.send_json({"func_name": name})
        reply = socket.receive_json()
        return socket.receive_json() if reply == {"code": 0, "data": "accept"} else reply


def test_an_exception_of_a_channel_is_not_shown(http: TestClient) -> None:
    check_hidden(channel_error(http, "fail_channel"))


@pytest.mark.parametrize("code", [code for code in Code if code])
def test_the_texts_of_some_codes_are_for_clients(http: TestClient, code: Code) -> None:
    body = call(http, "fail", {"code": int(code)}).json()
    if code.name in HIDDEN:
        check_hidden(body, code.name)
    else:  # the function has said it on purpose
        assert body["msg"] == SECRET


def test_a_result_of_a_wrong_type_is_not_shown(http: TestClient) -> None:
    check_hidden(call(http, "bad_result").json(), "INTERNAL")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "transfer(): missing a required argument: 'to'"),
        ({"to": "a", "x": 1}, "transfer(): got an unexpected keyword argument 'x'"),
        ({"to": 1}, "transfer(): argument 'to': expected `str`, got `int`"),
        (
            {"x; expected transfer(": 1, "to": "a"},
            "transfer(): got an unexpected keyword argument 'x",
        ),
        ({"x; expected\n": 1, "to": "a"}, "transfer(): got an unexpected keyword argument 'x;"),
    ],
)
def test_a_wrong_argument_is_named_without_the_signature(
    http: TestClient, body: Any, text: str
) -> None:
    answer = call(http, "transfer", body)
    assert answer.status_code == 400
    assert answer.json()["msg"].startswith(text)
    assert "password" not in answer.text


def test_a_text_that_resembles_a_signature_everywhere_is_answered_at_once(http: TestClient) -> None:
    name = "(): " * 200_000 + "\ud800"  # which cannot be sent
    answer = http.post("/normal", content=json.dumps({"func_name": name}), headers=JSON)
    assert answer.status_code == 400
    assert answer.json()["msg"].startswith("'/default/(): (): ")


def test_a_deadline_does_not_show_which_server_was_late(http: TestClient) -> None:
    answer = call(http, "slow", **{"rap-timeout": "0.05"})
    assert answer.status_code == 504
    check_hidden(answer.json(), "DEADLINE_EXCEEDED")


@pytest.mark.parametrize("name", ["secret_functio", "secret_function", "transfe"])
def test_an_unknown_function_does_not_show_which_others_there_are(
    http: TestClient, name: str
) -> None:
    text = f"no function '/default/{name}' on this server"
    for headers in ({}, EVENTS):
        answer = call(http, name, **headers)
        assert (answer.status_code, answer.json()["msg"]) == (404, text)
    answer = http.post(f"/call/default/{name}", content="\n", headers=LINES)
    assert (answer.status_code, answer.json()["msg"]) == (404, text)
    assert channel_error(http, name) == {"code": 404, "msg": text}


def test_a_server_that_is_away_is_not_named() -> None:
    running = serving(crash)
    server = running.__enter__()
    client = Client(server.addresses, wait_for_ready=False)
    with TestClient(create_app("", client)) as http:
        check_hidden(call(http, "crash").json())
        running.__exit__(None, None, None)
        answer = call(http, "crash")
        assert answer.status_code == 503
        check_hidden(answer.json(), "UNAVAILABLE")
        check_hidden(channel_error(http, "crash"), "UNAVAILABLE")


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (CallError("at 10.0.0.1", code=Code.RESOURCE_EXHAUSTED, unserved=True), False),
        (CallError("at 10.0.0.1", code=Code.PERMISSION_DENIED, unserved=True, remote=True), False),
        (CallError("at 10.0.0.1", code=Code.UNAUTHENTICATED), False),
        (CallError("too many", code=Code.RESOURCE_EXHAUSTED, remote=True), True),
        (Internal("at 10.0.0.1"), False),
        (CallError("cannot be sent", code=Code.INVALID_ARGUMENT), True),
    ],
)
def test_what_no_handler_has_said_is_not_shown(error: CallError, shown: bool) -> None:
    assert ErrorReplies(debug=True).reply(error)["msg"] == error.message
    reply = ErrorReplies(debug=False).reply(error)
    if shown:
        assert reply["msg"] == error.message
    else:
        check_hidden(reply, error.code.name)


def test_a_text_of_many_lines_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    error = CallError("a\nERROR rap: forged\x1b[31m" + "x" * 10_000)
    ErrorReplies(debug=False).reply(error)
    (record,) = caplog.records
    line = record.getMessage()
    assert line.isprintable()
    assert len(line) < 1200


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-00"},
        {"uber-trace-id": f"{TRACE_ID}:00f067aa0ba902b7:0:0"},
    ],
)
def test_the_trace_id_is_that_of_the_request(http: TestClient, headers: dict[str, str]) -> None:
    assert check_hidden(call(http, "crash", **headers).json()) == TRACE_ID


def test_the_trace_id_is_that_of_the_span_of_the_call(server: Server) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    client = Client(server.addresses, processor_list=[OpenTelemetryProcessor(provider)])
    with TestClient(create_app("", client)) as http:
        found = {check_hidden(call(http, "crash").json())}
        found.add(check_hidden(call(http, "fail_at_once", **EVENTS).json()))
        found.add(check_hidden(channel_error(http, "fail_channel")))
    spans = {span.name: span.context for span in exporter.get_finished_spans()}
    names = ("default/crash", "default/fail_at_once", "default/fail_channel")
    assert found == {f"{spans[name].trace_id:032x}" for name in names}
