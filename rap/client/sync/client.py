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
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextvars import Token
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, overload

from rap.call import StreamType
from rap.channel import Channel
from rap.client.channel_call import ChannelCall
from rap.client.client import Client
from rap.client.config import ClientConfig, StubOptions
from rap.client.inject import get_raw_func, inject, recovery
from rap.client.interface import bind
from rap.client.method import Method, MethodCache, merge_arguments
from rap.client.session import Session, ambient_session
from rap.client.stub import make_stub, mark_stub, register_stub, taker, unwanted_arguments
from rap.client.sync.call import SyncCall
from rap.client.sync.channel import SyncChannel, SyncIterator
from rap.client.sync.items import ThreadItems, lend_items
from rap.client.sync.loop_thread import LoopThread
from rap.client.target import Hosts
from rap.client.typed import ChannelStub
from rap.client.waiting import WaitForReady
from rap.errors import Code
from rap.misuse import HOW_TO_PICKLE, refusing
from rap.options import checks_options, takes_options_of
from rap.processor.base import BaseProcessor
from rap.transport import Connection

__all__ = ["SyncClient", "SyncSession", "SyncStreamStub", "SyncUnaryStub"]


# What a forked child has inherited. It is kept, because collecting a loop would close it.
_inherited: list[tuple[LoopThread, Client]] = []
# The clients that a forked child has to be told to; a client that is dropped leaves the set.
_clients: "weakref.WeakSet[SyncClient]" = weakref.WeakSet()
_is_fork_hooked = False

In = TypeVar("In")
Out = TypeVar("Out")
P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")


class SyncUnaryStub(Protocol[P, R_co]):
    """The stub of a function with one response: unary or client streaming."""

    __name__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Make the call and return its result."""
        ...

    def start(self, *args: P.args, **kwargs: P.kwargs) -> SyncCall[R_co]:
        """Start the call; return an object that has its result, and header and trailer."""
        ...


class SyncStreamStub(Protocol[P, R_co]):
    """The stub of a function that answers with items: a generator, or bidirectional."""

    __name__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> SyncIterator[R_co]:
        """Return the call, which is made when it is iterated."""
        ...

    def start(self, *args: P.args, **kwargs: P.kwargs) -> SyncIterator[R_co]:
        """Return the call, which has header and trailer of the answer."""
        ...


class _Declare(Protocol):
    """The decorator that `SyncClient.register` returns; it takes ``def`` and ``async def``."""

    @overload
    def __call__(  # type: ignore[overload-overlap]  # the first that fits
        self, func: Callable[Concatenate[Channel[Any, Any], P], Coroutine[Any, Any, R]]
    ) -> Callable[P, R]: ...
    @overload
    def __call__(self, func: Callable[P, Coroutine[Any, Any, R]]) -> SyncUnaryStub[P, R]: ...
    @overload
    def __call__(self, func: Callable[P, AsyncIterator[R]]) -> SyncStreamStub[P, R]: ...  # type: ignore[overload-overlap]  # the first that fits
    @overload
    def __call__(self, func: Callable[Concatenate[SyncChannel, P], R]) -> Callable[P, R]: ...
    @overload
    def __call__(self, func: Callable[P, Iterator[R]]) -> SyncStreamStub[P, R]: ...  # type: ignore[overload-overlap]  # the first that fits
    @overload
    def __call__(self, func: Callable[P, R]) -> SyncUnaryStub[P, R]: ...


class SyncClient:
    """A client whose calls block until they are answered.

    Args:
        host_list: One address or a list of addresses; by default ``localhost:9000``.
        options: The options of `Client`.

    Raises:
        ValueError: An option has an invalid value; the message names it.
        TypeError: An option does not exist.
    """

    @takes_options_of(ClientConfig)
    def __init__(self, host_list: Hosts = None, **options: Any) -> None:
        self._make = functools.partial(Client, host_list, **options)
        self._movable = isinstance(options.get("registry"), str | None)
        self._client = self._make()
        self._thread: LoopThread | None = None
        self.methods = MethodCache(self.config)
        self._lock = threading.Lock()
        self._closed = False
        self._forked = False  # it was connected in the parent process
        self._finalizer: weakref.finalize[Any, SyncClient] | None = None
        _watch_forks(self)

    @property
    def config(self) -> ClientConfig:
        """The options of the client."""
        return self._client.config

    @contextlib.contextmanager
    def overridden(self, **options: Any) -> Iterator[Self]:
        """Have other options in a block, at whose end the client is closed; for tests.

        See `Client.overridden`. Forked children do not have these options.
        """
        if self._thread is not None:
            raise RuntimeError(f"close the client before overridden(): {self!r}")
        with self._client.overridden(**options):
            closed, self._closed = self._closed, False
            try:
                yield self
            finally:
                self.close()
                self._closed = closed

    # Set-up.

    def load_processor(self, processor_list: Iterable[BaseProcessor]) -> None:
        """Add processors; call it before `connect`. See `Client.load_processor`."""
        self._client.load_processor(processor_list)

    def reload_certificates(self) -> None:
        """Read the files of all options of TLS again. See `Client.reload_certificates`."""
        self._client.reload_certificates()

    def load_exception(self, exceptions: Iterable[type[Exception]]) -> None:
        """Raise errors of servers as these exception types. See `Client.load_exception`."""
        self._client.load_exception(exceptions)

    @overload
    def register(  # type: ignore[overload-overlap]  # the first that fits
        self, name: Callable[Concatenate[Channel[Any, Any], P], Coroutine[Any, Any, R]], /
    ) -> Callable[P, R]: ...
    @overload
    def register(self, name: Callable[P, Coroutine[Any, Any, R]], /) -> SyncUnaryStub[P, R]: ...
    @overload
    def register(self, name: Callable[P, AsyncIterator[R]], /) -> SyncStreamStub[P, R]: ...  # type: ignore[overload-overlap]  # the first that fits
    @overload
    def register(self, name: Callable[Concatenate[SyncChannel, P], R], /) -> Callable[P, R]: ...
    @overload
    def register(self, name: Callable[P, Iterator[R]], /) -> SyncStreamStub[P, R]: ...  # type: ignore[overload-overlap]  # the first that fits
    @overload
    def register(self, name: Callable[P, R], /) -> SyncUnaryStub[P, R]: ...
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
        priority: str | None = None,
        wait_for_ready: WaitForReady = None,
        max_attempts: int | None = None,
        retry_codes: Collection[Code] | None = None,
        retry_pause: float | None = None,
        hedge_share: float | None = None,
        fault_codes: Collection[Code] | None = None,
    ) -> _Declare: ...

    @checks_options(StubOptions)
    def register(
        self,
        name: Any = "",
        group: str | None = None,
        enable_type_check: bool = True,
        **options: Any,
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
        return register_stub(self, name, group, enable_type_check, options, plain=True)

    def stub_of(self, method: Method, declared: Callable[..., Any]) -> Callable[..., Any]:
        """Return the stub of a declared function, for `bind`."""
        return _SyncStub(method, declared).stub(self)

    def __repr__(self) -> str:
        state = self._client.describe() if hasattr(self, "_client") else "not constructed"
        return f"<{type(self).__name__} {state}>"

    bind = bind
    inject = inject
    recovery = staticmethod(recovery)
    get_raw_func = staticmethod(get_raw_func)

    # Connecting and closing.

    def connect(self) -> None:
        """Block until one server is ready and each of them was tried; see `Client.connect`.

        You need not call it, because the first call connects; but it fails early. You may call it
        again, after a failure, and after the client was closed.

        Raises:
            Unavailable: No server answered within `connect_timeout`; the client continues to try.
        """
        with self._lock:
            self._closed = False
            thread = self._start()
            client = self._client
        thread.run(client.connect())

    def close(self) -> None:
        """Close every connection and end the thread; open calls fail.

        It may be called again. A client that is dropped, or is open when the program ends, closes
        itself.
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
        except BaseException:  # raised again
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    if not TYPE_CHECKING:
        __aenter__ = __aexit__ = refusing(
            "a SyncClient is entered by `with`, not by `async with`; with asyncio, use a Client"
        )
        __reduce__ = refusing(f"a SyncClient {HOW_TO_PICKLE}")

    # Calls.

    @property
    def session(self) -> "SyncSession":
        """A new session, to be entered by ``with``."""
        return SyncSession(self, Session(self.live[0]))

    def raw_call(
        self,
        name: str,
        *args: Any,
        group: str | None = None,
        session: "SyncSession | None" = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        wait_for_ready: WaitForReady = None,
        priority: str | None = None,
        arg_param: Sequence[Any] | None = None,
        kwarg_param: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call a function by its name.

        Args:
            name: Name of the function.
            args: Positional arguments of the function.
            group: See `Client.raw_call`, also for the other options.
            kwargs: Keyword arguments of the function.

        Raises:
            CallError: The call failed.
        """
        client, thread = self.live
        running = client.raw_call(
            name,
            *args,
            group=group,
            session=_plain(session),
            header=header,
            timeout=timeout,
            affinity=affinity,
            wait_for_ready=wait_for_ready,
            priority=priority,
            arg_param=arg_param,
            kwarg_param=kwarg_param,
            **kwargs,
        )
        return thread.run(running)

    @overload
    def call(
        self,
        func: Callable[..., Coroutine[Any, Any, R]],
        *args: Any,
        group: str | None = None,
        session: "SyncSession | None" = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        wait_for_ready: WaitForReady = None,
        priority: str | None = None,
        arg_param: Sequence[Any] | None = None,
        kwarg_param: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> R: ...

    @overload
    def call(
        self,
        func: Callable[..., R],
        *args: Any,
        group: str | None = None,
        session: "SyncSession | None" = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        wait_for_ready: WaitForReady = None,
        priority: str | None = None,
        arg_param: Sequence[Any] | None = None,
        kwarg_param: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> R: ...

    def call(
        self,
        func: Callable[..., Any],
        *args: Any,
        group: str | None = None,
        session: "SyncSession | None" = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        wait_for_ready: WaitForReady = None,
        priority: str | None = None,
        arg_param: Sequence[Any] | None = None,
        kwarg_param: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call the server's function that a local function declares.

        Args:
            func: Declares the function by its name and type hints. It is not run.
            args: See `raw_call`, also for the other arguments.

        Raises:
            CallError: The call failed.
            TypeError: `func` is a generator or channel function.
        """
        client, thread = self.live
        given, named = merge_arguments(args, arg_param, kwargs, kwarg_param)
        given, named, items = self._lend(func, group, given, named)
        running = client.call(
            func,
            *given,
            group=group,
            session=_plain(session),
            header=header,
            timeout=timeout,
            affinity=affinity,
            wait_for_ready=wait_for_ready,
            priority=priority,
            kwarg_param=named,
        )
        return _run(thread, running, items)

    @overload
    def iterator_call(
        self,
        func: Callable[..., AsyncIterator[R] | Iterator[R]],
        *args: Any,
        group: str | None = None,
        session: "SyncSession | None" = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        wait_for_ready: WaitForReady = None,
        priority: str | None = None,
        arg_param: Sequence[Any] | None = None,
        kwarg_param: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> SyncIterator[R]: ...

    @overload
    def iterator_call(
        self,
        func: str,
        *args: Any,
        group: str | None = None,
        session: "SyncSession | None" = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        wait_for_ready: WaitForReady = None,
        priority: str | None = None,
        arg_param: Sequence[Any] | None = None,
        kwarg_param: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> SyncIterator[Any]: ...

    def iterator_call(
        self,
        func: Callable[..., Any] | str,
        *args: Any,
        group: str | None = None,
        session: "SyncSession | None" = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        wait_for_ready: WaitForReady = None,
        priority: str | None = None,
        arg_param: Sequence[Any] | None = None,
        kwarg_param: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> SyncIterator[Any]:
        """Return an iterator over the items of a server's generator.

        Args:
            func: Declares the generator, or is its name.
            args: See `raw_call`, also for the other arguments.

        Raises:
            TypeError: `func` is not a generator function.
        """
        client, thread = self.live
        given, named = merge_arguments(args, arg_param, kwargs, kwarg_param)
        given, named, items = self._lend(func, group, given, named)
        remote = client.iterator_call(
            func,
            *given,
            group=group,
            session=_plain(session),
            header=header,
            timeout=timeout,
            affinity=affinity,
            wait_for_ready=wait_for_ready,
            priority=priority,
            kwarg_param=named,
        )
        return SyncIterator(self, thread, remote, items)

    @overload
    def channel(
        self,
        func: Callable[Concatenate[SyncChannel[In, Out], ...], Any],
        /,
        *args: Any,
        group: str | None = None,
        session: "SyncSession | None" = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        wait_for_ready: WaitForReady = None,
        priority: str | None = None,
        arg_param: Sequence[Any] | None = None,
        kwarg_param: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> SyncChannel[In, Out]: ...

    @overload
    def channel(
        self,
        func: Callable[Concatenate[Channel[In, Out], ...], Any] | ChannelStub[..., Any, In, Out],
        /,
        *args: Any,
        group: str | None = None,
        session: "SyncSession | None" = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        wait_for_ready: WaitForReady = None,
        priority: str | None = None,
        arg_param: Sequence[Any] | None = None,
        kwarg_param: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> SyncChannel[In, Out]: ...

    @overload
    def channel(
        self,
        func: Callable[..., Any] | str,
        /,
        *args: Any,
        group: str | None = None,
        session: "SyncSession | None" = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        wait_for_ready: WaitForReady = None,
        priority: str | None = None,
        arg_param: Sequence[Any] | None = None,
        kwarg_param: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> SyncChannel[Any, Any]: ...

    def channel(
        self,
        func: Any,
        /,
        *args: Any,
        group: str | None = None,
        session: "SyncSession | None" = None,
        header: dict[str, Any] | None = None,
        timeout: float | None = None,
        affinity: str | None = None,
        wait_for_ready: WaitForReady = None,
        priority: str | None = None,
        arg_param: Sequence[Any] | None = None,
        kwarg_param: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> SyncChannel[Any, Any]:
        """Return a channel to a server's function, to be entered by ``with``.

        Args:
            func: Name of the function, or a function that declares it; that is not run.
            args: Positional arguments, without the channel.
            group: See `Client.raw_call`, also for the other options.
            kwargs: Keyword arguments of the function.

        Raises:
            TypeError: `func` is not a channel function.
            InvalidArgument: The arguments do not fit the function.
        """
        client, thread = self.live
        remote = client.channel(
            func,
            *args,
            group=group,
            session=_plain(session),
            header=header,
            timeout=timeout,
            affinity=affinity,
            wait_for_ready=wait_for_ready,
            priority=priority,
            arg_param=arg_param,
            kwarg_param=kwarg_param,
            **kwargs,
        )
        return SyncChannel(self, thread, remote)

    def execute(
        self, session: "SyncSession", target: Any, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        """Call the target of `SyncSession.execute` according to its stream type.

        Raises:
            TypeError: `target` cannot be called.
        """
        if isinstance(target, str):
            return self.raw_call(target, session=session, arg_param=args, kwarg_param=kwargs)
        if not callable(target) or isinstance(target, type):
            raise TypeError(f"execute takes a function or a name, got {target!r}")
        func: Any = target
        if getattr(func, "__rap_given__", None) is not None:
            return func.__rap_change__({"session": session.session})(*args, **kwargs)
        stream_type = self.methods.for_function(func, None).stream_type
        if stream_type is StreamType.CHANNEL and hasattr(target, "__rap_method__"):
            return func(*args, **kwargs, session=session)
        if stream_type in (StreamType.STREAM, StreamType.BIDI):
            return self.iterator_call(func, session=session, arg_param=args, kwarg_param=kwargs)
        return self.call(func, session=session, arg_param=args, kwarg_param=kwargs)

    # The thread of the client.

    @property
    def live(self) -> tuple[Client, LoopThread]:
        """The asynchronous client of this process, and its thread.

        Raises:
            RuntimeError: The client was closed.
        """
        client, thread = self._client, self._thread
        if thread is None or self._forked or client.connected is None:
            return self._open()
        return client, thread

    def _open(self) -> tuple[Client, LoopThread]:
        """Begin to connect, unless another thread has done so."""
        with self._lock:
            if self._closed:
                raise RuntimeError(f"the client was closed; connect() it to use it again: {self!r}")
            thread = self._start()
            client = self._client
            if client.connected is None:
                thread.run(client.open())
        return client, thread

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the thread of the client and return its result."""
        try:
            _, thread = self.live
        except BaseException:  # raised again
            coroutine.close()
            raise
        return thread.run(coroutine)

    def _lend(
        self,
        func: Callable[..., Any] | str,
        group: str | None,
        args: Sequence[Any],
        kwargs: dict[str, Any],
    ) -> tuple[Sequence[Any], dict[str, Any], ThreadItems | None]:
        """Return the arguments of a call, in which an iterator stands for a plain request stream.

        Raises:
            InvalidArgument: The request stream is missing.
        """
        if isinstance(func, str):
            return args, kwargs, None
        function = self.methods.for_function(func, group).function
        if function is None or function.stream_parameter is None:
            return args, kwargs, None
        return lend_items(function, args, kwargs)

    def after_fork(self) -> None:
        """Give up the connections of the parent process; called in a forked child."""
        self._lock = threading.Lock()
        if self._thread is not None:
            self._thread.abandon()
            self._client.disown()
            _inherited.append((self._thread, self._client))
            self._thread = None
            self._forked = True

    def _start(self) -> LoopThread:
        if self._forked:
            self._renew()
        if self._thread is None:
            self._client.use_from_any_thread()
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
    """A session, used as ``with client.session as s``.

    All calls that the thread makes in the block use one connection. A thread that is started in the
    block does not inherit the session; pass ``session=s`` there.

    Args:
        client: The client that makes the calls.
        session: The asynchronous session.
    """

    def __init__(self, client: "SyncClient", session: Session) -> None:
        self._client = client
        self.session = session
        self._token: Token[Session | None] | None = None

    @property
    def id(self) -> str:
        """The header ``session_id`` of every call."""
        return self.session.id

    @property
    def in_session(self) -> bool:
        """Whether the block was entered and not left."""
        return self.session.in_session

    @property
    def conn(self) -> Connection | None:
        """The connection of the session; `None` before the block is entered."""
        return self.session.conn

    @property
    def draining(self) -> bool:
        """Whether the server is about to stop and asked to finish soon."""
        return self.session.draining

    @overload
    def execute(
        self,
        obj: str,
        arg_list: Sequence[Any] | None = None,
        kwarg_dict: dict[str, Any] | None = None,
    ) -> Any: ...

    @overload
    def execute(
        self,
        obj: Callable[..., Coroutine[Any, Any, R]],
        arg_list: Sequence[Any] | None = None,
        kwarg_dict: dict[str, Any] | None = None,
    ) -> R: ...

    @overload
    def execute(
        self,
        obj: Callable[..., AsyncIterator[R] | Iterator[R]],
        arg_list: Sequence[Any] | None = None,
        kwarg_dict: dict[str, Any] | None = None,
    ) -> SyncIterator[R]: ...

    @overload
    def execute(
        self,
        obj: Callable[..., R],
        arg_list: Sequence[Any] | None = None,
        kwarg_dict: dict[str, Any] | None = None,
    ) -> R: ...

    def execute(
        self,
        obj: Any,
        arg_list: Sequence[Any] | None = None,
        kwarg_dict: dict[str, Any] | None = None,
    ) -> Any:
        """Make one call in this session.

        Args:
            obj: A function, or the name of one. The result for a generator is an iterator.
            arg_list: Arguments of the function.
            kwarg_dict: Keyword arguments of the function.

        Raises:
            TypeError: `obj` is neither a function nor a name.
        """
        return self._client.execute(self, obj, list(arg_list or ()), dict(kwarg_dict or {}))

    @overload
    def channel(
        self,
        func: Callable[Concatenate[SyncChannel[In, Out], ...], Any],
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
    ) -> SyncChannel[In, Out]: ...

    @overload
    def channel(
        self,
        func: Callable[Concatenate[Channel[In, Out], ...], Any] | ChannelStub[..., Any, In, Out],
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
    ) -> SyncChannel[In, Out]: ...

    @overload
    def channel(
        self,
        func: Callable[..., Any] | str,
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
    ) -> SyncChannel[Any, Any]: ...

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
    ) -> SyncChannel[Any, Any]:
        """Return a channel in this session; see `SyncClient.channel`."""
        return self._client.channel(
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

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.session.describe()}>"

    def __enter__(self) -> Self:
        self._client.run(self.session.__aenter__())
        self._token = ambient_session.set(self.session)
        return self

    def __exit__(self, *exc: object) -> None:
        token, self._token = self._token, None
        if token is not None:
            with contextlib.suppress(ValueError):  # another thread entered the block
                ambient_session.reset(token)
        self._client.run(self.session.__aexit__(None, None, None))


class _SyncStub:
    """A stub of one function. It makes a new asynchronous stub after a fork.

    Args:
        method: The method to call.
        declared: The function that declares it.
        given: Options of each call; see `with_options`.
    """

    def __init__(
        self,
        method: Method,
        declared: Callable[..., Any],
        given: Mapping[str, Any] | None = None,
    ) -> None:
        self._method = method
        self._declared = declared
        self._given = given
        self._client: Client | None = None
        self._stub: Callable[..., Any]

    def stub(self, client: "SyncClient") -> Callable[..., Any]:
        """Return the stub, with the name, docstring and signature of the declared function."""

        def iterate(*args: Any, **kwargs: Any) -> SyncIterator[Any]:
            live, thread = client.live
            given, named, items = lend_items(self._method.function, args, _unwrapped(kwargs))
            return SyncIterator(client, thread, self._of(live)(*given, **named), items)

        def talk(*args: Any, **kwargs: Any) -> Any:
            options = _unwrapped(kwargs)
            function = self._method.function
            assert function is not None
            with self._channel(client, args, options) as channel:
                given, named = function.join_arguments(args, options, channel)
                value = self._declared(*given, **(named or {}))
            return channel.result() if value is None else value

        def wait(*args: Any, **kwargs: Any) -> Any:
            live, thread = client.live
            return thread.run(self._of(live)(*args, **_unwrapped(kwargs)))

        def send(*args: Any, **kwargs: Any) -> Any:
            live, thread = client.live
            given, named, items = lend_items(self._method.function, args, _unwrapped(kwargs))
            return _run(thread, self._of(live)(*given, **named), items)

        def start(*args: Any, **kwargs: Any) -> SyncCall[Any]:
            live, thread = client.live
            given, named, items = lend_items(self._method.function, args, _unwrapped(kwargs))

            async def begin() -> Any:
                return self._of(live).start(*given, **named)  # type: ignore[attr-defined]  # a stub

            return SyncCall(client, thread, begin(), items)

        stub: Callable[..., Any] = wait
        stream_type = self._method.stream_type
        if stream_type in (StreamType.STREAM, StreamType.BIDI):
            stub = iterate
        elif stream_type is StreamType.CLIENT_STREAM:
            stub = send
        elif stream_type is StreamType.CHANNEL and not inspect.iscoroutinefunction(self._declared):
            stub = talk
        functools.update_wrapper(stub, self._declared)
        if stream_type is not StreamType.CHANNEL:
            starts = stub if stream_type.server_streams else start
            stub.start = starts  # type: ignore[attr-defined]  # of the stub

        def change(more: Mapping[str, Any]) -> Callable[..., Any]:
            given = {**(self._given or {}), **more}
            return _SyncStub(self._method, self._declared, given).stub(client)

        mark_stub(stub, self._method, self._given, change)
        return stub

    def _channel(self, client: "SyncClient", args: Any, kwargs: dict[str, Any]) -> SyncChannel:
        """Return a channel that is opened when it is entered.

        Raises:
            TypeError: The function takes no arguments.
        """
        function = self._method.function
        assert function is not None
        options = taker(function, self._given)(kwargs)
        if (args or kwargs) and len(function.signature.parameters) == 1:
            raise unwanted_arguments(self._method)
        live, thread = client.live
        remote: ChannelCall = ChannelCall(live, live.invoker, self._method, args, kwargs, **options)
        return SyncChannel(client, thread, remote)

    def _of(self, client: Client) -> Callable[..., Any]:
        if self._client is not client:
            self._stub = make_stub(client, self._method, self._declared, self._given)
            self._client = client
        return self._stub


def _run(thread: LoopThread, running: Coroutine[Any, Any, T], items: ThreadItems | None) -> T:
    """Return the result of a call, and close the request stream that it had from this thread."""
    try:
        return thread.run(running, items)
    finally:
        if items is not None:
            items.close()


def _plain(session: SyncSession | None) -> Session | None:
    return session.session if isinstance(session, SyncSession) else session


def _end(pid: int, thread: LoopThread, client: Client) -> None:
    """Close the client and the thread, unless they belong to the parent process."""
    if os.getpid() == pid:
        thread.close(client.await_close())


def _unwrapped(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Replace a `SyncSession` with its asynchronous session."""
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
