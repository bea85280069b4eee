"""From a declared function to a plain function that calls its remote twin and waits."""

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from rap.channel import Channel
from rap.client.core import Client
from rap.client.plan import Plan
from rap.client.stub import channel_call, make_stub
from rap.client.sync_channel import SyncChannel
from rap.client.sync_iterate import SyncIterator
from rap.client.sync_session import SyncSession
from rap.deadline import check_timeout
from rap.message import Shape

if TYPE_CHECKING:
    from rap.client.sync import SyncClient

__all__ = ["Twin"]

_CHANNEL_OPTIONS = ("session", "timeout", "header", "affinity")


class Twin:
    """One declared function; it makes a new asynchronous stub when the client is a new one.

    Args:
        plan: How to call it.
        declared: The function.
    """

    def __init__(self, plan: Plan, declared: Callable[..., Any]) -> None:
        self._plan = plan
        self._declared = declared
        self._client: Client | None = None
        self._stub: Callable[..., Any]

    def stub(self, client: "SyncClient") -> Callable[..., Any]:
        """Return the plain function; it keeps name, docstring and signature."""

        def iterate(*args: Any, **kwargs: Any) -> SyncIterator:
            live, thread = client.live
            return SyncIterator(client, thread, self._of(live)(*args, **_unwrapped(kwargs)))

        def talk(**kwargs: Any) -> Any:
            with self.channel_of(client, self._plan, _unwrapped(kwargs)) as channel:
                return self._declared(channel)

        def wait(*args: Any, **kwargs: Any) -> Any:
            live, thread = client.live
            return thread.run(self._of(live)(*args, **_unwrapped(kwargs)))

        stub: Callable[..., Any] = wait
        if self._plan.shape is Shape.STREAM:
            stub = iterate
        elif self._plan.shape is Shape.CHANNEL and not inspect.iscoroutinefunction(self._declared):
            stub = talk
        functools.update_wrapper(stub, self._declared)
        stub.__rap_plan__ = self._plan  # type: ignore[attr-defined]  # how `execute` knows it
        return stub

    @staticmethod
    def channel_of(client: "SyncClient", plan: Plan, options: dict[str, Any]) -> SyncChannel:
        """Return a channel that is opened when it is entered.

        Raises:
            TypeError: There is an option that channels do not have.
        """
        unknown = [name for name in options if name not in _CHANNEL_OPTIONS]
        if unknown:
            raise TypeError(f"{plan.name}() takes no argument, its channel is made for it")
        check_timeout("timeout", options.get("timeout"))
        live, thread = client.live

        def open_channel(func: Callable[[Channel], Awaitable[None]]) -> Any:
            return channel_call(live, plan, func, **options)

        return SyncChannel(client, thread, open_channel)

    def _of(self, client: Client) -> Callable[..., Any]:
        if self._client is not client:
            self._stub = make_stub(client, self._plan, self._declared)
            self._client = client
        return self._stub


def _unwrapped(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Put the session that the event loop knows in place of the one that the caller holds."""
    session = kwargs.get("session")
    if isinstance(session, SyncSession):
        kwargs["session"] = session.session
    return kwargs
