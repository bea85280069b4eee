"""Request streams and channels in signatures: how they are found, and the codecs of their items."""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable
from collections.abc import Iterator as PlainIterator
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

import pytest

from rap.call import StreamType
from rap.channel import Channel
from rap.errors import CallError, Internal, InvalidArgument, RegistrationError
from rap.schema.function import Function
from rap.wire.codec import pack


@dataclass
class Row:
    n: int


async def upload(name: str, rows: AsyncIterator[Row]) -> int:
    return 0


async def echo(rows: AsyncIterator[Row]) -> AsyncIterator[Row]:
    async for row in rows:
        yield row


async def bare(rows: AsyncIterator) -> int:  # type: ignore[type-arg]  # a bare hint is legal
    return 0


async def loose(rows: AsyncIterable[int] | Iterable[int]) -> int:
    return 0


async def generated(rows: Annotated[AsyncGenerator[int, None], "doc"]) -> int:
    return 0


def plain(rows: PlainIterator[int], factor: int = 2) -> int:
    return 0


def plain_echo(rows: Generator[int, None, None]) -> PlainIterator[int]:
    yield from rows


async def named(factor: int, *, rows: AsyncIterator[int]) -> int:
    return 0


async def room(channel: Channel[int, str], name: str) -> int:
    return 0


@pytest.mark.parametrize(
    ("func", "stream_type", "parameter"),
    [
        (upload, StreamType.CLIENT_STREAM, "rows"),
        (echo, StreamType.BIDI, "rows"),
        (bare, StreamType.CLIENT_STREAM, "rows"),
        (loose, StreamType.CLIENT_STREAM, "rows"),
        (generated, StreamType.CLIENT_STREAM, "rows"),
        (plain, StreamType.CLIENT_STREAM, "rows"),
        (plain_echo, StreamType.BIDI, "rows"),
        (named, StreamType.CLIENT_STREAM, "rows"),
        (room, StreamType.CHANNEL, None),
    ],
)
def test_an_iterator_among_the_parameters_is_the_request_stream(
    func: Any, stream_type: StreamType, parameter: str | None
) -> None:
    function = Function(func)

    assert function.stream_type is stream_type
    assert function.stream_parameter == parameter


async def two(a: AsyncIterator[int], b: AsyncIterator[int]) -> int:
    return 0


async def mixed(channel: Channel, rows: AsyncIterator[int]) -> None: ...


async def starred(*rows: AsyncIterator[int]) -> int:
    return 0


async def with_default(rows: AsyncIterator[int] = ...) -> int:  # type: ignore[assignment]
    return 0


async def unsendable(rows: AsyncIterator[object]) -> int:
    return 0


async def blocking(rows: PlainIterator[int]) -> int:
    return 0


@pytest.mark.parametrize(
    ("func", "message"),
    [
        (two, r"parameter 'a' is a request stream and 'b' is a request stream"),
        (mixed, r"parameter 'channel' is a Channel and 'rows' is a request stream"),
        (starred, r"cannot have a star"),
        (with_default, r"parameter 'rows' is a request stream, so it cannot have a default"),
        (unsendable, r"unsendable\(\): item of 'rows': type object cannot be sent"),
        (blocking, r"parameter 'rows': type collections.abc.Iterator\[int\] cannot be sent"),
    ],
)
def test_a_signature_that_no_call_could_serve_is_refused(func: Any, message: str) -> None:
    with pytest.raises(RegistrationError, match=message):
        Function(func)


def test_items_of_a_request_stream_are_checked_by_their_type() -> None:
    function = Function(upload)

    body = function.encode_request_item(Row(1))

    assert function.decode_request_item(body) == Row(1)
    assert function.decode_request_items(pack([{"n": 1}, {"n": 2}])) == [Row(1), Row(2)]
    with pytest.raises(InvalidArgument, match=r"upload\(\): item of 'rows': expected `int`"):
        function.encode_request_item(Row("x"))  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match=r"upload\(\): item of 'rows'"):
        function.decode_request_item(pack({"m": 1}))


@pytest.mark.parametrize(
    ("func", "given", "others", "joined"),
    [
        (upload, ("x", "ROWS"), ("x",), (["x", "ROWS"], None)),
        (plain, ("ROWS", 3), (3,), (["ROWS", 3], None)),
        (room, ("ROWS", "x"), ("x",), (["ROWS", "x"], None)),
    ],
)
def test_arguments_leave_out_the_request_stream_and_take_it_back_in_its_place(
    func: Any, given: tuple[Any, ...], others: tuple[Any, ...], joined: Any
) -> None:
    function = Function(func)

    assert function.split_arguments(given, None) == (others, None, "ROWS")
    assert function.decode_call(function.encode_args(others)) == (others, None)
    assert function.join_arguments(others, None, "ROWS") == joined


def test_a_request_stream_may_be_given_by_name() -> None:
    function = Function(named)

    assert function.split_arguments((2,), {"rows": "ROWS"}) == ((2,), {}, "ROWS")
    assert function.join_arguments((2,), None, "ROWS") == ((2,), {"rows": "ROWS"})
    with pytest.raises(InvalidArgument, match=r"missing a required argument: 'rows'"):
        function.split_arguments((2,), None)


def test_messages_of_a_channel_have_the_types_that_its_annotation_names() -> None:
    function = Function(room)

    assert function.decode_result(function.encode_result(3)) == 3
    for encode, decode in (function.client_messages, function.server_messages):
        assert decode(encode("text").replace(b"\xa4text", b"\x07")) == 7


@pytest.mark.parametrize(
    ("side", "written", "read"),
    [("client", InvalidArgument, Internal), ("server", Internal, InvalidArgument)],
)
def test_a_wrong_message_of_a_channel_is_told_with_its_type_and_direction(
    side: str, written: type[CallError], read: type[CallError]
) -> None:
    encode, decode = getattr(Function(room), f"{side}_messages")
    with pytest.raises(written) as on_write:
        encode(b"no text")
    text = f"room(): message: expected `str`, got `bytes`; the {side} writes str"
    assert on_write.value.message == text
    with pytest.raises(read) as on_read:
        decode(pack(b"no number"))
    text = f"room(): message: expected `int`, got `bytes`; the {side} reads int"
    assert on_read.value.message == text


SWAPPED = (
    ", which this is: Channel[In, Out] is written from the view of its own side, which reads In;"
    " if both sides declare the same, swap In and Out on the client (docs/how-to/typing.md)"
)


@pytest.mark.parametrize("side", ["client", "server"])
def test_a_message_for_the_other_direction_of_a_channel_tells_that_the_types_are_swapped(
    side: str,
) -> None:
    encode, decode = getattr(Function(room), f"{side}_messages")
    with pytest.raises(CallError) as on_write:
        encode(7)
    assert on_write.value.message.endswith(f"; the {side} writes str and reads int{SWAPPED}")
    with pytest.raises(CallError) as on_read:
        decode(pack("text"))
    assert on_read.value.message.endswith(f"; the {side} reads int and writes str{SWAPPED}")


def test_a_wrong_value_has_one_traceback() -> None:
    def add(a: int) -> int: ...  # type: ignore[empty-body]  # a declaration

    function = Function(add)
    for wrong in (
        lambda: function.encode_args(("one",)),
        lambda: function.encode_args((1, 2)),
        lambda: function.decode_args(pack(["one"])),
        lambda: function.encode_result("one"),
        lambda: function.decode_result(pack("one")),
        lambda: Function(room).client_messages[0](7),
    ):
        with pytest.raises(CallError) as caught:
            wrong()
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__


def test_a_wrong_value_has_the_traceback_of_the_type_that_refuses_it() -> None:
    @dataclass
    class Even:
        number: int

        def __post_init__(self) -> None:
            if self.number % 2:
                raise ValueError("it is odd")

    def half(of: Even) -> int: ...  # type: ignore[empty-body]  # a declaration

    with pytest.raises(InvalidArgument, match="it is odd") as caught:
        Function(half).decode_args(pack([{"number": 3}]))
    assert type(caught.value.__cause__) is ValueError


async def one_way(channel: Channel[int]) -> NoReturn:
    raise AssertionError


async def with_object(channel: Channel) -> object: ...


def test_a_channel_may_leave_out_a_type() -> None:
    function = Function(one_way)

    encode, decode = function.server_messages
    assert encode({"any": 1})
    with pytest.raises(InvalidArgument, match=r"the server reads int$"):
        decode(pack("x"))


def test_only_a_client_may_declare_a_channel_function_whose_value_cannot_be_sent() -> None:
    function = Function(with_object)

    assert "return value: type object cannot be sent" in str(function.unsendable)
    assert Function(one_way).unsendable is None
