"""A call of a function by its name, whatever kind of function it is.

The caller does not say which kind: a unary function and a generator are opened alike, and the first
message tells them apart. A server refuses to open a function that takes items or messages in this
way before anything runs. Such functions, too, are opened alike.
"""

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

import click

from rap.call import FORWARDED, MESSAGES_END, PRIORITIES, RESULT, Header, StreamType
from rap.cli.command import declared_option
from rap.cli.json_values import parse_arguments
from rap.cli.remote import Remote, remote_options
from rap.client import Client
from rap.client.config import CallOptions
from rap.client.method import Method
from rap.client.retry import RetryState
from rap.errors import CallError, ChannelClosed, Code
from rap.schema.function import decode_any, encode_any
from rap.transport import EndOfStream, Stream
from rap.transport.stream import answer_trailer
from rap.wire.codec import unpack_header
from rap.wire.frames import BATCH, END

__all__ = [
    "INPUT",
    "Answer",
    "NamedCall",
    "call_options",
    "function_named",
    "group_option",
    "refused_type",
]

INPUT = "-"  # the argument that stands for the lines of standard input
_OLD_LINGER = 1.0  # seconds
# What a server says of a function that was opened as one of another stream type.
_REFUSALS = {
    "is a unary function": StreamType.UNARY,
    "is a stream function": StreamType.STREAM,
    "is a client-streaming function": StreamType.CLIENT_STREAM,
    "is a bidirectional function": StreamType.BIDI,
    "is a channel function": StreamType.CHANNEL,
}


group_option = declared_option("--group", CallOptions, "group", metavar="NAME", default="default")


class Answer:
    """Header and trailer of the answer of a call, as far as they have arrived."""

    def __init__(self) -> None:
        self._stream: Stream | None = None
        self._end_meta = b""

    @property
    def header(self) -> Header:
        """What the function has set for the beginning of its answer."""
        return {} if self._stream is None else self._stream.answer_header

    @property
    def trailer(self) -> Header:
        """What the function has set for the end of its answer."""
        if self._end_meta:
            return answer_trailer(self._end_meta)
        return {} if self._stream is None else self._stream.answer_trailer

    def read_from(self, stream: Stream) -> None:
        """Take header and trailer from the stream of an attempt."""
        self._stream = stream

    def values(
        self, flags: int, meta: bytes, raw: bytes | memoryview
    ) -> Iterator[tuple[bool, Any]]:
        """Yield the values of a message, and before each whether it is an item or a message."""
        if flags & END:
            self._end_meta = meta
        if flags & BATCH:
            for each in decode_any(raw):
                yield True, each
        elif not _has_mark(meta, MESSAGES_END):
            yield not (flags & END or _has_mark(meta, RESULT)), decode_any(raw)


@dataclass(frozen=True, slots=True)
class NamedCall:
    """A function and the arguments to call it with.

    Args:
        func: Name of the function.
        group: Group of the function; `None` is ``default``.
        args: Positional arguments.
        kwargs: Keyword arguments.
        timeout: Seconds that the call may take; `None` leaves it to the server.
        reads_input: Whether the command line says that the lines of standard input are the items.
        priority: Priority of the call; `None` leaves it to the server.
    """

    func: str
    group: str | None
    args: list[Any]
    kwargs: dict[str, Any]
    timeout: float | None
    reads_input: bool = False
    priority: str | None = None

    def method(
        self, client: Client, stream_type: StreamType, *, idempotent: bool = False
    ) -> Method:
        """Return the method of this call.

        Args:
            client: Makes the calls.
            stream_type: Stream type of the function.
            idempotent: Whether a call may be made again if its outcome is unknown.
        """
        return client.methods.make(
            self.func,
            self.group,
            None,
            self.timeout,
            idempotent,
            priority=self.priority,
            stream_type=stream_type,
        )

    async def open(
        self, client: Client, answer: Answer | None = None
    ) -> AsyncGenerator[tuple[bool, Any], None]:
        """Call a unary function or a generator.

        Args:
            client: Makes the call.
            answer: Gets header and trailer of the answer.

        Yields:
            Each value, and before it whether it is an item of a generator.

        Raises:
            CallError: The call failed.
        """
        invoker = client.invoker
        answer = answer or Answer()
        stream_type = StreamType.STREAM
        method = self.method(client, stream_type)
        body = method.encode(self.args, self.kwargs)
        call, _ = invoker.start_call(method, stream_type, None, None, self.timeout)
        state, message = RetryState(), None
        while message is None:
            stream = await invoker.open_stream(method, call, None, body, state)
            answer.read_from(stream)
            try:
                message = await stream.recv()
            except CallError as error:
                pick = stream.node, stream.conn
                await invoker.prepare_retry(method, call, None, pick, state, error, stream.started)
            except EndOfStream:
                return
        try:
            while True:
                for value in answer.values(*message):
                    yield value
                message = await stream.recv()
        except EndOfStream:
            return
        finally:
            stream.reset()

    async def converse(
        self,
        client: Client,
        items: AsyncGenerator[Any, None],
        show: Callable[[bool, Any], None],
        answer: Answer,
        linger: float | None,
        *,
        as_channel: bool = False,
    ) -> None:
        """Call a function that takes items or messages; return when it has ended.

        Args:
            client: Makes the call.
            items: What to send. After the last one the function is told of the end.
            show: Takes each value that arrives, and before it whether it is an item or a message.
            answer: Gets header and trailer of the answer.
            linger: Seconds without a message, after the last item, until the call is cancelled;
                `None` waits for the function. A server of an older release cannot answer after
                the end, so it is told of it only then, after one second by default.
            as_channel: Whether the function is known to be a channel.

        Raises:
            CallError: The call failed, or an item cannot be sent.
        """
        stream_type = StreamType.CHANNEL if as_channel else StreamType.BIDI
        stream = await self._open_for_items(client, stream_type, answer)
        is_old = not stream.conn.peer_has("outcome")
        if is_old and linger is None:
            linger = _OLD_LINGER
        loop = asyncio.get_running_loop()
        last = 0.0  # when something was sent or has arrived

        async def send() -> None:
            nonlocal last
            async with aclosing(items):
                async for item in items:
                    encoded = encode_any(item)
                    try:
                        await stream.send(encoded)
                    except (CallError, ChannelClosed):
                        return  # the reader is told why
            if not is_old:
                stream.end()
            last = loop.time()

        async def read() -> None:
            nonlocal last
            while True:
                try:
                    message = await stream.recv()
                except EndOfStream:
                    return
                last = loop.time()
                for value in answer.values(*message):
                    show(*value)

        sending = loop.create_task(send(), name="rap call input")
        reading = loop.create_task(read(), name="rap call output")
        try:
            await asyncio.wait((sending, reading), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                sending.result()
            while not reading.done():
                left = None if linger is None else last + linger - loop.time()
                if left is not None and left <= 0:
                    break
                await asyncio.wait((reading,), timeout=left)
            if reading.done():
                reading.result()
            elif is_old:
                stream.leave()
        finally:
            sending.cancel()
            reading.cancel()
            await asyncio.wait((sending, reading))
            stream.reset()

    async def _open_for_items(
        self, client: Client, stream_type: StreamType, answer: Answer
    ) -> Stream:
        """Open the stream of a function that takes items or messages.

        A channel without arguments has no message in its Open. If it is opened with one, because
        its kind is not known, the server refuses it. That is noticed before an item is read.
        """
        invoker = client.invoker
        method = self.method(client, stream_type)
        bare = not self.args and not self.kwargs
        body = method.encode(self.args, self.kwargs)
        async with client.session:
            call, session = invoker.start_call(method, stream_type, None, None, self.timeout)
            is_channel = stream_type is StreamType.CHANNEL
            stream = await invoker.open_stream(
                method, call, session, None if bare and is_channel else body, RetryState()
            )
            answer.read_from(stream)
            if bare and not is_channel:
                # A server handles the frames of a connection in order. When it has refused this
                # call, it has accepted or refused the stream.
                with suppress(CallError):
                    await client.raw_call("list", group="registry", header={FORWARDED: ""})
                if stream.error is not None:
                    raise stream.error
        return stream


def refused_type(error: CallError) -> StreamType | None:
    """Return the stream type of a function that was opened as one of another type."""
    if not error.remote or error.code is not Code.INVALID_ARGUMENT:
        return None
    return next((kind for text, kind in _REFUSALS.items() if text in error.message), None)


def _has_mark(meta: bytes, name: str) -> bool:
    """Whether a message is not one of the items: the reserved header `name` says what it is."""
    if not meta:
        return False
    content = unpack_header(meta)
    return isinstance(content, dict) and content.get(name) is True


def function_named(text: str, group: str | None) -> tuple[str, str | None]:
    """Return name and group of a function that a user names, as `add` or as `calc/add`.

    Neither may contain a slash, and messages of rap show both with slashes.

    Args:
        text: What the user wrote.
        group: The group, unless the text has one.
    """
    prefix, _, name = text.removeprefix("/").rpartition("/")
    return name, prefix or group


def call_options(func: Callable[..., Any]) -> Callable[..., Any]:
    """Add FUNC, its arguments, ``--group`` and ``--priority`` to a command, which gets `named`.

    The command gets the options of `remote_options`, too.
    """

    @functools.wraps(func)
    def with_call(
        *,
        remote: Remote,
        func_name: str,
        arguments: tuple[str, ...],
        group: str,
        priority: str | None,
        **kwargs: Any,
    ) -> Any:
        args, named = parse_arguments(tuple(each for each in arguments if each != INPUT))
        reads_input = INPUT in arguments
        name, in_group = function_named(func_name, group)
        call = NamedCall(name, in_group, args, named, remote.timeout, reads_input, priority)
        return func(remote=remote, named=call, **kwargs)

    command: Callable[..., Any] = remote_options(with_call)
    for option in (
        declared_option(
            "--priority",
            CallOptions,
            "priority",
            type=click.Choice(PRIORITIES),
            default="that of the function",
        ),
        group_option,
        click.argument("arguments", nargs=-1, metavar="[JSON|NAME=JSON]..."),
        click.argument("func_name", metavar="FUNC"),
    ):
        command = option(command)
    return command
