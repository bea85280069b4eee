"""Processors, which see each call and each message of one side, and the pipeline that they form.

Outbound messages pass the processors in list order, inbound messages in reverse order, so both ends
use the same list. The pipeline is built once. A hook that a processor does not override is left out
and costs nothing.
"""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, ClassVar, TypeVar

from rap.call import Call, Encoded, Header, Request, Response, Side, current
from rap.errors import CallError, Code
from rap.options import as_list
from rap.schema.function import decode_any, encode_any

__all__ = [
    "BaseProcessor",
    "Failure",
    "Pipeline",
    "PlugIn",
    "Private",
    "add_processors",
    "bytes_of",
    "encode_body",
    "loaded_twice",
    "outcome",
    "warn_of_misspelled",
    "wrong_plug_in",
]

_log = logging.getLogger("rap.processor")

_ALMOST = 0.85  # similarity of a name to that of a hook, of at most 1, for a warning


# A private function with its name and group.
Private = tuple[Callable[..., Any], str | None, str]


class PlugIn:
    """Base of processors and middleware. A subclass need not call its constructor."""

    def start_event_handle(self) -> Any:
        """Run before the server listens; may be ``async``."""

    def stop_event_handle(self) -> Any:
        """Run after a started server has stopped; may be ``async``."""

    def register(
        self, func: Callable[..., Any], name: str | None = None, group: str | None = None
    ) -> None:
        """Register a private function, which only clients on the server's machine can call.

        Call this in the constructor or in `start_event_handle`.

        Args:
            func: The function.
            name: Its name on the wire; by default the name of the function.
            group: Its group; by default the name of this class.
        """
        functions: list[Private] = self.__dict__.setdefault("_private_functions", [])
        functions.append((func, name, group or type(self).__name__))

    def take_private_functions(self) -> list[Private]:
        """Return and clear the functions registered since the last call."""
        functions: list[Private] = self.__dict__.pop("_private_functions", [])
        return functions


def outcome(error: BaseException | None) -> Code:
    """Return the status code of a call from the exception that ends its scope.

    Call it inside the scope. A handler whose call ends from outside is cancelled. Its stream has
    the reason: the deadline passed, the caller cancelled, or the connection was lost.
    """
    if error is None or isinstance(error, GeneratorExit):
        return Code.OK
    if isinstance(error, asyncio.CancelledError):
        error = getattr(current.get(), "error", None) or error
    if isinstance(error, CallError):
        return error.code
    return Code.CANCELLED if isinstance(error, asyncio.CancelledError) else Code.UNKNOWN


# Code, message and details of an error, as on the wire.
Failure = tuple[int, str, dict[str, Any]]


class BaseProcessor(PlugIn):
    """Base of processors. Override the hooks you need; use an instance in one list only.

    Attributes:
        only_side: The side that can load it; `None` for both sides.
        header_name: The header by which the other end recognises the messages that it changes.
        ability: What the Hello says if it is loaded (PROTOCOL.md §3.1). `Peer.abilities` has it if
            both ends have loaded it.
        only_bytes: Whether every body that the other end sends with an end is bytes. If the
            processor is the first that sees what arrives, its `receive_end` gets `None` for any
            other body, which is not decoded.
    """

    only_side: ClassVar[Side | None] = None
    header_name: ClassVar[str] = ""
    ability: ClassVar[str] = ""
    only_bytes: ClassVar[bool] = False

    def scope(self, call: Call) -> AbstractContextManager[None]:
        """Return a context manager around a whole call of any stream type; it does no I/O.

        On a client, another task may exit it, so it must not hold the token of a `ContextVar`.
        """
        return nullcontext()

    def wants_next(self) -> object:
        """On a client, return a true value if the next call needs the scope.

        It is asked if the call has no header and no other processor has a hook. A call that does
        not need the scope is marked as not traced.
        """
        return True

    def ignores(self, header: Header) -> bool:
        """On a server, return whether calls with this header do not need the scope.

        It is asked once for all calls with equal headers, if no other processor has a hook. It may
        add entries to the header for handlers.
        """
        return False

    async def process_request(self, request: Request) -> Request:
        """Return the message from client to server that replaces this one.

        The first message of a channel opens it and has no body.
        """
        return request

    async def process_response(self, response: Response) -> Response:
        """Return the message from server to client that replaces this one."""
        return response

    def process_error(self, call: Call, failure: Failure) -> Failure:
        """Return the error that replaces the one by which the server ends a call; must not raise.

        On a client it runs before the exception is created, on anything that a peer can send.
        """
        return failure

    def send_end(self, call: Call, body: Any) -> Any:
        """Return the body that is sent with the end of this side's messages in a stream or channel.

        Args:
            call: The call.
            body: The result of the processors before; for the first `None`, or a map of the
                header and the trailer that are sent with the end.
        """
        return body

    def receive_end(self, call: Call, body: Any) -> Any:
        """Return the body that the processors before this one sent with the end, or raise.

        Args:
            call: The call.
            body: The body that came with the end; `None` without one.
        """
        return body


def add_processors(
    option: str, loaded: list[BaseProcessor], processors: Iterable[BaseProcessor], side: Side
) -> list[BaseProcessor]:
    """Add processors to the list of one side; return the new ones.

    Raises:
        TypeError: An entry is not a processor, or is for the other side; the message names
            `option`.
        ValueError: An entry is already loaded.
    """
    added: list[BaseProcessor] = []
    for each in as_list(option, processors):
        if not isinstance(each, BaseProcessor):
            raise wrong_plug_in(option, "BaseProcessor objects", each)
        if each.only_side not in (None, side):
            here, there = side.name.lower(), each.only_side.name.lower()
            text = f"{option}: {type(each).__name__} is for a {there}; import the one for a {here}"
            raise TypeError(f"{text} from rap.{here}.processor")
        if any(each is other for other in (*loaded, *added)):
            raise loaded_twice(option, each)
        warn_of_misspelled(option, each, BaseProcessor)
        added.append(each)
    loaded += added
    return added


def wrong_plug_in(option: str, wanted: str, value: object) -> TypeError:
    """Return the error of an option that takes plug-ins, for a value that is none of this kind.

    Args:
        option: The option.
        wanted: What it takes, in the plural.
        value: What it got.
    """
    text = f"{option} takes {wanted}, got {value!r}"
    if isinstance(value, type) and issubclass(value, PlugIn):
        text += f"; make an object: {value.__name__}()"
    elif isinstance(value, PlugIn):
        kind = "processor" if isinstance(value, BaseProcessor) else "middleware"
        text += f"; {type(value).__name__} belongs into {kind}_list"
    return TypeError(text)


def loaded_twice(option: str, value: PlugIn) -> ValueError:
    """Return the error of an option for a plug-in that was loaded before."""
    kind = type(value).__name__
    return ValueError(f"{option}: this {kind} is loaded already; make another {kind}()")


def warn_of_misspelled(option: str, value: PlugIn, base: type[PlugIn]) -> None:
    """Log a warning for each public method of a plug-in whose name is almost that of a hook.

    Args:
        option: The option that got it.
        value: The plug-in.
        base: The class that has the hooks.
    """
    kind = type(value)
    hooks = [name for name in dir(base) if not name.startswith("_")]
    others = [
        name
        for each in kind.__mro__[: kind.__mro__.index(base)]
        for name, found in vars(each).items()
        if inspect.isfunction(found) and not name.startswith("_") and name not in hooks
    ]
    if not others:
        return
    from difflib import get_close_matches  # few plug-ins have other public methods

    for name in others:
        for near in get_close_matches(name, hooks, 1, _ALMOST):
            text = "%s: %s.%s is not a hook, so nothing calls it; did you mean %r?"
            _log.warning(text, option, kind.__name__, name, near)


RequestHook = Callable[[Request], Awaitable[Request]]
ResponseHook = Callable[[Response], Awaitable[Response]]


Scope = Callable[[Call], AbstractContextManager[Any]]
M = TypeVar("M", Request, Response)


def _fold(hooks: Sequence[Callable[[M], Awaitable[M]]]) -> Callable[[M], Awaitable[M]]:
    """Return one coroutine function that passes a message through all hooks."""
    hooks = [each if inspect.iscoroutinefunction(each) else _awaitable(each) for each in hooks]
    if len(hooks) == 1:
        return hooks[0]  # saves a coroutine

    async def passed(message: M) -> M:
        for hook in hooks:
            message = await hook(message)
        return message

    return passed


def _awaitable(hook: Callable[[M], Awaitable[M]]) -> Callable[[M], Awaitable[M]]:
    """Return a hook that is a ``def``, with a check that it returns something to await."""

    async def checked(message: M) -> M:
        found = hook(message)
        if not inspect.isawaitable(found):
            name = getattr(hook, "__qualname__", repr(hook))
            raise TypeError(f"{name} of a processor is a `def`; declare it as `async def`")
        return await found

    return checked


_BYTES = (0xC4, 0xC5, 0xC6)  # first bytes of a `bin`


def _decode_bytes(body: Encoded) -> Any:
    """Return a body that is bytes, and `None` for any other: it costs nothing to send one."""
    return decode_any(body) if not body or body[0] in _BYTES else None


def bytes_of(message: Request | Response) -> bytes | None:
    """Return the body of a message if it is bytes; any other is not decoded for this."""
    encoded = message.encoded
    body = message.body if encoded is None else _decode_bytes(encoded)
    return body if isinstance(body, bytes) else None


def encode_body(message: Request | Response) -> bytes:
    """Return the encoded body of a message; one that was not read is not encoded again.

    Raises:
        InvalidArgument: It cannot be sent.
    """
    try:
        encoded = message.encoded
    except AttributeError as exc:
        raise _no_message(message) from exc
    if encoded is None:
        return encode_any(message.body)
    return encoded if type(encoded) is bytes else bytes(encoded)


def _no_message(value: object) -> TypeError:
    """Return the error of a hook that returned something else than a message."""
    return TypeError(
        f"a processor returned {value!r} instead of the message: its process_request and"
        f" process_response must end with `return`"
    )


def _no_scope(call: Call) -> AbstractContextManager[None]:
    return nullcontext()


def _always() -> bool:
    return True


def _never(header: Header) -> bool:
    return False


def _overrides(processor: BaseProcessor, hook: str) -> bool:
    return getattr(type(processor), hook) is not getattr(BaseProcessor, hook)


class Pipeline:
    """The processors of one side, with their hooks combined.

    Args:
        processors: The processors, in the order for outbound messages.
        side: Which end this is.
        check: Raises an error for an encoded body that a function must not get.

    Attributes:
        empty: Whether no processor has a hook; calls then skip the pipeline.
        scope: Returns the scopes of all processors around a call, the first outermost.
        has_scope: Whether a processor has a scope.
        wants_next: Returns whether a call without a header needs the scope.
        ignores: Returns whether calls with a header do not need the scope.
        request: Passes a message from client to server through the hooks of this side.
        response: Passes a message from server to client through the hooks of this side.
        transforms: Whether a processor sees messages or ends.
        proves_ends: Whether a processor sends a body with the end of a side.
        sees_errors: Whether a processor sees errors.
        reads: The header names of its processors.
        abilities: What the Hello of this side says because of them.
    """

    def __init__(
        self,
        processors: Sequence[BaseProcessor],
        side: Side,
        check: Callable[[Encoded], None] | None = None,
    ) -> None:
        self._check = check
        requests = [p.process_request for p in processors if _overrides(p, "process_request")]
        responses = [p.process_response for p in processors if _overrides(p, "process_response")]
        errors = [p.process_error for p in processors if _overrides(p, "process_error")]
        if side is Side.CLIENT:
            responses.reverse()
            errors.reverse()
        else:
            requests.reverse()
        self.request: RequestHook = _fold(requests)
        self.response: ResponseHook = _fold(responses)
        self._errors = tuple(errors)
        self._scopes = tuple(p.scope for p in processors if _overrides(p, "scope"))
        self.has_scope = bool(self._scopes)
        self.scope: Scope = self._enter_all
        if len(self._scopes) < 2:
            self.scope = self._scopes[0] if self._scopes else _no_scope
        self.wants_next: Callable[[], object] = _always
        self.ignores: Callable[[Header], bool] = _never
        provers = [p for p in processors if _overrides(p, "send_end")]
        self._send_end = tuple(p.send_end for p in provers)
        self._receive_end = tuple(p.receive_end for p in reversed(provers))
        is_bytes = bool(provers) and provers[-1].only_bytes
        self._decode_end: Callable[[Encoded], Any] = _decode_bytes if is_bytes else decode_any
        self.proves_ends = bool(provers)
        self.sees_errors = bool(errors)
        self.reads = frozenset(p.header_name for p in processors)
        self.abilities = frozenset(p.ability for p in processors if p.ability)
        self.transforms = bool(requests or responses or provers)
        self.empty = not (self.transforms or self._scopes or provers or errors)
        if len(self._scopes) == 1 and not (self.transforms or errors):
            (only,) = (p for p in processors if _overrides(p, "scope"))
            self.wants_next, self.ignores = only.wants_next, only.ignores

    def _enter_all(self, call: Call) -> AbstractContextManager[Any]:
        """Return one context manager for the scopes of several processors, the first outermost."""
        stack = ExitStack()
        try:
            for scope in self._scopes:
                stack.enter_context(scope(call))
        except BaseException as exc:  # raised again
            stack.__exit__(type(exc), exc, exc.__traceback__)
            raise
        return stack

    def pass_request(self, call: Call, body: Encoded, header: Header) -> Awaitable[Request]:
        """Pass an encoded message from client to server through the hooks of this side."""
        return self.request(Request(call, None, header, body, decode_any))

    def pass_response(
        self, call: Call, body: Encoded, header: Header | None
    ) -> Awaitable[Response]:
        """Pass an encoded message from server to client through the hooks of this side."""
        return self.response(Response(call, None, header, body, decode_any))

    def encode_arrived(self, message: Request | Response) -> Encoded:
        """Return the encoded body of a message that has passed the hooks, for a function.

        Raises:
            CallError: It exceeds a limit of this side.
        """
        try:
            encoded = message.encoded
        except AttributeError as exc:
            raise _no_message(message) from exc
        if encoded is None:
            encoded = encode_any(message.body)
        if self._check is not None:
            self._check(encoded)
        return encoded

    def error(self, call: Call, failure: Failure) -> Failure:
        """Pass the error that ends a call through the hooks of this side."""
        for hook in self._errors:
            failure = hook(call, failure)
        return failure

    def send_end(self, call: Call, content: Header | None = None) -> bytes:
        """Return the body that is sent with the end of this side; empty without one.

        Args:
            call: The call.
            content: What the first processor gets as the body.
        """
        if not self.proves_ends:
            return b""
        body: Any = content
        for hook in self._send_end:
            body = hook(call, body)
        return encode_any(body)

    def receive_end(self, call: Call, body: bytes | memoryview) -> Any:
        """Check the body that came with the end of the peer's side; it may be empty.

        Returns:
            What the first processor of the peer got as the body: a map, or `None`.

        Raises:
            CallError: A processor refuses it.
        """
        value: Any = None
        if self.proves_ends:
            value = self._decode_end(body) if body else None
            for hook in self._receive_end:
                value = hook(call, value)
        return value
