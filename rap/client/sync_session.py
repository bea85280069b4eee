"""A session for callers without an event loop."""

import contextlib
from collections.abc import Sequence
from contextvars import Token
from typing import TYPE_CHECKING, Any, Self

from rap.client.session import Session, ambient_session
from rap.transport import Connection

if TYPE_CHECKING:
    from rap.client.sync import SyncClient

__all__ = ["SyncSession"]


class SyncSession:
    """Use it as ``with client.session as s``; all calls of the thread inside use one connection.

    A thread started inside does not inherit it; give it ``session=s``.

    Args:
        client: Whose calls it holds together.
        session: The session as the event loop sees it.
    """

    def __init__(self, client: "SyncClient", session: Session) -> None:
        self._client = client
        self.session = session
        self._token: Token[Session | None] | None = None

    @property
    def id(self) -> str:
        """Sent with every call as the header ``session_id``."""
        return self.session.id

    @property
    def in_session(self) -> bool:
        """Whether it was entered and not yet left."""
        return self.session.in_session

    @property
    def conn(self) -> Connection | None:
        """The connection of the session; `None` before it is entered."""
        return self.session.conn

    @property
    def draining(self) -> bool:
        """Whether the server asked to finish soon: it is about to stop."""
        return self.session.draining

    def execute(
        self,
        obj: Any,
        arg_list: Sequence[Any] | None = None,
        kwarg_dict: dict[str, Any] | None = None,
    ) -> Any:
        """Make one call in this session.

        Args:
            obj: A function, or the name of one. For a generator the iterator over its items is
                returned.
            arg_list: Its arguments.
            kwarg_dict: Its keyword arguments.

        Raises:
            TypeError: `obj` is neither.
        """
        return self._client.execute(self, obj, list(arg_list or ()), dict(kwarg_dict or {}))

    def __enter__(self) -> Self:
        self._client.run(self.session.__aenter__())
        self._token = ambient_session.set(self.session)
        return self

    def __exit__(self, *exc: object) -> None:
        token, self._token = self._token, None
        if token is not None:
            with contextlib.suppress(ValueError):  # left by another thread than entered it
                ambient_session.reset(token)
        self._client.run(self.session.__aexit__(None, None, None))
