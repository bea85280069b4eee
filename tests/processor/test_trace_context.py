"""Headers that name a trace, and those that only look like it."""

from typing import Any

import pytest

from rap.call import Call, Side, StreamType
from rap.processor.tracing.context import (
    TRACE_ID,
    TraceParent,
    put_trace,
    sampled_trace_id,
    trace_id,
)

T, S = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
FOUND = (int(T, 16), int(S, 16))


@pytest.mark.parametrize(
    ("header", "sampled"),
    [
        ({"traceparent": f"00-{T}-{S}-01"}, True),
        ({"traceparent": f"00-{T}-{S}-00"}, False),
        ({"traceparent": f"cc-{T}-{S}-03"}, True),  # a later version, more flags
        ({"uber-trace-id": f"{T}:{S}:0:1"}, True),
        ({"uber-trace-id": f"{T.upper()}:f067aa0ba902b7:{S}:0"}, False),
        ({"traceparent": "hello", "uber-trace-id": f"{T}:{S}:0:1"}, True),
    ],
)
def test_a_trace_is_read(header: dict[str, Any], sampled: bool) -> None:
    assert TraceParent.of(header) == (*FOUND, sampled)


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"traceparent": f"ff-{T}-{S}-01"},
        {"traceparent": f"00-{'0' * 32}-{S}-01"},
        {"traceparent": f"00-{T}-{'0' * 16}-01"},
        {"traceparent": f"00-{T}-{S}-01\n"},
        {"traceparent": f"00-{T.upper()}-{S}-01"},
        {"traceparent": b"00"},
        {"traceparent": 1},
        {"uber-trace-id": "1:2:3"},
        {"uber-trace-id": "0:1:0:1"},
        {"uber-trace-id": f"{T}0:{S}:0:1"},
    ],
)
def test_what_is_no_trace_is_none(header: dict[str, Any]) -> None:
    assert TraceParent.of(header) is None


def test_both_forms_say_the_same() -> None:
    parent = TraceParent(*FOUND, sampled=True)
    assert TraceParent.of({"traceparent": parent.traceparent}) == parent
    assert TraceParent.of({"uber-trace-id": parent.uber_trace_id}) == parent


@pytest.mark.parametrize(
    ("header", "state", "found"),
    [
        ({"traceparent": f"00-{T}-{S}-01"}, {}, T),
        ({"traceparent": f"00-{T}-{S}-00"}, {}, ""),
        ({"traceparent": f"00-{T}-{S}-01"}, {TRACE_ID: ""}, ""),  # dropped here
        ({}, {TRACE_ID: T}, T),
        ({}, {}, ""),
    ],
)
def test_a_call_is_found_in_the_trace_that_is_kept(
    header: dict[str, Any], state: dict[str, Any], found: str
) -> None:
    call = Call("/default/f", StreamType.UNARY, Side.SERVER, header)
    call.state.update(state)
    assert sampled_trace_id(call) == found


@pytest.mark.parametrize(
    ("header", "state", "found"),
    [
        ({"traceparent": f"00-{T}-{S}-01"}, {}, T),
        ({"traceparent": f"00-{T}-{S}-00"}, {}, T),
        ({"traceparent": f"00-{T}-{S}-00"}, {TRACE_ID: ""}, T),  # not kept, but known
        ({"uber-trace-id": "a1:1:0:0"}, {}, f"{0xA1:032x}"),
        ({}, {TRACE_ID: T}, T),
        ({}, {}, ""),
    ],
)
def test_a_call_is_in_a_trace_whether_that_is_kept_or_not(
    header: dict[str, Any], state: dict[str, Any], found: str
) -> None:
    call = Call("/default/f", StreamType.UNARY, Side.SERVER, header)
    call.state.update(state)
    assert trace_id(call) == found


def test_a_span_takes_the_place_of_any_that_a_header_had() -> None:
    header = {"traceparent": "x", "tracestate": "y", "uber-trace-id": "z", "tenant": "blue"}
    put_trace(header, {"traceparent": f"00-{T}-{S}-01"})
    assert header == {"traceparent": f"00-{T}-{S}-01", "tenant": "blue"}
