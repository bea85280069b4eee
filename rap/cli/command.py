"""What commands share: how they run, fail and end, and options that several of them have.

The exit status is 0 if everything succeeded, 1 if a call or a server failed, 2 if the command line
is wrong, and 130 after Ctrl-C. An error is one line on standard error.
"""

import asyncio
import importlib
import logging
import os
import re
import traceback
from collections.abc import Callable, Coroutine
from difflib import get_close_matches
from math import isinf
from pathlib import Path
from typing import IO, Any, TypeVar

import click

from rap.cli.runtime import LOOPS, loop_factory
from rap.errors import CallError, HandlerError, RapError
from rap.foreign import one_line
from rap.options import Options, declared_options

__all__ = [
    "INTERRUPTED",
    "Command",
    "Failed",
    "ProgramError",
    "declared_option",
    "error_text",
    "json_option",
    "loop_option",
    "run",
]

_FLAGS = {  # of the command line, for options that errors name
    "ssl_ca_path": "--ca",
    "ssl_crl_path": "--crl",
    "ssl_server_name": "--server-name",
    "ssl_identity": "--identity",
}

INTERRUPTED = 130  # the exit status that shells give a program that Ctrl-C ended

_MOST = 1000  # characters of an error; some name several servers and what to do

T = TypeVar("T")

_RAP = str(Path(__file__).parents[1]) + os.sep
# What imports a program.
_NOT_PROGRAM = (_RAP, "<frozen importlib", str(Path(importlib.__file__).parent) + os.sep)
_LIKE = 0.75  # how alike an option must be to one that was meant, of 1
# What other programs call options of these.
_SYNONYMS = {
    "--address": "--host",
    "--addr": "--host",
    "--endpoint": "--host",
    "--server": "--host",
    "--url": "--host",
    "--port": "--host",
    "--deadline": "--timeout",
    "--loglevel": "--log-level",
    "--verbose": "--log-level",
}

_NEGATIVE = re.compile(r"-\d+(\.\d+)?([eE][+-]?\d+)?")


class Failed(click.ClickException):
    """The command could not do what it was asked to do; the exit status is 1."""

    def format_message(self) -> str:
        """Return the message as one line."""
        return one_line(self.message, _MOST)


class ProgramError(Failed):
    """The module of a program, or the function that makes its server, has raised an exception.

    The text names the exception, and the file and line of the program. The traceback, as far as it
    is about the program, is printed before it, unless rap has refused what the program says.

    Args:
        what: What has failed.
        error: What was raised.
    """

    def __init__(self, what: str, error: Exception) -> None:
        import sysconfig  # programs seldom fail

        trace = traceback.TracebackException.from_exception(error)
        is_refusal = bool(trace.stack) and trace.stack[-1].filename.startswith(_RAP)
        frames = _keep_program(trace)
        paths = sysconfig.get_paths()
        others = tuple(paths[each] + os.sep for each in ("stdlib", "purelib", "platlib"))
        own = [each for each in frames if not each.filename.startswith(others)] or frames
        at = f"{own[-1].filename}:{own[-1].lineno}: " if own else ""
        if isinstance(error, SyntaxError) and error.filename and error.lineno:
            at = f"{error.filename}:{error.lineno}: "
        text = one_line(error, _MOST)
        if not is_refusal:
            text = f"{type(error).__name__}: {text}".removesuffix(": ")
        super().__init__(f"{what}: {at}{text}")
        self._traceback = "" if is_refusal else "".join(trace.format())

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it to standard error, or to a file."""
        click.echo(self._traceback, file, nl=False, err=file is None)
        super().show(file)


def _keep_program(trace: traceback.TracebackException) -> traceback.StackSummary:
    """Drop what is not about a program from a traceback; return what is left of its last part."""
    own = [each for each in trace.stack if not each.filename.startswith(_NOT_PROGRAM)]
    trace.stack = traceback.StackSummary.from_list(own)
    for each in filter(None, (trace.__cause__, trace.__context__)):
        _keep_program(each)
    if trace.__context__ is not None and not trace.__context__.stack:
        trace.__context__ = None  # rap has imported the program because of it
    return trace.stack


class Command(click.Command):
    """A command whose errors are one line, and that prints nothing after Ctrl-C."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """Parse the command line."""
        try:
            return super().make_context(info_name, self._with_numbers(args), parent, **extra)
        except click.UsageError as exc:
            raise _misused(exc, None, info_name) from exc

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except click.UsageError as exc:
            raise _misused(exc, ctx, ctx.info_name) from exc
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except RapError as exc:
            raise Failed(error_text(exc)) from exc

    def _with_numbers(self, args: list[str]) -> list[str]:
        """Return the arguments with a space before negative numbers, which JSON allows.

        Without it click would take them for options.
        """
        options = [
            each for each in self.params if isinstance(each, click.Option) and not each.is_flag
        ]
        valued = {name for each in options for name in each.opts}
        return [
            f" {each}" if _NEGATIVE.fullmatch(each) and last not in valued else each
            for last, each in zip(["", *args], args, strict=False)
        ]


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a new event loop; only the error it fails with is printed."""
    logging.getLogger("rap").addHandler(logging.NullHandler())
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(main)


def error_text(error: RapError) -> str:
    """Return what to print for an error: its code and its message, with flags beside options."""
    if not isinstance(error, CallError):
        return _with_flags(str(error))
    if isinstance(error, HandlerError):
        return f"{error.code.name}: {error.details['type']}: {error.message}".removesuffix(": ")
    return f"{error.code.name}: {_with_flags(str(error))}"


def _with_flags(text: str) -> str:
    return re.sub("|".join(_FLAGS), lambda found: f"{found[0]}, here {_FLAGS[found[0]]}", text)


def declared_option(
    flag: str,
    declaration: type[Options],
    name: str,
    *,
    text: str | None = None,
    default: str | None = None,
    **settings: Any,
) -> Callable[[Any], Any]:
    """Return a command line option that is the same as an option of a client, server or call.

    Its help, type and bounds are those of the declaration. A number must be finite, too.

    Args:
        flag: Name on the command line.
        declaration: Class that declares the option.
        name: Name of the option there.
        text: Help text, if the option does more than the declared one.
        default: What the command does without the option, if it has another default. The command
            gets `None` then.
        settings: For `click.option`.
    """
    declared = next(each for each in declared_options(declaration) if each.name == name)

    def check(_: click.Context, __: click.Parameter, value: Any) -> Any:
        try:
            if isinstance(value, float) and isinf(value):
                raise ValueError(f"{name} must be less than infinity, got {value}")
            if value is not None and value != ():  # of an option that may be repeated
                declared.check(value)
        except ValueError as exc:
            raise click.BadParameter(str(exc).replace(name, "it", 1)) from exc
        return value

    bounds = f"{declared.option.bounds} {declared.option.unit}" if declared.option.bounds else ""
    value = declared.default if default is None else None
    unset = value if default is None else default
    notes = [bounds.rstrip(), "" if unset is None or unset is False else f"default: {unset}"]
    note = "; ".join(filter(None, notes))
    # The sentence about `None` is for Python.
    text = text or re.sub(r" ?`None` means [^.]*\.", "", declared.option.text).replace("`", "")
    settings = {"type": declared.kind, "callback": check, "default": value, **settings}
    return click.option(flag, help=f"{text} [{note}]" if note else text, **settings)


class _Misused(click.ClickException):
    """The command line is wrong; printed as one line, without the usage lines that click adds."""

    exit_code = 2

    def format_message(self) -> str:
        """Return the message as one line."""
        return one_line(self.message, _MOST)


def _misused(exc: click.UsageError, ctx: click.Context | None, name: str | None) -> _Misused:
    text = exc.format_message().rstrip(".")
    if isinstance(exc, click.NoSuchOption):
        text = f"No such option {exc.option_name!r}"
        if meant := _meant(exc.option_name, exc.ctx or ctx):
            return _Misused(f"{text}. Did you mean {meant!r}? See rap {name} --help")
    return _Misused(f"{text}; see rap {name} --help")


def _meant(flag: str, ctx: click.Context | None) -> str | None:
    """Return the option of a command that a user has probably meant."""
    options = [] if ctx is None else [each.opts for each in ctx.command.params]
    known = {each: each for opts in options for each in opts if each.startswith("--")}
    known |= {each: name for each, name in _SYNONYMS.items() if name in known}
    close = get_close_matches(flag, known, 1, _LIKE)
    return known[close[0]] if close else None


def _installed(_: click.Context, __: click.Parameter, loop: str) -> str:
    """Return the name of an event loop; refuse one that is not installed."""
    try:
        loop_factory(loop)
    except ImportError as exc:
        raise click.BadParameter(str(exc)) from exc
    return loop


json_option = click.option("--json", is_flag=True, help="Print JSON instead of text.")
loop_option = click.option(
    "--loop",
    type=click.Choice(LOOPS),
    default="auto",
    show_default=True,
    callback=_installed,
    help="Event loop. `auto` is uvloop if it is installed, else asyncio.",
)
