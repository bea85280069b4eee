"""``rap call FUNC``: calls a function of any shape by its name and prints what it answers.

Nobody has to say which shape it has. A unary function and a generator are opened alike, and the
first message tells them apart; a server refuses to open a channel like that before anything runs.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

import click

from rap.call import StreamType
from rap.channel import Channel
from rap.cli.command import Command, Failed, run
from rap.cli.json_values import parse_arguments, parse_value, to_json, to_text
from rap.cli.remote import Remote, remote_options
from rap.cli.stdin import input_lines
from rap.client import Client
from rap.client.method import Method
from rap.client.retry import RetryState
from rap.errors import CallError, ChannelClosed, Code
from rap.schema.function import decode_any
from rap.transport import EndOfStream
from rap.wire.frames import BATCH, END

__all__ = ["call", "is_channel", "open_call"]


@click.command(cls=Command)
@click.argument("func", metavar="FUNC")
@click.argument("arguments", nargs=-1, metavar="[JSON|NAME=JSON]...")
@click.option("--group", metavar="NAME", help="Group of the function; default unless given.")
@click.option("--text", is_flag=True, help="Strings and bytes as they are, both ways, not as JSON.")
@click.option("--json", is_flag=True, help="One line a value, also on a terminal.")
@click.option(
    "--linger",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="After the end of the input, a channel is closed when nothing came for so long.",
)
@remote_options
def call(
    remote: Remote,
    func: str,
    arguments: tuple[str, ...],
    group: str | None,
    text: bool,
    json: bool,
    linger: float,
) -> None:
    """Call a function and print what it answers.

    Arguments are JSON; what is no JSON is a string. NAME=JSON passes one by its name. Bytes are
    printed as text in base64, and given as {"$base64": "..."}.

    A generator's items are printed as they come, one a line. The messages to a channel are the
    lines of standard input: JSON, or strings with --text.
    """
    args, kwargs = parse_arguments(arguments)
    pretty = sys.stdout.isatty() and not json
    printer = _Printer(text, 2 if pretty else None)
    run(_call(remote, func, group, (args, kwargs), linger, printer))


class _Printer:
    """Prints values, and reads lines, as the options say."""

    def __init__(self, as_text: bool, indent: int | None) -> None:
        self._as_text = as_text
        self._indent = indent

    def whole(self, value: Any) -> None:
        """Print the answer of a unary function."""
        if self._as_text:
            click.echo(to_text(value), nl=not isinstance(value, bytes))  # to a file as they are
        else:
            click.echo(to_json(value, indent=self._indent))

    def item(self, value: Any) -> None:
        """Print one of several answers."""
        click.echo(to_text(value) if self._as_text else to_json(value))

    def message(self, line: bytes) -> Any:
        """Return the message that a line stands for."""
        text = line.rstrip(b"\r\n").decode(errors="replace")
        return text if self._as_text else parse_value(text)


async def _call(
    remote: Remote,
    func: str,
    group: str | None,
    arguments: tuple[list[Any], dict[str, Any]],
    linger: float,
    printer: _Printer,
) -> None:
    async with remote.connected() as client:
        try:
            async for is_item, value in open_call(client, func, group, arguments, remote.timeout):
                (printer.item if is_item else printer.whole)(value)
        except CallError as error:
            if not is_channel(error):
                raise
            if any(arguments):
                text = f"{func} is a channel, which takes no arguments; write them to its input"
                raise Failed(text) from error
            await _talk(client, func, group, remote.timeout, linger, printer)


async def open_call(
    client: Client,
    func: str,
    group: str | None,
    arguments: tuple[list[Any], dict[str, Any]],
    timeout: float | None,
) -> AsyncGenerator[tuple[bool, Any], None]:
    """Call a unary function or a generator; yield each value and whether it is an item.

    Raises:
        CallError: The call failed.
    """
    invoker = client.invoker
    method = Method(func, group, None, timeout=timeout, stream_type=StreamType.STREAM)
    body = method.encode(*arguments)
    pending, _ = invoker.start_call(method, StreamType.STREAM, None, None, timeout)
    state, message = RetryState(), None
    while message is None:
        attempt = await invoker.open_stream(method, pending, None, body, state)
        stream = attempt.stream
        try:
            message = await stream.recv()
        except CallError as error:
            await invoker.prepare_retry(method, pending, None, attempt, state, error)
        except EndOfStream:
            return
    try:
        while True:
            flags, _, raw = message
            if flags & BATCH:
                for each in decode_any(raw):
                    yield True, each
            else:
                yield not flags & END, decode_any(raw)
            message = await stream.recv()
    except EndOfStream:
        return
    finally:
        stream.reset()


def is_channel(error: CallError) -> bool:
    """Whether a server refused a call because the function is a channel."""
    return (
        error.remote
        and error.code is Code.INVALID_ARGUMENT
        and "is a channel function" in error.message
    )


async def _talk(
    client: Client,
    func: str,
    group: str | None,
    timeout: float | None,
    linger: float,
    printer: _Printer,
) -> None:
    """Carry lines of standard input to a channel, and print what comes back.

    A server that is told of the end of the input can answer no more, so it is told only when its
    answers have stopped.
    """
    loop = asyncio.get_running_loop()

    async def talk(channel: Channel) -> None:
        sending = asyncio.create_task(_send(channel, printer), name="rap call input")
        try:
            async with asyncio.timeout(None) as silence:

                def wait_no_longer(_: object) -> None:
                    silence.reschedule(loop.time() + linger)

                sending.add_done_callback(wait_no_longer)
                try:
                    async for body in channel.iter_body():
                        printer.item(body)
                        if sending.done():
                            wait_no_longer(body)
                finally:
                    sending.remove_done_callback(wait_no_longer)
        except TimeoutError:
            if not silence.expired():
                raise
        finally:
            sending.cancel()
            await asyncio.wait([sending])
        if not sending.cancelled():
            sending.result()

    stub: Any = client.register(func, group, timeout=timeout)(talk)
    await stub()


async def _send(channel: Channel, printer: _Printer) -> None:
    async with aclosing(input_lines()) as lines:
        with suppress(ChannelClosed):
            async for line in lines:
                await channel.write(printer.message(line))
