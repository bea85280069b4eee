"""``rap call FUNC``: call a function of any kind by its name and print its answer."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import click

from rap.call import StreamType
from rap.cli.calls import INPUT, Answer, NamedCall, call_options, refused_type
from rap.cli.command import Command, Failed, error_text, run
from rap.cli.json_values import parse_value, to_json, to_text
from rap.cli.remote import Remote
from rap.cli.stdin import input_lines
from rap.client import Client
from rap.errors import CallError, Code
from rap.foreign import printable

__all__ = ["call"]

_SILENT = 5.0  # seconds without an answer after which the command says that it waits
_TAKES_NO_ITEMS = (StreamType.UNARY, StreamType.STREAM)


@click.command(cls=Command)
@click.option(
    "--text", is_flag=True, help="Print strings and bytes unchanged, and send lines as strings."
)
@click.option("--json", is_flag=True, help="Print each value on one line, even on a terminal.")
@click.option(
    "-i",
    "--include",
    is_flag=True,
    help="Print header and trailer of the answer to standard error, as JSON.",
)
@click.option(
    "--linger",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Time without a message, after the end of the input, before a call that takes items is"
    " cancelled. [default: it waits for the function]",
)
@call_options
def call(
    remote: Remote, named: NamedCall, text: bool, json: bool, include: bool, linger: float | None
) -> None:
    """Call a function and print its result.

    Arguments are JSON; text that is not JSON is a string. NAME=JSON passes a keyword argument.
    Bytes are printed as base64 text. To pass bytes, write {"$base64": "..."}.

    The items of a generator are printed as they arrive, one per line. If the function takes a
    stream of items or is a channel, each line of standard input is an item or a message: JSON, or
    a string with --text. The argument - says so, and fails for any other function.

    Without --timeout, it waits for the function as long as that takes. After 5 seconds without an
    answer it says so on standard error.
    """
    pretty = sys.stdout.isatty() and not json
    answer = Answer() if include else None
    run(_call(remote, named, linger, _Printer(text, 2 if pretty else None), answer))


class _Reminder:
    """Says once that a call without a time limit has no answer yet.

    Args:
        named: The call.
    """

    def __init__(self, named: NamedCall) -> None:
        self._named = named
        self._is_over = named.timeout is not None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to wait for an answer; everything is sent."""
        if not self._is_over:
            self._timer = asyncio.get_running_loop().call_later(_SILENT, self._print)

    def pause(self) -> None:
        """Note that something is still to be sent."""
        if self._timer is not None:
            self._timer.cancel()

    def end(self) -> None:
        """Note that an answer has come, or that the call has ended."""
        self._is_over = True
        self.pause()

    def before(self, show: Callable[[bool, Any], None]) -> Callable[[bool, Any], None]:
        """Return a function that shows an answer, and ends the reminder before."""

        def end_and_show(is_item: bool, value: Any) -> None:
            self.end()
            show(is_item, value)

        return end_and_show

    async def after(self, items: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
        """Yield what is to be sent, and begin to wait when all of it is."""
        async with aclosing(items):
            async for each in items:
                yield each
        self.start()

    def _print(self) -> None:
        text = "--timeout SECONDS would limit that, and Ctrl-C ends it"
        click.echo(f"rap: {self._named.func} has sent nothing for {_SILENT:g} s; {text}", err=True)


class _Printer:
    """Prints values and parses lines as the options say."""

    def __init__(self, as_text: bool, indent: int | None) -> None:
        self._as_text = as_text
        self._indent = indent

    def print_value(self, is_item: bool, value: Any) -> None:
        """Print an item of a stream or a message of a channel; otherwise an answer."""
        (self.print_item if is_item else self.print_answer)(value)

    def print_answer(self, value: Any) -> None:
        """Print the answer of a function that has one answer."""
        if self._as_text:
            click.echo(_shown(value), nl=not isinstance(value, bytes))  # bytes for a file
        else:
            click.echo(to_json(value, indent=self._indent))

    def print_item(self, value: Any) -> None:
        """Print one item of a stream, or one message of a channel."""
        click.echo(_shown(value) if self._as_text else to_json(value))

    def print_metadata(self, answer: Answer) -> None:
        """Print header and trailer of an answer."""
        click.echo(f"header {to_json(answer.header)}", err=True)
        click.echo(f"trailer {to_json(answer.trailer)}", err=True)

    async def messages(self) -> AsyncGenerator[Any, None]:
        """Yield what the lines of the input stand for."""
        async with aclosing(input_lines()) as lines:
            async for line in lines:
                yield self.parse_message(line)

    def parse_message(self, line: bytes) -> Any:
        """Return the message that a line of the input stands for."""
        text = line.rstrip(b"\r\n").decode(errors="replace")
        return text if self._as_text else parse_value(text)


def _shown(value: Any) -> str | bytes:
    """Return a value as text; on a terminal, without characters that could control it."""
    text = to_text(value)
    if not sys.stdout.isatty():
        return text
    return printable(text if isinstance(text, str) else text.decode(errors="backslashreplace"))


async def _call(
    remote: Remote,
    named: NamedCall,
    linger: float | None,
    printer: _Printer,
    included: Answer | None,
) -> None:
    answer = included or Answer()
    reminder = _Reminder(named)
    async with remote.connected() as client:
        try:
            if not named.reads_input:
                reminder.start()
                show = reminder.before(printer.print_value)
                kind = await _call_without_items(client, named, show, answer)
                if kind is None:
                    return
                reminder.pause()
            else:
                kind = StreamType.BIDI
            await _converse(client, named, printer, answer, linger, kind, reminder)
        finally:
            reminder.end()
            if included is not None:
                printer.print_metadata(included)


def _is_almost_json(value: object) -> bool:
    return isinstance(value, str) and value.startswith(("{", "["))


async def _call_without_items(
    client: Client, named: NamedCall, show: Callable[[bool, Any], None], answer: Answer
) -> StreamType | None:
    """Call a unary function or a generator; return the stream type of any other function."""
    try:
        async for is_item, value in named.open(client, answer):
            show(is_item, value)
    except CallError as error:
        kind = refused_type(error)
        if kind is None:
            texts = [
                each for each in (*named.args, *named.kwargs.values()) if _is_almost_json(each)
            ]
            if error.code is Code.INVALID_ARGUMENT and texts:
                text = f"{texts[0]!r} is not JSON, so it was sent as text; quote it for the shell"
                raise Failed(f"{error_text(error)}; {text}") from error
            raise
        return kind
    return None


async def _converse(
    client: Client,
    named: NamedCall,
    printer: _Printer,
    answer: Answer,
    linger: float | None,
    kind: StreamType,
    reminder: _Reminder,
) -> None:
    """Send the lines of the input to a function, and print what it sends."""
    is_channel = kind is StreamType.CHANNEL
    items = reminder.after(printer.messages())
    show = reminder.before(printer.print_value)
    try:
        await named.converse(client, items, show, answer, linger, as_channel=is_channel)
    except CallError as error:
        refused = refused_type(error)
        if refused in _TAKES_NO_ITEMS:
            raise Failed(f"{named.func} takes no items; leave out {INPUT!r}") from error
        if refused is not StreamType.CHANNEL:
            raise
        if named.args or named.kwargs:
            text = f"{named.func} is a channel, which takes no arguments"
            raise Failed(f"{text}; write them to its input") from error
        if is_channel:
            raise
    else:
        return
    await _converse(client, named, printer, answer, linger, StreamType.CHANNEL, reminder)
