"""Large and odd JSON of HTTP clients, which must not keep others waiting."""

import asyncio
import base64
import json
import sys
import threading
import tracemalloc
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import HTTPConnection

from rap.gateway.arrivals import Arrivals
from rap.gateway.errors import BadRequest
from rap.gateway.large_json import LargeJson
from rap.gateway.request import Parser, parse_json
from rap.gateway.request_lines import RequestLines
from rap.gateway.response import result_response
from rap.wire.codec import MAX_ELEMENTS
from tests.loopback import PATIENCE, eventually, within

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


class Body:
    """What a client sends, in chunks as an ASGI server passes them on."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = chunks

    async def body(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk

    def discard(self) -> None:
        """There is nothing more."""


def lines_of(*chunks: bytes) -> RequestLines:
    return RequestLines(cast(Arrivals, Body(*chunks)), Parser(()), 1 << 20, 1 << 30)


async def items_of(*chunks: bytes) -> list[Any]:
    lines = lines_of(*chunks)
    await lines.first(10.0)
    return [item async for item in lines.items()]


async def test_a_text_with_many_values_is_parsed_outside_the_event_loop() -> None:
    values: list[Any] = [{} for _ in range(50_000)]
    parsing = asyncio.ensure_future(Parser(()).parse_json(json.dumps(values), "it"))
    await asyncio.sleep(0)
    assert not parsing.done()
    assert await parsing == values


async def test_a_text_with_few_values_is_parsed_at_once() -> None:
    value = {"text": "x,:[{" * 100, "numbers": [1, 2.5, None]}
    parsing = asyncio.ensure_future(Parser(()).parse_json(json.dumps(value), "it"))
    await asyncio.sleep(0)
    assert parsing.done()
    assert await parsing == value


@pytest.mark.parametrize(
    "text",
    [
        "[" + ",".join(["{}"] * 345_000) + "]",
        "[" + ",".join(["[]"] * 345_000) + "]",
        "[" + "1," * 500_000 + "1]",
        "[" + ",".join(['""'] * 300_000) + "]",
        "{" + ",".join([f'"{i}":1' for i in range(70_000)]) + "}",
        "[" + ",".join(["{}"] * 345_000),
        '["\\\\",' + "1," * 500_000 + '"',
    ],
)
async def test_a_text_with_too_many_values_is_refused_before_they_are_built(text: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest, match="it has more than 100,000 values") as info:
            await Parser(()).parse_json(text, "it")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert info.value.status == 413
    assert peak < 16 * len(text)


@pytest.mark.parametrize("value", [[1] * MAX_ELEMENTS, [r"a,:[{\"" * 3] * 99_000])
def test_a_text_with_as_many_values_as_an_argument_may_have_is_parsed(value: Any) -> None:
    assert parse_json(json.dumps(value).encode(), "it") == value


@given(JSON)
async def test_any_value_is_parsed_alike_on_the_loop_and_outside(value: Any) -> None:
    text = json.dumps(value)
    assert parse_json(text.encode(), "it") == value
    assert await Parser(()).parse_json(text, "it") == value


@pytest.mark.parametrize(
    ("result", "is_large"),
    [
        (1, False),
        ([{"a": [1, 2]}] * 500, False),
        ([{}] * 50_000, True),
        ({str(i): [i] for i in range(3_000)}, True),
        ({"text": "a" * 1_000_000}, False),
        ({"text": "a" * 2_000_000}, True),
        ([b"a" * 1_000] * 4_000, True),
    ],
)
async def test_a_result_with_many_values_is_written_outside_the_event_loop(
    result: Any, is_large: bool
) -> None:
    answer = cast(Any, SimpleNamespace(header={}, trailer={}))
    writing = asyncio.ensure_future(result_response(result, answer, LargeJson()))
    await asyncio.sleep(0)
    assert writing.done() is not is_large
    assert json.loads(bytes((await writing).body)) == {"code": 0, "data": plain(result)}


def plain(value: Any) -> Any:
    """Return a result as JSON shows it."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def connection_of(host: str, port: int) -> HTTPConnection:
    return HTTPConnection({"type": "http", "client": (host, port), "headers": []})


async def test_a_large_text_of_another_client_does_not_wait_for_all_of_one() -> None:
    order: list[str] = []
    go_on, begun = threading.Event(), threading.Event()

    def work(name: str) -> None:
        begun.set()
        assert go_on.wait(PATIENCE)
        order.append(name)

    large = LargeJson()
    # A client that opens a connection for each request has no more turns than one with another.
    greedy = [large.of(connection_of("10.0.0.1", port)) for port in range(100)]
    modest = large.of(connection_of("10.0.0.2", 1))
    calls = [asyncio.create_task(each.run(work, "greedy")) for each in greedy]
    await eventually(begun.is_set)
    calls[1].cancel()
    calls.append(asyncio.create_task(modest.run(work, "modest")))
    await asyncio.wait([calls[1]])
    go_on.set()
    await within(asyncio.wait(calls))
    assert order.index("modest") == 1
    assert len(order) == 100


async def test_a_request_is_told_to_come_again_if_there_can_be_no_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    parser, text = Parser(()), json.dumps([1] * 10_000)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(BadRequest, match="can't start new thread") as info:
            await parser.parse_json(text, "it")
    assert info.value.status == 503
    assert info.value.headers == {"Retry-After": "1"}
    assert await parser.parse_json(text, "it") == [1] * 10_000


@pytest.mark.parametrize("blank", [b"\n", b" \n", b"\r\n", b"\t\n \r\n"])
async def test_empty_lines_take_no_step_each(blank: bytes) -> None:
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    chunk = blank * (65_536 // len(blank))
    sys.setprofile(count)
    try:
        found = await items_of(b"{}\n", *[chunk] * 16, b"1\n", chunk, b"2")
    finally:
        sys.setprofile(None)
    assert found == [1, 2]
    assert calls < 2_000


async def test_many_items_that_have_arrived_leave_turns_to_others() -> None:
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        loop.call_soon(turn)

    loop = asyncio.get_running_loop()
    loop.call_soon(turn)
    assert await items_of(b"{}\n" + b"1\n" * 50_000) == [1] * 50_000
    assert turns >= 45


@given(st.lists(st.sampled_from([b"1", b"22", b"", b" ", b"\r", b"[3]"])), st.data())
async def test_the_items_are_the_same_however_the_body_is_cut(
    lines: list[bytes], data: st.DataObject
) -> None:
    body = b"\n".join([b"{}", *lines])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))
    chunks = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    expected = [json.loads(line) for line in lines if line.strip()]
    assert await items_of(*filter(None, chunks)) == expected
