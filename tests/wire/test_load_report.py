"""Reports of load: what is written is read back, and anything else is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rap.wire.codec import pack
from rap.wire.frames import HEADER_SIZE, LOAD, Frame, parse_frames
from rap.wire.load_report import ASK_FOR_LOAD, ServerLoad, load_frame, read_load

COUNTS = st.integers(0, 2**40)
PARTS = st.floats(0.0, 1e9)
LOADS = st.builds(
    ServerLoad, COUNTS, st.none() | PARTS, PARTS, st.booleans(), COUNTS, st.none() | COUNTS
)


@given(LOADS)
def test_a_report_is_read_back_as_it_was_written(load: ServerLoad) -> None:
    (frame,) = parse_frames(load_frame(load))
    assert frame[:4] == (LOAD, 0, 0, b"")
    assert read_load(frame.body) == load


def test_a_report_is_small() -> None:
    load = ServerLoad(1000, 0.012345, 0.987, False, 5000, 10**9)
    assert len(load_frame(load)) - HEADER_SIZE < 80


def test_the_request_for_a_report_has_no_body() -> None:
    assert parse_frames(ASK_FOR_LOAD) == [Frame(LOAD, 0, 0)]


def test_all_but_the_calls_in_flight_may_be_missing_and_more_is_ignored() -> None:
    assert read_load(pack({"in_flight": 3, "hue": "green"})) == ServerLoad(3)


@pytest.mark.parametrize(
    "content",
    [
        None,
        [3],
        {},
        {"in_flight": None},
        {"in_flight": -1},
        {"in_flight": 1.5},
        {"in_flight": True},
        {"in_flight": "3"},
        {"in_flight": 1, "latency": -0.1},
        {"in_flight": 1, "latency": float("nan")},
        {"in_flight": 1, "latency": float("inf")},
        {"in_flight": 1, "latency": True},
        {"in_flight": 1, "util": None},
        {"in_flight": 1, "util": [1]},
        {"in_flight": 1, "draining": 1},
        {"in_flight": 1, "clients": 0.5},
        {"in_flight": 1, "calls": -1},
        {"in_flight": 1, "calls": 0.5},
        {"in_flight": 1, "calls": True},
    ],
)
def test_a_report_of_another_form_is_refused(content: Any) -> None:
    with pytest.raises(ValueError, match="a load report "):
        read_load(pack(content))


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        load = read_load(body)
    except ValueError:
        return
    assert load.in_flight >= 0
