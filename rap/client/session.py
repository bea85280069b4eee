"""Sessions: all calls made inside one use the same connection, or fail."""

import contextlib
import inspect
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar, Token
from types import CodeType, CoroutineType
from typing import Any, Concatenate, Protocol, Self, TypeVar, overload

from rap.call import running_call
from rap.channel import Channel
from rap.client.cluster import Cluster
from rap.client.node import Node
from rap.client.typed import ChannelStub, Items
from rap.client.waiting import WaitForReady
from rap.clock import NEVER, inherited_deadline
from rap.errors import CallError, Code, Unavailable
from rap.transport import Connection

__all__ = [
    "PinnedSession",
    "Session",
    "SessionClient",
    "ambient_session",
    "innermost_session",
    "stub_codes",
]

# The code of stubs; their variable `client` holds the client that makes their calls.
stub_codes: set[CodeType] = set()
ambient_session: ContextVar["Session | None"] = ContextVar("rap_session", default=None)


In = TypeVar("In")
Out = TypeVar("Out")
R = TypeVar("R")
Arguments = list[Any] | tuple[Any, ...] | None


class SessionClient(Protocol):
    """The client of a session.

    Attributes:
        identity: Tells its sessions from those of other clients.
        monotonic: Returns the time in seconds on the monotonic clock.
    """

    identity: object
    monotonic: Callable[[], float]

    @property
    def cluster(self) -> Cluster:
        """The servers that the client knows."""
        ...

    def raw_call(self, name: str, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Call a function by its name."""
        ...

    def call(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Call the server's function that has the name and hints of a local one."""
        ...

    def channel(
        self, func: Callable[..., Any] | str, /, *args: Any, **kwargs: Any
    ) -> AbstractAsyncContextManager[Channel]:
        """Call a channel function, by its declaration or name."""
        ...

    async def execute(self, target: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call a function, by its declaration or name, in the session of this context."""
        ...


class Session:
    """A session; use it as ``async with client.session as s``. An instance is entered once.

    Args:
        client: The client whose calls the session holds together.

    Attributes:
        id: Sent with every call as the header ``session_id``.
        client: See above.
        outer: The session in which this one was entered.
    """

    def __init__(self, client: SessionClient) -> None:
        self.id = os.urandom(16).hex()
        self.client = client
        self.outer: Session | None = None
        self._bound: tuple[Node, Connection] | None = None
        self._left = False
        self._token: Token[Session | None] | None = None

    @property
    def in_session(self) -> bool:
        """Whether it was entered and not yet left."""
        return self._bound is not None and not self._left

    @property
    def left(self) -> bool:
        """Whether it was left."""
        return self._left

    @property
    def conn(self) -> Connection | None:
        """The connection of the session; `None` before it is entered."""
        return self._bound[1] if self._bound is not None else None

    @property
    def draining(self) -> bool:
        """Whether the server asked to finish soon: it is about to stop."""
        return self._bound is not None and self._bound[1].draining

    def bound(self) -> tuple[Node, Connection]:
        """Return where the session's calls go.

        Raises:
            CallError: It was not entered, or was left.
            Unavailable: Its connection was lost; a session never moves.
        """
        if self._bound is None or self._left:
            what = "left already" if self._left else "not entered"
            raise CallError(f"session {self.id} was {what}", code=Code.FAILED_PRECONDITION)
        if self._bound[1].closed:
            raise Unavailable(f"session {self.id}: {self._bound[1].error}", unserved=False)
        return self._bound

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.describe()}>"

    def describe(self) -> str:
        """Return the id of the session and its state, in a few words."""
        if self._bound is None:
            return f"{self.id} not entered"
        node, conn = self._bound
        if self._left:
            return f"{self.id} left"
        return f"{self.id} {'lost' if conn.closed else 'bound to'} {node.endpoint.address}"

    @overload
    async def execute(self, obj: Coroutine[Any, Any, R]) -> R: ...
    @overload
    async def execute(
        self, obj: str, arg_list: Arguments = None, kwarg_dict: dict[str, Any] | None = None
    ) -> Any: ...
    @overload
    async def execute(
        self,
        obj: Callable[..., Coroutine[Any, Any, R]],
        arg_list: Arguments = None,
        kwarg_dict: dict[str, Any] | None = None,
    ) -> R: ...
    @overload
    async def execute(
        self,
        obj: Items[R] | Callable[..., AsyncIterator[R] | Iterator[R]],
        arg_list: Arguments = None,
        kwarg_dict: dict[str, Any] | None = None,
    ) -> Items[R]: ...
    @overload
    async def execute(
        self,
        obj: Callable[..., R],
        arg_list: Arguments = None,
        kwarg_dict: dict[str, Any] | None = None,
    ) -> R: ...

    async def execute(
        self,
        obj: Any,
        arg_list: Arguments = None,
        kwarg_dict: dict[str, Any] | None = None,
    ) -> Any:
        """Make one call in this session, and return its result.

        Args:
            obj: A pending call of a stub, a function, or the name of a function. For a generator,
                the iterator over its items is returned.
            arg_list: Positional arguments for a function or name.
            kwarg_dict: Keyword arguments for it.

        Raises:
            TypeError: `obj` is none of these, or the arguments are not a list and a dict.
            CallError: It is a pending call of another client.
        """
        token = ambient_session.set(self)
        try:
            if inspect.iscoroutine(obj):
                try:
                    self._check_pending(obj)
                    if arg_list or kwarg_dict:
                        raise TypeError("a pending call has its arguments already")
                except BaseException:  # raised again
                    obj.close()
                    raise
                return await obj
            if not isinstance(arg_list, list | tuple | None):
                raise TypeError(f"arg_list must be a list or tuple, got {arg_list!r}")
            if not isinstance(kwarg_dict, dict | None):
                raise TypeError(f"kwarg_dict must be a dict, got {kwarg_dict!r}")
            return await self.client.execute(obj, list(arg_list or ()), kwarg_dict or {})
        finally:
            ambient_session.reset(token)

    @overload
    def channel(
        self,
        func: ChannelStub[..., Any, In, Out],
        /,
        *args: Any,
        group: str | None = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        wait_for_ready: WaitForReady = None,
        priority: str | None = None,
        arg_param: Sequence[Any] | None = None,
        kwarg_param: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> AbstractAsyncContextManager[Channel[In, Out]]: ...

    @overload
    def channel(
        self,
        func: Callable[Concatenate[Channel[In, Out], ...], Coroutine[Any, Any, Any]],
        /,
        *args: Any,
        group: str | None = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        wait_for_ready: WaitForReady = None,
        priority: str | None = None,
        arg_param: Sequence[Any] | None = None,
        kwarg_param: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> AbstractAsyncContextManager[Channel[In, Out]]: ...
    @overload
    def channel(
        self,
        func: Callable[..., Coroutine[Any, Any, Any]] | str,
        /,
        *args: Any,
        group: str | None = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        wait_for_ready: WaitForReady = None,
        priority: str | None = None,
        arg_param: Sequence[Any] | None = None,
        kwarg_param: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> AbstractAsyncContextManager[Channel]: ...
    def channel(
        self,
        func: Any,
        /,
        *args: Any,
        group: str | None = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        wait_for_ready: WaitForReady = None,
        priority: str | None = None,
        arg_param: Sequence[Any] | None = None,
        kwarg_param: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> AbstractAsyncContextManager[Channel]:
        """Return a call of a channel function in this session; see `Client.channel`."""
        return self.client.channel(
            func,
            *args,
            group=group,
            session=self,
            header=header,
            timeout=timeout,
            affinity=affinity,
            wait_for_ready=wait_for_ready,
            priority=priority,
            arg_param=arg_param,
            kwarg_param=kwarg_param,
            **kwargs,
        )

    async def __aenter__(self) -> Self:
        if self._bound is not None:
            raise RuntimeError(f"session {self.id} was entered before; make a new one")
        node, conn = await self.client.cluster.acquire(self._deadline())
        if self._bound is not None:
            raise RuntimeError(f"session {self.id} was entered twice at a time")
        conn.pin()
        self._bound = (node, conn)
        self.outer = ambient_session.get()
        self._token = ambient_session.set(self)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._leave()
        token, self._token = self._token, None
        if token is not None:
            with contextlib.suppress(ValueError):  # left by another task than entered it
                ambient_session.reset(token)

    def check_client(self, identity: object) -> None:
        """Refuse to take part in the calls of another client.

        Args:
            identity: Of the client that makes a call.

        Raises:
            CallError: It is another client than the one of this session.
        """
        if self.client.identity is not identity:
            text = f"session {self.id} belongs to another client"
            raise CallError(text, code=Code.FAILED_PRECONDITION)

    def _check_pending(self, call: "CoroutineType[Any, Any, Any]") -> None:
        """Refuse a coroutine that is not a call of this client: it would run outside the session.

        Raises:
            TypeError: It is not a call.
            CallError: It is a call of another client.
        """
        kind, values = type(self.client), inspect.getcoroutinelocals(call)
        client: SessionClient | None = None
        if call.cr_code in stub_codes:
            client = values["client"]
        elif call.cr_code in (kind.raw_call.__code__, kind.call.__code__):
            client = values["self"]
        if client is None:
            raise TypeError(f"execute takes a pending call, a function or a name, got {call!r}")
        self.check_client(client.identity)

    def _deadline(self) -> float:
        """When to stop waiting for a server: at the deadline of the call that runs here, if any."""
        outer = running_call()
        if outer is None:
            return NEVER
        return inherited_deadline(outer.deadline, self.client.monotonic())

    def _leave(self) -> None:
        if self._bound is not None and not self._left:
            self._left = True
            self._bound[1].unpin()


def innermost_session(identity: object) -> Session | None:
    """Return the innermost session that the caller is in, of the client with this identity.

    A task that was started in a session and outlives it is in that session no more.
    """
    session = ambient_session.get()
    while session is not None and (session.left or session.client.identity is not identity):
        session = session.outer
    return session


class PinnedSession(Session):
    """The session of a channel: calls made inside its function use its connection."""

    def pin(self, node: Node, conn: Connection) -> None:
        """Bind to the connection that the channel was opened on."""
        conn.pin()
        self._bound = (node, conn)
        self.outer = ambient_session.get()

    def unpin(self) -> None:
        """Release the connection."""
        self._leave()
