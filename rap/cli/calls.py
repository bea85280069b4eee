"""A call of a function by its name, whatever kind of function it is.

The caller does not say which kind: a unary function and a generator are opened alike, and the first
message tells them apart. A server refuses to open a channel in this way before anything runs.
"""

import functools
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

import click

from rap.call import StreamType
from rap.cli.json_values import parse_arguments
from rap.cli.remote import Remote, remote_options
from rap.client import Client
from rap.client.method import Method
from rap.client.retry import RetryState
from rap.errors import CallError, Code
from rap.schema.function import decode_any
from rap.transport import EndOfStream
from rap.wire.frames import BATCH, END

__all__ = ["NamedCall", "call_options", "is_channel"]


@dataclass(frozen=True, slots=True)
class NamedCall:
    """A function and the arguments to call it with.

    Args:
        func: Name of the function.
        group: Group of the function; `None` is ``default``.
        args: Positional arguments.
        kwargs: Keyword arguments.
        timeout: Seconds that the call may take; `None` leaves it to the server.
    """

    func: str
    group: str | None
    args: list[Any]
    kwargs: dict[str, Any]
    timeout: float | None

    @property
    def options(self) -> dict[str, Any]:
        """What `Client.raw_call` and `Client.iterator_call` take after the name."""
        return {
            "group": self.group,
            "arg_param": self.args,
            "kwarg_param": self.kwargs,
            "timeout": self.timeout,
        }

    async def open(self, client: Client) -> AsyncGenerator[tuple[bool, Any], None]:
        """Call a unary function or a generator.

        Yields:
            Each value, and before it whether it is an item of a generator.

        Raises:
            CallError: The call failed.
        """
        invoker = client.invoker
        stream_type = StreamType.STREAM
        method = Method(self.func, self.group, None, timeout=self.timeout, stream_type=stream_type)
        body = method.encode(self.args, self.kwargs)
        call, _ = invoker.start_call(method, stream_type, None, None, self.timeout)
        state, message = RetryState(), None
        while message is None:
            stream = await invoker.open_stream(method, call, None, body, state)
            try:
                message = await stream.recv()
            except CallError as error:
                pick = stream.node, stream.conn
                await invoker.prepare_retry(method, call, None, pick, state, error, stream.started)
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


def call_options(func: Callable[..., Any]) -> Callable[..., Any]:
    """Add FUNC, its arguments and ``--group`` to a command, which gets them as `named`.

    The command gets the options of `remote_options`, too.
    """

    @functools.wraps(func)
    def with_call(
        *, remote: Remote, func_name: str, arguments: tuple[str, ...], group: str, **kwargs: Any
    ) -> Any:
        args, named = parse_arguments(arguments)
        call = NamedCall(func_name, group, args, named, remote.timeout)
        return func(remote=remote, named=call, **kwargs)

    command: Callable[..., Any] = remote_options(with_call)
    for option in (
        click.option("--group", metavar="NAME", help="Group of the function. [default: default]"),
        click.argument("arguments", nargs=-1, metavar="[JSON|NAME=JSON]..."),
        click.argument("func_name", metavar="FUNC"),
    ):
        command = option(command)
    return command
