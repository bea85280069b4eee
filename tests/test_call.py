"""Calls, requests and responses: the values that plug-ins see."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rap.call import Call, Request, Response, Side, StreamType, current, method_path, split_method
from rap.clock import NEVER
from rap.errors import InvalidArgument

names = st.text(min_size=1, max_size=20).filter(lambda name: "/" not in name)


@given(names, names)
def test_group_and_name_make_a_method_and_come_back(group: str, name: str) -> None:
    assert split_method(method_path(group, name)) == (group, name)


def test_a_name_may_have_a_slash() -> None:
    assert split_method("/default/a/b") == ("default", "a/b")


def call() -> Call:
    return Call("/math/add", StreamType.UNARY, Side.CLIENT, {"token": "t"})


def test_a_call_begins_with_its_first_attempt_and_nothing_else() -> None:
    made = call()
    assert (made.attempt, made.deadline, made.peer, made.state) == (1, NEVER, None, {})
    assert repr(made) == "<Call /math/add unary>"


def test_calls_do_not_share_their_scratch_space() -> None:
    first, second = call(), call()
    first.state["span"] = 1
    assert second.state == {}


@pytest.mark.parametrize("kind", [Request, Response])
def test_a_message_says_whose_it_is(kind: type[Request | Response]) -> None:
    message = kind(call(), [1, 2])
    assert (message.method, message.group, message.func_name) == ("/math/add", "math", "add")
    assert repr(message) == f"{kind.__name__}('/math/add', header={{}}, body=[1, 2])"


def test_a_message_keeps_the_header_it_was_given() -> None:
    header: dict[str, object] = {}
    assert Request(call(), None, header).header is header
    assert Request(call()).header is not Request(call()).header


def test_outside_a_handler_there_is_no_current_call() -> None:
    assert current.get() is None


def test_an_encoded_body_is_decoded_when_it_is_read_and_only_then() -> None:
    decoded: list[Any] = []

    def decode(encoded: Any) -> list[int]:
        decoded.append(encoded)
        return [1]

    call = Call("/default/f", StreamType.UNARY, Side.SERVER, {})
    for make in (Request, Response):
        message = make(call, None, None, b"raw", decode)
        assert "<3 encoded bytes>" in repr(message)
        assert message.encoded == b"raw"
        assert decoded == []
        assert message.body == [1]
        assert decoded == [b"raw"]
        message.body.append(2)  # so what came is no longer what it holds
        assert message.encoded is None
        assert message.body == [1, 2]
        message.set_encoded(b"other", decode)
        assert message.encoded == b"other"
        message.body = None
        assert (message.body, message.encoded) == (None, None)
        assert decoded == [b"raw"]
        decoded.clear()
        assert not hasattr(message, "no_such_attribute")


def test_a_body_that_cannot_be_decoded_fails_each_time_it_is_read() -> None:
    def decode(encoded: Any) -> Any:
        raise InvalidArgument("no msgpack")

    request = Request(Call("/f", StreamType.UNARY, Side.SERVER, {}), None, None, b"", decode)
    for _ in range(2):
        with pytest.raises(InvalidArgument):
            _ = request.body
        assert request.encoded == b""
