"""A session: all calls made inside it use one connection, or fail."""

import contextlib
import inspect
import os
from contextvars import ContextVar, Token
from types import CodeType, CoroutineType
from typing import TYPE_CHECKING, Any, Self

from rap.call import current
from rap.clock import NEVER
from rap.errors import CallError, Code, Unavailable
from rap.transport import Connection

if TYPE_CHECKING:
    from rap.client.call import Invoker
    from rap.client.client import Client
    from rap.client.node import Node

__all__ = ["PinnedSession", "Session", "ambient_session", "innermost_session", "stub_codes"]

# The code of stubs; their variable `client` is whose calls they make.
stub_codes: set[CodeType] = set()
ambient_session: ContextVar["Session | None"] = ContextVar("rap_session", default=None)


class Session:
    """Use it as ``async with client.session as s``; one instance, one entry.

    Args:
        client: Whose calls it holds together.

    Attributes:
        id: Sent with every call as the header ``session_id``.
        client: See above.
        outer: The session in which this one was entered.
    """

    def __init__(self, client: "Client") -> None:
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
    def conn(self) -> Connection | None:
        """The connection of the session; `None` before it is entered."""
        return self._bound[1] if self._bound is not None else None

    @property
    def draining(self) -> bool:
        """Whether the server asked to finish soon: it is about to stop."""
        return self._bound is not None and self._bound[1].draining

    def bound(self) -> "tuple[Node, Connection]":
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

    async def execute(
        self,
        obj: Any,
        arg_list: list[Any] | tuple[Any, ...] | None = None,
        kwarg_dict: dict[str, Any] | None = None,
    ) -> Any:
        """Make one call in this session.

        Args:
            obj: A pending call of a stub, a function, or the name of one. For a generator the
                iterator over its items is returned.
            arg_list: Arguments for a function or name.
            kwarg_dict: Its keyword arguments.

        Raises:
            TypeError: `obj` is none of these, or the arguments are no list and dict.
            CallError: It is a pending call of another client.
        """
        token = ambient_session.set(self)
        try:
            if inspect.iscoroutine(obj):
                try:
                    self._check_pending(obj)
                    if arg_list or kwarg_dict:
                        raise TypeError("a pending call has its arguments already")
                except BaseException:
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

    def check_client(self, other: "Client | Invoker") -> None:
        """Refuse to take part in the calls of another client.

        Raises:
            CallError: It is the session of another one.
        """
        if self.client.identity is not other.identity:
            text = f"session {self.id} is of another client"
            raise CallError(text, code=Code.FAILED_PRECONDITION)

    def _check_pending(self, call: "CoroutineType[Any, Any, Any]") -> None:
        """Refuse a coroutine that is no call of this client: it would run outside of the session.

        Raises:
            TypeError: It is a coroutine of something else.
            CallError: It is a call of another client.
        """
        kind, values = type(self.client), inspect.getcoroutinelocals(call)
        client: Client | None = None
        if call.cr_code in stub_codes:
            client = values["client"]
        elif call.cr_code in (kind.raw_call.__code__, kind.call.__code__):
            client = values["self"]
        if client is None:
            raise TypeError(f"execute takes a pending call, a function or a name, got {call!r}")
        self.check_client(client)

    def _deadline(self) -> float:
        """When waiting for a server ends: with the call that runs here, if there is one."""
        outer = current.get()
        return NEVER if outer is None else outer.deadline

    def _leave(self) -> None:
        if self._bound is not None and not self._left:
            self._left = True
            self._bound[1].unpin()


def innermost_session(invoker: "Invoker") -> Session | None:
    """Return the innermost session of this client that the caller is in."""
    session = ambient_session.get()
    while session is not None and session.client.identity is not invoker.identity:
        session = session.outer
    return session


class PinnedSession(Session):
    """The session of a channel: calls made inside its function go over its connection."""

    def pin(self, node: "Node", conn: Connection) -> None:
        """Bind to the connection that the channel was opened on."""
        conn.pin()
        self._bound = (node, conn)
        self.outer = ambient_session.get()

    def unpin(self) -> None:
        """Let the connection go."""
        self._leave()
