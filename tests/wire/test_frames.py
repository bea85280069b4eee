import pytest
from hypothesis import given
from hypothesis import strategies as st

from rap.errors import Code
from rap.wire.codec import pack, unpack
from rap.wire.frames import (
    ACK,
    CREDIT,
    DATA,
    DONE,
    GOAWAY,
    HEADER_SIZE,
    HELLO,
    KIND_NAMES,
    LOAD,
    MAX_STREAM_ID,
    MESSAGE,
    OPEN,
    PING,
    RESET,
    UNSERVED,
    Frame,
    credit_frame,
    go_away_frame,
    parse_frames,
    ping_frame,
    read_go_away,
    read_reset,
    reset_frame,
)
from rap.wire.hello import decode_hello, hello_frame

FRAMES = st.builds(
    Frame,
    st.integers(0, 255),
    st.integers(0, 255),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=40),
    st.binary(max_size=40),
)


def only(data: bytes) -> Frame:
    (frame,) = parse_frames(data)
    return frame


def test_a_frame_is_a_header_of_twelve_bytes_then_meta_then_body() -> None:
    data = Frame(OPEN, MESSAGE, 3, b"me", b"body").encode()
    assert data == b"\0\0\0\6" + b"\1" + b"\1" + b"\0\0\0\3" + b"\0\2" + b"me" + b"body"
    assert HEADER_SIZE == 12


def test_every_kind_has_its_number_and_its_name() -> None:
    numbers = (DATA, OPEN, RESET, CREDIT, PING, GOAWAY, HELLO, LOAD, DONE)
    assert numbers == (0, 1, 2, 3, 4, 5, 6, 7, 8)
    names = "DATA OPEN RESET CREDIT PING GOAWAY HELLO LOAD DONE".split()
    assert [KIND_NAMES[n] for n in numbers] == names


@given(st.lists(FRAMES, max_size=5))
def test_frames_are_read_back_as_they_were_written(frames: list[Frame]) -> None:
    assert parse_frames(b"".join(frame.encode() for frame in frames)) == frames


@given(FRAMES, st.integers(1, 20))
def test_a_frame_that_is_cut_off_is_left_out(frame: Frame, missing: int) -> None:
    data = frame.encode()
    assert parse_frames(frame.encode() + data[: max(len(data) - missing, 0)]) == [frame]


def test_a_hello_is_a_map() -> None:
    frame = only(hello_frame({"rap": 1}))
    assert (frame.kind, frame.stream_id) == (HELLO, 0)
    assert decode_hello(frame.body) == {"rap": 1}
    with pytest.raises(ValueError, match="a Hello must be a map, got list"):
        decode_hello(pack([]))


def test_a_reset_has_code_message_and_details() -> None:
    frame = only(reset_frame(7, Code.NOT_FOUND, "no", {"a": 1}, UNSERVED))
    assert frame[:4] == (RESET, UNSERVED, 7, b"")
    assert read_reset(frame.body) == (5, "no", {"a": 1})


@pytest.mark.parametrize("read", [read_reset, read_go_away])
def test_more_entries_than_we_know_are_ignored(read: object) -> None:
    assert read_reset(pack([1, "m", {}, "new"])) == (1, "m", {})
    assert read_go_away(pack([1, "m", "new"])) == (1, "m")


@pytest.mark.parametrize("value", [None, [], [1], ["1", "m", {}], [1, 2, {}], {"code": 1}])
def test_a_reset_or_go_away_of_another_form_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="a Reset must be"):
        read_reset(pack(value))
    with pytest.raises(ValueError, match="a GoAway must be"):
        read_go_away(pack(value))


def test_details_that_cannot_be_sent_are_left_out_of_a_reset() -> None:
    details = {"type": "E", "n": 1.5, "none": None, "bad": object(), "list": [1]}
    body = only(reset_frame(1, 2, "m", details)).body
    assert read_reset(body) == (2, "m", {"type": "E", "n": 1.5, "none": None})


def test_a_reset_that_is_too_large_is_cut() -> None:
    details = {"type": "E" * 1000, **{f"key {i}": i / 2 for i in range(10_000)}, "\ud800": "x"}
    frame = only(reset_frame(1, 2, "\N{EURO SIGN}" * 10_000, details, limit=16_384))
    code, message, kept = read_reset(frame.body)
    assert len(frame.body) <= 16_384
    assert message == "\N{EURO SIGN}" * (4096 // 3)
    assert (code, kept["type"], len(kept)) == (2, "E" * 256, 16)


def test_text_that_is_not_unicode_does_not_prevent_a_reset() -> None:
    body = only(reset_frame(1, 2, "file \udcff", {"name\ud800": "\ud800"})).body
    assert read_reset(body) == (2, "file ?", {"name?": "?"})


def test_a_credit_is_four_bytes() -> None:
    assert only(credit_frame(5, 258)) == (CREDIT, 0, 5, b"", b"\0\0\1\2")


def test_a_ping_and_its_answer_carry_the_same_eight_bytes() -> None:
    assert only(ping_frame(b"12345678")) == (PING, 0, 0, b"", b"12345678")
    assert only(ping_frame(b"12345678", ack=True)) == (PING, ACK, 0, b"", b"12345678")


def test_a_go_away_has_the_last_stream_in_its_header_and_a_text_of_bounded_length() -> None:
    frame = only(go_away_frame(MAX_STREAM_ID, 8, "x" * 100_000))
    assert (frame.kind, frame.stream_id) == (GOAWAY, MAX_STREAM_ID)
    assert unpack(frame.body) == [8, "x" * 4096]
