"""A started call that has one response."""

import asyncio
from collections.abc import Generator
from typing import Any, Generic, TypeVar

from rap.address import Peer
from rap.call import Call, Header
from rap.transport.stream import answer_header, answer_trailer

__all__ = ["UnaryCall"]

T_co = TypeVar("T_co", covariant=True)


class UnaryCall(Generic[T_co]):
    """A unary or client-streaming call that was started; await it for its result.

    It may be awaited more than once. If a task that awaits it is cancelled, so is the call.

    Args:
        call: The call.
        task: Makes the call.
    """

    __slots__ = ("_call", "_task")

    def __init__(self, call: Call, task: asyncio.Task[T_co]) -> None:
        self._call = call
        self._task = task

    def __await__(self) -> Generator[Any, None, T_co]:
        return self._task.__await__()

    @property
    def header(self) -> Header:
        """The header of the answer; empty until the answer or an error has arrived."""
        return answer_header(self._call.answer)

    @property
    def trailer(self) -> Header:
        """The trailer of the answer; empty until the answer or an error has arrived."""
        return answer_trailer(self._call.answer)

    @property
    def method(self) -> str:
        """Name of the function, ``/group/name``."""
        return self._call.method

    @property
    def trace_id(self) -> str:
        """Trace id of the call, as 32 hex digits; empty without a trace."""
        from rap.processor.tracing.context import trace_id  # few programs need it

        return trace_id(self._call)

    @property
    def peer(self) -> Peer | None:
        """The server of the last attempt; `None` before the first."""
        return self._call.peer

    @property
    def attempts(self) -> int:
        """The number of attempts, from 1."""
        return self._call.attempt

    def done(self) -> bool:
        """Return whether the call has ended: with a result, by an error, or cancelled."""
        return self._task.done()

    def cancel(self) -> bool:
        """Cancel the call; return `False` if it has ended already.

        A task that awaits the call gets `asyncio.CancelledError`.
        """
        return self._task.cancel()

    def __repr__(self) -> str:
        state = "open"
        if self._task.cancelled():
            state = "cancelled"
        elif self._task.done():
            error = self._task.exception()
            state = "answered" if error is None else f"failed: {error}"
        return f"<{type(self).__name__} {self._call.method} {state}>"
