"""The client for code without an event loop: the same calls without ``await``.

It is for Django, Flask, Celery, scripts and notebooks. A `Client` runs in a background thread, and
any number of threads may call at once. A forked child makes new connections on its first call.
"""

import contextlib
import functools
import inspect
import os
import threading
import weakref
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Sequence,
)
from contextvars import Token
from typing import Any, ParamSpec, Protocol, Self, TypeVar, overload

from rap.call import StreamType
from rap.channel import Channel
from rap.client.client import Client
from rap.client.config import ClientConfig
from rap.client.inject import get_raw_func, inject, recovery
from rap.client.method import Method, MethodCache
from rap.client.retry import check_options
from rap.client.session import Session, ambient_session
from rap.client.stub import bind_interface, channel_call, make_stub, split_decorated
from rap.client.sync.channel import SyncChannel, SyncIterator
from rap.client.sync.loop_thread import LoopThread
from rap.client.target import Hosts
from rap.clock import check_timeout
from rap.options import check_flag, takes_options_of
from rap.processor.base import BaseProcessor
from rap.schema.function import Function
from rap.transport import Connection

__all__ = ["SyncClient", "SyncSession"]


_CHANNEL_OPTIONS = ("session", "timeout", "header", "affinity")
# What a forked child has inherited. It is kept, because collecting a loop would close it.
_inherited: list[tuple[LoopThread, Client]] = []
# The clients that a forked child has to be told to; a client that is dropped leaves the set.
_clients: "weakref.WeakSet[SyncClient]" = weakref.WeakSet()
_is_fork_hooked = False

P = ParamSpec("P")
R = TypeVar("R")
I = TypeVar("I")  # noqa: E741
T = TypeVar("T")


class _Declare(Protocol):
    """What `SyncClient.register` returns: it takes ``def`` and ``async def`` alike."""

    @overload
    def __call__(self, func: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, R]: ...
    @overload
    def __call__(self, func: Callable[P, AsyncIterator[R]]) -> Callable[P, Iterator[R]]: ...
    @overload
    def __call__(self, func: Callable[[SyncChannel], R]) -> Callable[[], R]: ...
    @overload
    def __call__(self, func: Callable[P, R]) -> Callable[P, R]: ...


class SyncClient:
    """Calls functions of servers, and waits for them.

    Args:
        host_list: One address or a list of addresses; nothing: ``localhost:9000``.
        options: Those of `Client`.

    Raises:
        ValueError: An option has a bad value; the message names it.
        TypeError: An option does not exist.
    """

    @takes_options_of(ClientConfig)
    def __init__(self, host_list: Hosts = None, **options: Any) -> None:
        self._make = functools.partial(Client, host_list, **options)
        self._movable = isinstance(options.get("registry"), str | None)
        self._client = self._make()
        self._thread: LoopThread | None = None
        self._methods = MethodCache(self.config.timeout)
        self._lock = threading.Lock()
        self._closed = False
        self._forked = False  # it was connected in the process that this one was forked from
        self._finalizer: weakref.finalize[Any, SyncClient] | None = None
        _watch_forks(self)

    @property
    def config(self) -> ClientConfig:
        """Its options."""
        return self._client.config

    # Set-up.

    def load_processor(self, processor_list: Iterable[BaseProcessor]) -> None:
        """Add processors; call it before `connect`. See `Client.load_processor`."""
        self._client.load_processor(processor_list)

    def load_exception(self, exceptions: Iterable[type[Exception]]) -> None:
        """Raise errors of servers as these exception types. See `Client.load_exception`."""
        self._client.load_exception(exceptions)

    @overload
    def register(self, name: Callable[P, Coroutine[Any, Any, R]], /) -> Callable[P, R]: ...
    @overload
    def register(self, name: Callable[P, AsyncIterator[R]], /) -> Callable[P, Iterator[R]]: ...
    @overload
    def register(self, name: Callable[[SyncChannel], R], /) -> Callable[[], R]: ...
    @overload
    def register(self, name: Callable[P, R], /) -> Callable[P, R]: ...
    @overload
    def register(
        self,
        name: str = "",
        group: str | None = None,
        enable_type_check: bool = True,
        *,
        timeout: float | None = None,
        idempotent: bool = False,
        hedge: bool | float | None = None,
    ) -> _Declare: ...

    def register(
        self,
        name: Any = "",
        group: str | None = None,
        enable_type_check: bool = True,
        *,
        timeout: float | None = None,
        idempotent: bool = False,
        hedge: bool | float | None = None,
    ) -> Any:
        """Make a declared function the stub of a server's function.

        It is a decorator, used as ``@client.register`` or with options as
        ``@client.register(timeout=3)``. You may declare the function with ``def`` or
        ``async def``; the stub is a plain function. A channel function that is a ``def`` runs in
        the caller's thread with a `SyncChannel`. One that is an ``async def`` runs in the client's
        thread with a `Channel`.

        Args:
            name: Name of the function on the server. By default the name of the declared function.
            group: See `Client.register`, also for the other options.

        Raises:
            TypeError: `name` is not a string.
            ValueError: An option has a bad value; the message names it.
            RegistrationError: Type hints are missing, or values of a type cannot be sent.
        """
        check_options(timeout, idempotent, hedge)
        check_flag("enable_type_check", enable_type_check)
        declared, name = split_decorated(
            "client", name, (group, enable_type_check, timeout, idempotent, hedge)
        )

        def decorate(func: Callable[..., Any]) -> Callable[..., Any]:
            function = Function.of(func)
            options = (timeout, idempotent, enable_type_check, hedge)
            method = self._methods.make(name or function.name, group, function, *options)
            return _SyncStub(method, func).stub(self)

        return decorate if declared is None else decorate(declared)

    def bind(
        self,
        interface: Callable[..., I],
        group: str | None = None,
        *,
        timeout: float | None = None,
        idempotent: bool = False,
        hedge: bool | float | None = None,
    ) -> I:
        """Return an object whose methods are the remote twins of those of a class or `Protocol`.

        Args:
            interface: Declares the methods, each with `self` and type hints.
            group: Their group on the server; by default the name of the class.
            timeout: Seconds a call may take.
            idempotent: As in `register`, for all methods.
            hedge: As in `register`, for unary methods.

        Raises:
            RegistrationError: Hints are missing or cannot be sent.
            TypeError: It declares no public method.
        """
        options = (group, timeout, idempotent, hedge)
        bound = bind_interface(self._client, self._methods, interface, *options)
        for name, stub in list(vars(bound).items()):
            setattr(bound, name, _SyncStub(stub.__rap_method__, stub.__wrapped__).stub(self))
        return bound

    def __repr__(self) -> str:
        state = self._client.describe() if hasattr(self, "_client") else "not constructed"
        return f"<{type(self).__name__} {state}>"

    inject = inject
    recovery = staticmethod(recovery)
    get_raw_func = staticmethod(get_raw_func)

    # Life.

    def connect(self) -> None:
        """Return when one server has answered; may be called again after a failure.

        Raises:
            Unavailable: None did within `connect_timeout`; the client goes on trying.
            RuntimeError: The client was closed.
        """
        with self._lock:
            thread = self._start()
        thread.run(self._client.connect())

    def close(self) -> None:
        """Close every connection and end the thread; calls that are open fail.

        May be called again. A client that is dropped, or left open when the program ends, is
        closed likewise.
        """
        with self._lock:
            self._closed = True
            self._thread = None
            finalizer, self._finalizer = self._finalizer, None
        if finalizer is not None:
            finalizer()

    def __enter__(self) -> Self:
        try:
            self.connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # Calls.

    @property
    def session(self) -> "SyncSession":
        """A new session, for ``with``."""
        return SyncSession(self, Session(self.live[0]))

    def raw_call(
        self, name: str, *args: Any, session: "SyncSession | None" = None, **options: Any
    ) -> Any:
        """Call a function by its name.

        Args:
            name: Of the function.
            args: Its arguments.
            session: In which to make the call; by default the one the thread is in.
            options: Those of `Client.raw_call`, and keyword arguments of the function.

        Raises:
            CallError: The call failed.
        """
        client, thread = self.live
        return thread.run(client.raw_call(name, *args, session=_plain(session), **options))

    def call(
        self,
        func: Callable[..., Any],
        *args: Any,
        session: "SyncSession | None" = None,
        **options: Any,
    ) -> Any:
        """Call the server's function that has the name and hints of a local one.

        Args:
            func: Declares the function; never run.
            args: See `raw_call`, as for the other arguments.

        Raises:
            CallError: The call failed.
            TypeError: It is a generator or channel function.
        """
        client, thread = self.live
        return thread.run(client.call(func, *args, session=_plain(session), **options))

    def iterator_call(
        self,
        func: Callable[..., Any] | str,
        *args: Any,
        session: "SyncSession | None" = None,
        **options: Any,
    ) -> SyncIterator:
        """Return a plain iterator over what the server's generator yields.

        Args:
            func: Declares the generator, or is its name.
            args: See `raw_call`, as for the other arguments.

        Raises:
            TypeError: It is no generator function.
        """
        client, thread = self.live
        remote = client.iterator_call(func, *args, session=_plain(session), **options)
        return SyncIterator(self, thread, remote)

    def channel(
        self,
        name: str,
        group: str | None = None,
        *,
        session: "SyncSession | None" = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
    ) -> SyncChannel:
        """Return a channel to a server's function, for ``with``.

        Args:
            name: Of the function.
            group: Of the function.
            session: In which to make the call; by default the one the thread is in.
            header: Sent with the call.
            timeout: Seconds for the whole call.
            affinity: See `Client.raw_call`.
        """
        method = self._methods.for_name(name, group, StreamType.CHANNEL)
        options: dict[str, Any] = {"session": _plain(session), "header": header}
        return _SyncStub.channel_of(
            self, method, {**options, "timeout": timeout, "affinity": affinity}
        )

    def execute(
        self, session: "SyncSession", target: Any, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        """Call what `SyncSession.execute` was given, by its shape.

        Raises:
            TypeError: It is nothing that can be called.
        """
        if isinstance(target, str):
            return self.raw_call(target, session=session, arg_param=args, kwarg_param=kwargs)
        if not callable(target) or isinstance(target, type):
            raise TypeError(f"execute takes a function or a name, got {target!r}")
        stream_type = self._methods.for_function(target, None).stream_type
        if stream_type is StreamType.CHANNEL and hasattr(target, "__rap_method__"):
            return target(*args, **kwargs, session=session)
        call = self.iterator_call if stream_type is StreamType.STREAM else self.call
        return call(target, session=session, arg_param=args, kwarg_param=kwargs)

    # The thread behind.

    @property
    def live(self) -> tuple[Client, LoopThread]:
        """The client of this process, and where it lives.

        Raises:
            RuntimeError: The client is not connected, or was closed.
        """
        if self._forked:
            self.connect()
        thread = self._thread
        if thread is None:
            what = "was closed" if self._closed else "is not connected; call client.connect() first"
            raise RuntimeError(f"the client {what}")
        return self._client, thread

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return what a coroutine returns that runs in the client's thread."""
        try:
            _, thread = self.live
        except BaseException:
            coroutine.close()
            raise
        return thread.run(coroutine)

    def after_fork(self) -> None:
        """Leave what belongs to the parent process alone; called in a forked child."""
        self._lock = threading.Lock()
        if self._thread is not None:
            self._thread.abandon()
            self._client.disown()
            _inherited.append((self._thread, self._client))
            self._thread = None
            self._forked = True

    def _start(self) -> LoopThread:
        if self._closed:
            raise RuntimeError("the client was closed; make a new one")
        if self._forked:
            self._renew()
        if self._thread is None:
            thread = self._thread = LoopThread("rap client")
            self._finalizer = weakref.finalize(self, _end, os.getpid(), thread, self._client)
        return self._thread

    def _renew(self) -> None:
        """Make a client for this process."""
        if not self._movable:
            raise RuntimeError(
                "a client with a registry object is not usable in a forked process: "
                "give registry as a URL, or make the client after the fork"
            )
        client = self._make()
        client.succeed(self._client)
        self._client = client
        self._forked = False


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

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.session.describe()}>"

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


class _SyncStub:
    """One declared function; it makes a new asynchronous stub when the client is a new one.

    Args:
        method: How to call it.
        declared: The function.
    """

    def __init__(self, method: Method, declared: Callable[..., Any]) -> None:
        self._method = method
        self._declared = declared
        self._client: Client | None = None
        self._stub: Callable[..., Any]

    def stub(self, client: "SyncClient") -> Callable[..., Any]:
        """Return the plain function; it keeps name, docstring and signature."""

        def iterate(*args: Any, **kwargs: Any) -> SyncIterator:
            live, thread = client.live
            return SyncIterator(client, thread, self._of(live)(*args, **_unwrapped(kwargs)))

        def talk(**kwargs: Any) -> Any:
            with self.channel_of(client, self._method, _unwrapped(kwargs)) as channel:
                return self._declared(channel)

        def wait(*args: Any, **kwargs: Any) -> Any:
            live, thread = client.live
            return thread.run(self._of(live)(*args, **_unwrapped(kwargs)))

        stub: Callable[..., Any] = wait
        if self._method.stream_type is StreamType.STREAM:
            stub = iterate
        elif self._method.stream_type is StreamType.CHANNEL and not inspect.iscoroutinefunction(
            self._declared
        ):
            stub = talk
        functools.update_wrapper(stub, self._declared)
        stub.__rap_method__ = self._method  # type: ignore[attr-defined]  # how `execute` knows it
        return stub

    @staticmethod
    def channel_of(client: "SyncClient", method: Method, options: dict[str, Any]) -> SyncChannel:
        """Return a channel that is opened when it is entered.

        Raises:
            TypeError: There is an option that channels do not have.
        """
        unknown = [name for name in options if name not in _CHANNEL_OPTIONS]
        if unknown:
            raise TypeError(f"{method.name}() takes no argument, its channel is made for it")
        check_timeout("timeout", options.get("timeout"))
        live, thread = client.live

        def open_channel(func: Callable[[Channel], Awaitable[None]]) -> Any:
            return channel_call(live, method, func, **options)

        return SyncChannel(client, thread, open_channel)

    def _of(self, client: Client) -> Callable[..., Any]:
        if self._client is not client:
            self._stub = make_stub(client, self._method, self._declared)
            self._client = client
        return self._stub


def _plain(session: SyncSession | None) -> Session | None:
    return session.session if isinstance(session, SyncSession) else session


def _end(pid: int, thread: LoopThread, client: Client) -> None:
    """Close what a client leaves behind; in a forked child it belongs to the parent."""
    if os.getpid() == pid:
        thread.close(client.await_close())


def _unwrapped(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Put the session that the event loop knows in place of the one that the caller holds."""
    session = kwargs.get("session")
    if isinstance(session, SyncSession):
        kwargs["session"] = session.session
    return kwargs


def _watch_forks(client: SyncClient) -> None:
    """Call `SyncClient.after_fork` in each forked child, as long as the client lives."""
    global _is_fork_hooked
    _clients.add(client)
    if not _is_fork_hooked and hasattr(os, "register_at_fork"):
        _is_fork_hooked = True
        os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    for client in list(_clients):
        client.after_fork()
