"""What the commands that talk to servers share: how they run, fail and end.

The exit status is 0 when all went well, 1 when a call or a server failed, 2 when the command line
is wrong, 130 after Ctrl-C. An error is one line on standard error.
"""

import asyncio
import logging
import re
from collections.abc import Coroutine
from typing import Any, TypeVar

import click

from rap.cli.runtime import loop_factory
from rap.errors import CallError, HandlerError, RapError

__all__ = ["INTERRUPTED", "Command", "Failed", "error_text", "one_line", "run"]

INTERRUPTED = 130  # exit status of a program ended by Ctrl-C, as shells have it

T = TypeVar("T")

_NEGATIVE = re.compile(r"-\d+(\.\d+)?([eE][+-]?\d+)?")


class Failed(click.ClickException):
    """What the command was to do failed; exit status 1."""

    def format_message(self) -> str:
        """Return the message as one line."""
        return one_line(self.message)


class _Misused(click.ClickException):
    """The command line is wrong; told in one line, without the lines on usage that click adds."""

    exit_code = 2

    def format_message(self) -> str:
        """Return the message as one line."""
        return one_line(self.message)


class Command(click.Command):
    """A command whose errors are one line, and that is quiet about Ctrl-C."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Read the command line."""
        try:
            return super().make_context(info_name, self._with_numbers(args), parent, **extra)
        except click.UsageError as exc:
            raise _misused(exc, info_name) from exc

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except click.UsageError as exc:
            raise _misused(exc, ctx.info_name) from exc
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except RapError as exc:
            raise Failed(error_text(exc)) from exc

    def _with_numbers(self, args: list[str]) -> list[str]:
        """Return arguments among which negative numbers do not look like options.

        JSON does not mind the space in front.
        """
        before = [
            each for each in self.params if isinstance(each, click.Option) and not each.is_flag
        ]
        valued = {name for each in before for name in each.opts}
        return [
            f" {each}" if _NEGATIVE.fullmatch(each) and last not in valued else each
            for last, each in zip(["", *args], args, strict=False)
        ]


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on an event loop of its own; what it fails with is all that is said."""
    logging.getLogger("rap").addHandler(logging.NullHandler())
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(main)


def error_text(error: RapError) -> str:
    """Return what to tell of an error: its code, and what the server said."""
    if not isinstance(error, CallError):
        return str(error)
    kind = f"{error.details['type']}: " if isinstance(error, HandlerError) else ""
    return f"{error.code.name}: {kind}{error}"


def one_line(text: str) -> str:
    """Return a text as one line that does nothing to a terminal; it may be a server's."""
    line = " ".join(text.split())
    return "".join(each if each.isprintable() else "�" for each in line)


def _misused(exc: click.UsageError, name: str | None) -> _Misused:
    text = exc.format_message().rstrip(".")
    return _Misused(f"{text}; see rap {name} --help")
