"""``rap call FUNC``: call a function of any kind by its name and print its answer."""

import asyncio
import sys
from contextlib import aclosing, suppress
from typing import Any

import click

from rap.channel import Channel
from rap.cli.calls import NamedCall, call_options, is_channel
from rap.cli.command import Command, Failed, run
from rap.cli.json_values import parse_value, to_json, to_text
from rap.cli.remote import Remote
from rap.cli.stdin import input_lines
from rap.client import Client
from rap.errors import CallError, ChannelClosed

__all__ = ["call"]


@click.command(cls=Command)
@click.option(
    "--text", is_flag=True, help="Print strings and bytes unchanged, and send lines as strings."
)
@click.option("--json", is_flag=True, help="Print each value on one line, even on a terminal.")
@click.option(
    "--linger",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time without a message, after the end of the input, before the channel is closed.",
)
@call_options
def call(remote: Remote, named: NamedCall, text: bool, json: bool, linger: float) -> None:
    """Call a function and print its result.

    Arguments are JSON; text that is not JSON is a string. NAME=JSON passes a keyword argument.
    Bytes are printed as base64 text. To pass bytes, write {"$base64": "..."}.

    The items of a generator are printed as they arrive, one per line. Each line of
    standard input is sent to a channel as a message: JSON, or a string with --text.
    """
    pretty = sys.stdout.isatty() and not json
    run(_call(remote, named, linger, _Printer(text, 2 if pretty else None)))


class _Printer:
    """Prints values and parses lines as the options say."""

    def __init__(self, as_text: bool, indent: int | None) -> None:
        self._as_text = as_text
        self._indent = indent

    def print_answer(self, value: Any) -> None:
        """Print the answer of a unary function."""
        if self._as_text:
            click.echo(to_text(value), nl=not isinstance(value, bytes))  # bytes for a file
        else:
            click.echo(to_json(value, indent=self._indent))

    def print_item(self, value: Any) -> None:
        """Print one item of a generator, or one message of a channel."""
        click.echo(to_text(value) if self._as_text else to_json(value))

    def parse_message(self, line: bytes) -> Any:
        """Return the message that a line of the input stands for."""
        text = line.rstrip(b"\r\n").decode(errors="replace")
        return text if self._as_text else parse_value(text)


async def _call(remote: Remote, named: NamedCall, linger: float, printer: _Printer) -> None:
    async with remote.connected() as client:
        try:
            async for is_item, value in named.open(client):
                (printer.print_item if is_item else printer.print_answer)(value)
        except CallError as error:
            if not is_channel(error):
                raise
            if named.args or named.kwargs:
                text = f"{named.func} is a channel, which takes no arguments"
                raise Failed(f"{text}; write them to its input") from error
            await _talk(client, named, linger, printer)


async def _talk(client: Client, named: NamedCall, linger: float, printer: _Printer) -> None:
    """Send the lines of standard input to a channel, and print what it sends.

    A server that has been told of the end of the input can answer no more. So the channel is closed
    only after its answers have stopped.
    """
    loop = asyncio.get_running_loop()

    async def talk(channel: Channel) -> None:
        sending = asyncio.create_task(_send(channel, printer), name="rap call input")
        try:
            async with asyncio.timeout(None) as silence:

                def restart_silence(_: object) -> None:
                    silence.reschedule(loop.time() + linger)

                sending.add_done_callback(restart_silence)
                try:
                    async for body in channel.iter_body():
                        printer.print_item(body)
                        if sending.done():
                            restart_silence(body)
                finally:
                    sending.remove_done_callback(restart_silence)
        except TimeoutError:
            if not silence.expired():
                raise
        finally:
            sending.cancel()
            await asyncio.wait([sending])
        if not sending.cancelled():
            sending.result()

    stub: Any = client.register(named.func, named.group, timeout=named.timeout)(talk)
    await stub()


async def _send(channel: Channel, printer: _Printer) -> None:
    async with aclosing(input_lines()) as lines:
        with suppress(ChannelClosed):
            async for line in lines:
                await channel.write(printer.parse_message(line))
