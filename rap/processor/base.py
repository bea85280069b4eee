"""A processor sees every call and every message of one side; a pipeline is a list of them.

Outbound messages pass the processors in the listed order, inbound ones in reverse, so the same
list on both ends mirrors itself. The pipeline is built once; a hook that a processor does not
override is dropped then and costs nothing.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

from rap.message import Call, Request, Response, Side

__all__ = ["BaseProcessor", "Pipeline"]


class BaseProcessor:
    """Base of processors; override what is needed. One instance may serve one list only."""

    def scope(self, call: Call) -> AbstractContextManager[None]:
        """Return what is entered around a whole call, of any shape; it does no I/O.

        On a client it may be left in another task than it was entered in, so it must not hold
        the token of a `ContextVar`.
        """
        return nullcontext()

    async def process_request(self, request: Request) -> Request:
        """Return what stands for this message from client to server."""
        return request

    async def process_response(self, response: Response) -> Response:
        """Return what stands for this message from server to client."""
        return response

    def start_event_handle(self) -> Any:
        """Run when a server starts; may be `async`."""

    def stop_event_handle(self) -> Any:
        """Run when a server has stopped; may be `async`."""


RequestHook = Callable[[Request], Awaitable[Request]]
ResponseHook = Callable[[Response], Awaitable[Response]]


def _overrides(processor: BaseProcessor, hook: str) -> bool:
    return getattr(type(processor), hook) is not getattr(BaseProcessor, hook)


class Pipeline:
    """The processors of one side, folded once.

    Args:
        processors: In the order in which outbound messages pass them.
        side: Which end this is.

    Attributes:
        empty: No processor has any hook; the call path then skips the pipeline.
        transforms: Some processor wants to see messages.
    """

    def __init__(self, processors: Sequence[BaseProcessor], side: Side) -> None:
        requests = [p.process_request for p in processors if _overrides(p, "process_request")]
        responses = [p.process_response for p in processors if _overrides(p, "process_response")]
        if side is Side.CLIENT:
            responses.reverse()
        else:
            requests.reverse()
        self._requests: tuple[RequestHook, ...] = tuple(requests)
        self._responses: tuple[ResponseHook, ...] = tuple(responses)
        self._scopes = tuple(p.scope for p in processors if _overrides(p, "scope"))
        self.transforms = bool(requests or responses)
        self.empty = not (self.transforms or self._scopes)

    def scope(self, call: Call) -> AbstractContextManager[Any]:
        """Return the scopes of all processors around a call, the first outermost."""
        if not self._scopes:
            return nullcontext()
        if len(self._scopes) == 1:
            return self._scopes[0](call)
        stack = ExitStack()
        try:
            for scope in self._scopes:
                stack.enter_context(scope(call))
        except BaseException:
            stack.close()
            raise
        return stack

    async def request(self, request: Request) -> Request:
        """Pass a message from client to server through the hooks of this side."""
        for hook in self._requests:
            request = await hook(request)
        return request

    async def response(self, response: Response) -> Response:
        """Pass a message from server to client through the hooks of this side."""
        for hook in self._responses:
            response = await hook(response)
        return response
