from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rap.wire.codec import pack
from rap.wire.hello import Limits, PeerLimits, decode_hello, read_hello

BOUNDS = {
    "max_frame": (16 * 1024, 64 * 2**20),
    "max_message": (1024, 2**31),
    "max_streams": (1, 2**20),
    "stream_window": (64 * 1024, 2**30),
    "connection_window": (64 * 1024, 2**30),
}


@pytest.mark.parametrize("name", [*BOUNDS, "fragment"])
@pytest.mark.parametrize("value", [0, -1, 2**40, True, 1.5, "1", None])
def test_a_bad_limit_is_named_with_its_value(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be an integer from \d+ to \d+, got"):
        Limits(**{name: value})


@pytest.mark.parametrize("name", ["max_frame", "max_message", "max_streams"])
def test_the_bounds_themselves_are_allowed(name: str) -> None:
    for value in BOUNDS[name]:
        assert getattr(Limits(**{name: value}), name) == value


def test_the_connection_has_at_least_the_window_of_a_stream() -> None:
    with pytest.raises(ValueError, match="connection_window must be at least stream_window"):
        Limits(stream_window=2**20, connection_window=2**20 - 1)


@pytest.mark.parametrize("name", ["max_unfinished", "max_requests"])
@pytest.mark.parametrize("value", [2**20 - 1, -1, True, 1.5, "1"])
def test_messages_together_have_room_for_one(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be at least max_message \(1048576\), got"):
        Limits(max_message=2**20, **{name: value})


def test_the_hello_has_every_limit_but_the_fragment_size() -> None:
    assert set(Limits().to_hello()) == {*BOUNDS, "max_unfinished"}
    assert Limits(max_message=2**20).to_hello()["max_unfinished"] == 8 * 2**20
    assert Limits(max_unfinished=2**25).to_hello()["max_unfinished"] == 2**25


@given(st.fixed_dictionaries({}, optional={k: st.integers(*b) for k, b in BOUNDS.items()}))
def test_a_hello_may_tell_any_limit_and_leave_out_any(told: dict[str, int]) -> None:
    limits, rest = read_hello({"rap": 1, **told, "unknown": "x"})
    assert rest == {"unknown": "x"}
    for name in BOUNDS:
        assert getattr(limits, name) == told.get(name, getattr(PeerLimits(), name))


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("value", [0, 2**40, True, "1", None])
def test_a_limit_of_the_peer_out_of_bounds_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"Hello: {name} must be"):
        read_hello({"rap": 1, name: value})


@pytest.mark.parametrize("value", [0, -1, True, "1", None])
def test_what_the_peer_holds_in_parts_is_a_positive_integer_if_it_says_it(value: Any) -> None:
    assert read_hello({"rap": 1})[0].max_unfinished is None
    assert read_hello({"rap": 1, "max_unfinished": 2**40})[0].max_unfinished == 2**40
    with pytest.raises(ValueError, match="Hello: max_unfinished must be an integer from 1 on, got"):
        read_hello({"rap": 1, "max_unfinished": value})


@pytest.mark.parametrize(
    "content",
    [
        {"rap": 1, **{f"key {n}": n for n in range(32)}},
        {"rap": 1, "abilities": ["x"] * 63},
        {"rap": 1, "abilities": [["x"]]},
        {"rap": 1, "extra": {"a": {}}},
    ],
)
def test_a_hello_with_much_in_it_is_refused(content: dict[str, Any]) -> None:
    """It is decoded for anybody, before a token was looked at."""
    with pytest.raises(ValueError, match=r"too many elements|nested too deep"):
        decode_hello(pack(content))


def test_a_hello_has_room_for_much_more_than_any_release_says() -> None:
    content = {"rap": 1, **{f"key {n}": "x" * 400 for n in range(23)}, "abilities": ["x"] * 14}
    assert decode_hello(pack(content)) == content
