"""A processor sees every call and every message of one side; a pipeline is a list of them.

Outbound messages pass the processors in the listed order, inbound ones in reverse, so the same
list on both ends mirrors itself. The pipeline is built once; a hook that a processor does not
override is dropped then and costs nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, ClassVar, TypeVar

from rap.call import Call, Header, Request, Response, Side, current
from rap.errors import CallError, Code
from rap.options import as_list
from rap.schema.function import decode_any, encode_any

__all__ = ["BaseProcessor", "Failure", "Pipeline", "PlugIn", "Private", "add_processors", "outcome"]


# A function, and its name and group.
Private = tuple[Callable[..., Any], str | None, str]


class PlugIn:
    """Something that a server loads; a subclass need not call a constructor of it."""

    def start_event_handle(self) -> Any:
        """Run before a server listens; may be `async`."""

    def stop_event_handle(self) -> Any:
        """Run when a server has stopped, if it was started; may be `async`."""

    def register(
        self, func: Callable[..., Any], name: str | None = None, group: str | None = None
    ) -> None:
        """Make a function callable for clients on the machine of the server that loads this.

        Call it in the constructor or in `start_event_handle`.

        Args:
            func: The function.
            name: Its name on the wire; by default its own.
            group: Its group; by default the name of this object's class.
        """
        functions: list[Private] = self.__dict__.setdefault("_private_functions", [])
        functions.append((func, name, group or type(self).__name__))

    def take_private_functions(self) -> list[Private]:
        """Return what was registered since this was last asked."""
        functions: list[Private] = self.__dict__.pop("_private_functions", [])
        return functions


def outcome(error: BaseException | None) -> Code:
    """Return the code of what ended the scope of a call; ask inside of the scope.

    A handler whose call was ended from outside sees a cancellation. Its stream knows why: the
    deadline passed, the caller gave up, or the connection was lost.
    """
    if error is None or isinstance(error, GeneratorExit):
        return Code.OK
    if isinstance(error, asyncio.CancelledError):
        error = getattr(current.get(), "error", None) or error
    if isinstance(error, CallError):
        return error.code
    return Code.CANCELLED if isinstance(error, asyncio.CancelledError) else Code.UNKNOWN


# Code, message and details of an error, as they cross the wire.
Failure = tuple[int, str, dict[str, Any]]


class BaseProcessor(PlugIn):
    """Base of processors; override what is needed. One instance may serve one list only.

    Attributes:
        only_side: The side that it can be loaded on; `None`: both.
        header_name: Header of the messages it changes, by which the other end knows them.
    """

    only_side: ClassVar[Side | None] = None
    header_name: ClassVar[str] = ""

    def scope(self, call: Call) -> AbstractContextManager[None]:
        """Return what is entered around a whole call, of any shape; it does no I/O.

        On a client it may be left in another task than it was entered in, so it must not hold
        the token of a `ContextVar`.
        """
        return nullcontext()

    def wants_next(self) -> object:
        """On a client: whether the call that is about to be made needs the scope, by its truth.

        It is asked where that has no header of its own, and no other processor has any hook. A call
        that does not is marked, so that it is traced nowhere.
        """
        return True

    def ignores(self, header: Header) -> bool:
        """On a server: whether the scope can be left out of calls with this header.

        It is asked once for all calls with equal headers, where no other processor has any hook;
        it may add to the header what handlers should see there.
        """
        return False

    async def process_request(self, request: Request) -> Request:
        """Return what stands for this message from client to server.

        The first message of a channel is its opening, and has no body.
        """
        return request

    async def process_response(self, response: Response) -> Response:
        """Return what stands for this message from server to client."""
        return response

    def process_error(self, call: Call, failure: Failure) -> Failure:
        """Return what stands for the error by which the server ends a call; must not raise.

        On a client it comes before the error is made, and may be anything that a peer can send.
        """
        return failure

    def send_end(self, call: Call, body: Any) -> Any:
        """Return what goes with the end of this side's messages in a generator or channel.

        Args:
            call: The call.
            body: What the processors before have given; `None` from the first.
        """
        return body

    def receive_end(self, call: Call, body: Any) -> Any:
        """Return what the processors before this one sent with the end; raise to refuse it.

        Args:
            call: The call.
            body: What came with the end; `None` if nothing did.
        """
        return body


def add_processors(
    option: str, loaded: list[BaseProcessor], processors: Iterable[BaseProcessor], side: Side
) -> list[BaseProcessor]:
    """Add processors to the list of one side; return the new ones.

    Raises:
        TypeError: One is no processor, or made for the other side; the message names `option`.
        ValueError: One is loaded already.
    """
    added: list[BaseProcessor] = []
    for each in as_list(option, processors):
        if not isinstance(each, BaseProcessor):
            raise TypeError(f"{option} takes BaseProcessor objects, got {each!r}")
        if each.only_side not in (None, side):
            here, there = side.name.lower(), each.only_side.name.lower()
            text = f"{option}: {type(each).__name__} is for a {there}; import the one of a {here}"
            raise TypeError(f"{text} from rap.{here}.processor")
        if any(each is other for other in (*loaded, *added)):
            raise ValueError(f"{each!r} is loaded already")
        added.append(each)
    loaded += added
    return added


RequestHook = Callable[[Request], Awaitable[Request]]
ResponseHook = Callable[[Response], Awaitable[Response]]


Scope = Callable[[Call], AbstractContextManager[Any]]
M = TypeVar("M", Request, Response)


def _fold(hooks: Sequence[Callable[[M], Awaitable[M]]]) -> Callable[[M], Awaitable[M]]:
    """Return the one coroutine function that passes a message through all hooks."""
    if len(hooks) == 1:
        return hooks[0]  # no coroutine around the one there is

    async def passed(message: M) -> M:
        for hook in hooks:
            message = await hook(message)
        return message

    return passed


def _no_scope(call: Call) -> AbstractContextManager[None]:
    return nullcontext()


def _always() -> bool:
    return True


def _never(header: Header) -> bool:
    return False


def _overrides(processor: BaseProcessor, hook: str) -> bool:
    return getattr(type(processor), hook) is not getattr(BaseProcessor, hook)


class Pipeline:
    """The processors of one side, folded once.

    Args:
        processors: In the order in which outbound messages pass them.
        side: Which end this is.

    Attributes:
        empty: No processor has any hook; the call path then skips the pipeline.
        scope: Returns the scopes of all processors around a call, the first outermost.
        has_scope: There is one.
        wants_next: Says whether a call without header of its own needs the scope.
        ignores: Says that calls with a header need no scope.
        request: Passes a message from client to server through the hooks of this side.
        response: The same for one from server to client.
        transforms: Some processor wants to see messages, or ends.
        proves_ends: Some processor sends something with the end of a side.
        sees_errors: Some processor wants to see errors.
        reads: The names of headers by which its processors know what they can read.
    """

    def __init__(self, processors: Sequence[BaseProcessor], side: Side) -> None:
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
        self.proves_ends = bool(provers)
        self.sees_errors = bool(errors)
        self.reads = frozenset(p.header_name for p in processors)
        self.transforms = bool(requests or responses or provers)
        self.empty = not (self.transforms or self._scopes or provers or errors)
        if len(self._scopes) == 1 and not (self.transforms or errors):
            (only,) = (p for p in processors if _overrides(p, "scope"))
            self.wants_next, self.ignores = only.wants_next, only.ignores

    def _enter_all(self, call: Call) -> AbstractContextManager[Any]:
        """Return the scopes of several processors around a call, the first outermost."""
        stack = ExitStack()
        try:
            for scope in self._scopes:
                stack.enter_context(scope(call))
        except BaseException as exc:
            stack.__exit__(type(exc), exc, exc.__traceback__)
            raise
        return stack

    def error(self, call: Call, failure: Failure) -> Failure:
        """Pass the error that ends a call, on its way out or in, through the hooks of this side."""
        for hook in self._errors:
            failure = hook(call, failure)
        return failure

    def send_end(self, call: Call) -> bytes:
        """Return the body that goes with the end of this side; empty for none."""
        if not self.proves_ends:
            return b""
        body: Any = None
        for hook in self._send_end:
            body = hook(call, body)
        return encode_any(body)

    def receive_end(self, call: Call, body: bytes | memoryview) -> None:
        """Check what came with the end of the peer's side, which may be nothing.

        Raises:
            CallError: A processor refuses it.
        """
        if self.proves_ends:
            value = decode_any(body) if body else None
            for hook in self._receive_end:
                value = hook(call, value)
