"""The call of a channel function: from its opening to its one outcome."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from contextvars import Token
from types import TracebackType
from typing import Any, Generic

from rap.call import StreamType
from rap.channel import Channel, In, Out
from rap.client.attempt import StreamAttempt, explain_end
from rap.client.call import Invoker
from rap.client.method import Method
from rap.client.retry import RetryState
from rap.client.session import PinnedSession, Session, SessionClient, ambient_session
from rap.client.waiting import WaitForReady
from rap.errors import CallError, Code

__all__ = ["ChannelCall"]


class ChannelCall(Generic[In, Out]):
    """A call of a channel function, for ``async with``; the block gets its `Channel`.

    At the end of the block this side of the channel is closed, and the call ends when the server's
    function has ended. An exception that leaves the block resets the call. Calls that are made in
    the block use the connection of the channel.

    Args:
        client: Makes the calls of the block.
        invoker: Makes this call.
        method: What to call.
        args: Positional arguments, without the channel.
        kwargs: Keyword arguments.
        session: Session of the call; `None`: the one the caller is in, if any.
        header: Sent with the call: a mapping of names to msgpack values.
        timeout: Seconds that the whole call may take; `None`: no limit.
        affinity: Key whose calls should keep to one server.
        wait_for_ready: How long the call waits for a server; `None`: as the client does.
        priority: How important the call is; `None`: as `Invoker.priority` says.

    Raises:
        InvalidArgument: The arguments do not fit the function.
    """

    def __init__(
        self,
        client: SessionClient,
        invoker: Invoker,
        method: Method,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        session: Session | None = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        wait_for_ready: WaitForReady = None,
        priority: str | None = None,
    ) -> None:
        self._invoker = invoker
        self._method = method
        self._args = args
        self._kwargs = kwargs
        self._own = PinnedSession(client)
        body = method.encode(args, kwargs)
        # As older servers know it, a channel without arguments has no message in its Open.
        self._body = body if args or kwargs else None
        limit = method.timeout if timeout is None else timeout
        self._call, self._session = invoker.start_call(
            method, StreamType.CHANNEL, session, header, limit, affinity, wait_for_ready, priority
        )
        if self._session is None:
            self._call.header["session_id"] = self._own.id
        self._stack = ExitStack()
        self._stream: StreamAttempt | None = None
        self._channel: Channel[In, Out] | None = None

    @property
    def method(self) -> str:
        """Name of the function, ``/group/name``."""
        return self._call.method

    @property
    def trace_id(self) -> str:
        """Trace id of the call, as 32 hex digits; empty without a trace."""
        from rap.processor.tracing.context import trace_id  # few programs need it

        return trace_id(self._call)

    async def run(self, func: Callable[..., Any]) -> Any:
        """Run `func` with the channel in its place among the arguments.

        Returns:
            What `func` returns, or if that is `None`, the value of the server's function.

        Raises:
            CallError: The channel could not be opened, or the server's function raised.
        """
        function = self._method.function
        async with self as channel:
            args, kwargs = self._args, self._kwargs
            if function is None:
                value = await func(channel)
            else:
                args, kwargs = function.join_arguments(args, kwargs, channel)
                value = await func(*args, **(kwargs or {}))
        return await channel.result() if value is None else value

    async def __aenter__(self) -> Channel[In, Out]:
        if self._channel is not None:
            raise RuntimeError(f"{self._method.path}: a channel is entered once; make a new one")
        invoker, call, session, own = self._invoker, self._call, self._session, self._own
        left_out = invoker.untraced(call)
        with ExitStack() as stack:
            stack.enter_context(nullcontext() if left_out else invoker.pipeline.scope(call))
            stream = await invoker.open_stream(
                self._method, call, session, self._body, RetryState()
            )
            node, self._stream = stream.node, stream
            stack.callback(invoker.cluster.release)
            node.stats.stream_started()
            stack.callback(node.stats.stream_ended)
            own.pin(node, stream.conn)
            stack.callback(own.unpin)
            token = ambient_session.set(own if session is None else session)
            stack.callback(_reset, token)
            self._channel = Channel(stream, call, invoker.pipeline, self._method.function)
            self._stack = stack.pop_all()
        return self._channel

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._channel is not None
        assert self._stream is not None
        outcome = error
        try:
            if error is None:
                await self._channel.wait_outcome()
        except BaseException as exc:  # the end of the call; raised again
            outcome = exc
            raise
        finally:
            if isinstance(outcome, CallError):
                self._invoker.note_refusal(self._call, self._stream, outcome)
                explain_end(outcome, self._call, self._stream, self._invoker.monotonic())
            if outcome is not None:
                # Not an `Exception`: the task was cancelled, or a generator with the block closed.
                code = Code.UNKNOWN if isinstance(outcome, Exception) else Code.CANCELLED
                why = f"the client's function raised {type(outcome).__name__}"
                self._stream.reset(code, why)
            # The scopes of the processors see how the call ended.
            self._stack.__exit__(type(outcome) if outcome else None, outcome, trace)


def _reset(token: Token[Session | None]) -> None:
    with contextlib.suppress(ValueError):  # another task than the one that entered
        ambient_session.reset(token)
