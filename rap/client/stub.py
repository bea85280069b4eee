"""Stubs: functions that call a server instead of running what they declare.

The stub of a unary function is a real ``async def``: nothing is sent before it is awaited, and
`create_task`, `gather`, `wait_for` and `Session.execute` take what calling it returns. Arguments
live in the call, never on the stub.
"""

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from threading import get_ident
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from rap.call import CALL_OPTIONS, DEFAULT_PRIORITY, StreamType, current
from rap.channel import Channel
from rap.client.attempt import UnaryAttempt
from rap.client.call import Invoker
from rap.client.channel_call import ChannelCall
from rap.client.method import Method, MethodCache
from rap.client.rescue import LATE
from rap.client.response_stream import ResponseStream
from rap.client.retry import check_hedge
from rap.client.session import Session, SessionClient, ambient_session, stub_codes
from rap.client.typed import ChannelStub
from rap.client.unary_call import UnaryCall
from rap.client.waiting import WaitForReady
from rap.clock import MAX_MARGIN, NEVER, check_call_timeout, inherited_deadline
from rap.errors import CallError, Code
from rap.schema.function import Function, decode_any
from rap.schema.markers import is_marked

__all__ = [
    "Binds",
    "Declare",
    "StreamStub",
    "StubClient",
    "UnaryStub",
    "iterator_call",
    "make_stub",
    "mark_stub",
    "register_stub",
    "taker",
    "unwanted_arguments",
]

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
In = TypeVar("In")
Out = TypeVar("Out")
_Take = Callable[[dict[str, Any]], dict[str, Any]]


class UnaryStub(Protocol[P, R_co]):
    """The stub of a function with one response: unary or client streaming."""

    __name__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        """Return the call, which is made when it is awaited."""
        ...

    def start(self, *args: P.args, **kwargs: P.kwargs) -> UnaryCall[R_co]:
        """Start the call; return an object to await, that has header and trailer of the answer."""
        ...


class StreamStub(Protocol[P, R_co]):
    """The stub of a function that answers with items: a generator, or bidirectional."""

    __name__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> ResponseStream[R_co]:
        """Return the call, which is made when it is iterated."""
        ...

    def start(self, *args: P.args, **kwargs: P.kwargs) -> ResponseStream[R_co]:
        """Return the call, which has header and trailer of the answer."""
        ...


class Declare(Protocol):
    """The decorator that `Client.register` returns if it is given options."""

    @overload
    def __call__(
        self, func: Callable[Concatenate[Channel[In, Out], P], Coroutine[Any, Any, R]]
    ) -> ChannelStub[P, R, In, Out]: ...
    @overload
    def __call__(self, func: Callable[P, Coroutine[Any, Any, R]]) -> UnaryStub[P, R]: ...
    @overload
    def __call__(self, func: Callable[P, AsyncIterator[R]]) -> StreamStub[P, R]: ...


class StubClient(SessionClient, Protocol):
    """The client of a stub.

    Attributes:
        connected: Makes the calls; `None` while the client is not connected.
        stub_monotonic: Returns the time on the clock that the client was made with.
    """

    connected: Invoker | None
    stub_monotonic: Callable[[], float]

    @property
    def invoker(self) -> Invoker:
        """What makes the calls.

        Raises:
            RuntimeError: The client is not connected, or was closed.
        """
        ...


class Binds(Protocol):
    """A client of either kind.

    Attributes:
        methods: What is known of the functions that it calls.
    """

    methods: MethodCache

    def stub_of(self, method: Method, declared: Callable[..., Any]) -> Callable[..., Any]:
        """Return the stub of a declared function."""
        ...


def register_stub(
    client: Binds,
    name: Any,
    group: str | None,
    enable_type_check: bool,
    options: dict[str, Any],
    *,
    plain: bool = False,
) -> Any:
    """Return what `Client.register` returns: a decorator, or the stub of the function.

    Args:
        client: Makes the calls.
        name: A name, or the function if the decorator is used without parentheses.
        group: See `Client.register`.
        enable_type_check: See `Client.register`.
        options: See `Client.register`; those that were given.
        plain: Whether the function may be a ``def``.

    Raises:
        TypeError: `name` is a function and there are options, or the function is a ``def``.
        ValueError: `hedge` is set without `idempotent`.
        RegistrationError: Hints are missing or cannot be sent.
    """
    check_hedge(options.get("hedge"), options.get("idempotent", False))

    def decorate(func: Callable[..., Any]) -> Callable[..., Any]:
        if not (plain or inspect.iscoroutinefunction(func) or inspect.isasyncgenfunction(func)):
            shown = getattr(func, "__qualname__", repr(func))
            raise TypeError(
                f"@client.register needs an `async def` function, got {shown}; write `async def`,"
                f" or register it with a SyncClient"
            )
        function = Function.of(func)
        own = {**options, "idempotent": options.get("idempotent", False) or is_marked(func)}
        known = name if isinstance(name, str) and name else function.name
        method = client.methods.make(known, group, function, check=enable_type_check, **own)
        return client.stub_of(method, func)

    if not callable(name):
        return decorate
    given = [group, *(value for key, value in options.items() if value or key != "idempotent")]
    if not enable_type_check or any(value is not None for value in given):
        raise TypeError("write the options first, then the function: @client.register(group=...)")
    return decorate(name)


def make_stub(
    client: StubClient,
    method: Method,
    declared: Callable[..., Any],
    given: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """Return the stub of a declared function; it keeps name, docstring and signature.

    Args:
        client: Makes the calls.
        method: What to call.
        declared: The declaration.
        given: Options of each call, checked; see `with_options`.
    """
    function = method.function
    assert function is not None
    take = taker(function, given)
    if function.stream_type is StreamType.UNARY:
        is_plain = method.hedge is None and given is None
        stub = (_unary_stub if is_plain else _optioned_stub)(client, method, take)
    elif function.stream_type is StreamType.CLIENT_STREAM:
        stub = _client_stream_stub(client, method, take)
    elif function.stream_type is StreamType.CHANNEL:
        stub = _channel_stub(client, method, declared, take)
    else:
        stub = _stream_stub(client, method, take)
    stub_codes.add(stub.__code__)
    functools.update_wrapper(stub, declared)
    known: Any = stub
    if function.stream_type is not StreamType.CHANNEL:
        known.start = _starter(client, method, take)

    def change(more: Mapping[str, Any]) -> Callable[..., Any]:
        return make_stub(client, method, declared, {**(given or {}), **more})

    mark_stub(known, method, given, change)
    return stub


def mark_stub(
    stub: Callable[..., Any],
    method: Method,
    given: Mapping[str, Any] | None,
    change: Callable[[Mapping[str, Any]], Callable[..., Any]],
) -> None:
    """Let a stub say what it calls.

    Args:
        stub: The stub.
        method: What it calls. `MethodCache` and `inject` ask for it, and do not find it on a stub
            whose calls have options, because they would lose these.
        given: The options of its calls; `None`: it is the declared stub.
        change: Returns the stub with further options, for `with_options`.
    """
    vars(stub).update(
        __rap_method__=method if given is None else None,
        __rap_given__=given,
        __rap_change__=change,
    )


def unwanted_arguments(method: Method) -> TypeError:
    """Return the error for arguments to a channel function that takes none but its channel."""
    return TypeError(
        f"{method.name}() takes no argument, its channel is made for it: call {method.name}(), or"
        f" declare further parameters"
    )


def taker(function: Function, given: Mapping[str, Any] | None) -> _Take:
    """Return what takes the options of a call out of its keyword arguments.

    Args:
        function: What is called. A parameter of it that has the name of an option comes first.
        given: Options of each call that does not have them itself.
    """
    names = tuple(name for name in CALL_OPTIONS if name not in function.signature.parameters)

    def take(kwargs: dict[str, Any]) -> dict[str, Any]:
        taken = {name: kwargs.pop(name) for name in names if name in kwargs}
        check_call_timeout(taken.get("timeout"))
        return taken

    return take if given is None else lambda kwargs: {**given, **take(kwargs)}


def _unary_stub(client: StubClient, method: Method, take: _Take) -> Callable[..., Any]:
    get_session = ambient_session.get
    get_outer = current.get
    monotonic = client.stub_monotonic
    encode, decode = method.encode, method.decode
    meta, untraced_meta = method.meta, method.untraced_meta
    timeout = NEVER if method.timeout is None else method.timeout
    rescue = method.rescue

    async def stub(*args: Any, **kwargs: Any) -> Any:
        invoker = client.connected
        if invoker is None or get_ident() != invoker.thread or kwargs:
            invoker = client.invoker
        if kwargs:
            taken = take(kwargs)
            taken.setdefault("timeout", method.timeout)
            return await invoker.unary(method, args, kwargs, **taken)
        plain, outer = invoker.plain, get_outer()
        if (
            get_session() is not None
            or (not plain and invoker.wants_next())
            or (outer is not None and outer.priority != DEFAULT_PRIORITY)
        ):
            return await invoker.unary(method, args, None, None, None, method.timeout)
        # The fast path: no option, processor or session. It is `Invoker.call_with_retries` with
        # `AttemptFactory.start_unary`, unrolled. A call that no processor wants, because it is in
        # no trace, takes it too.
        body = encode(args, None)
        cluster = invoker.cluster
        node = invoker.pick()
        conn = node.pool.conn if node is not None else None
        if node is None or conn is None or not conn.usable:
            return await invoker.unary(method, args, kwargs, timeout=method.timeout)
        now = monotonic()
        deadline = now + timeout
        if outer is not None and outer.deadline - MAX_MARGIN < deadline and not outer.is_over:
            deadline = min(deadline, inherited_deadline(outer.deadline, now))
            if deadline <= now:
                return await invoker.unary(method, args, kwargs, timeout=method.timeout)
            open_meta = method.open_meta(
                deadline, now, method.header if plain else method.untraced_header
            )
        else:
            open_meta = meta if plain else untraced_meta
        stream = UnaryAttempt(conn, deadline)
        if rescue is not None:
            stream.late_at = now + LATE * (deadline - now)
        stats = node.stats
        stats.started(now)
        try:
            conn.open_unary(stream, open_meta, body)
            raw = await stream.future
        except CallError as error:
            node.record_result(now, error, method, deadline)
            if cluster.waiters:
                cluster.release()
            retrying = invoker.retry_unary(method, node, stream, now, body, error)
            del stream  # its future has the error, which has this frame
            raw = await retrying
        except BaseException as exc:  # the end of the call; raised again
            node.record_result(now, exc)
            if type(exc) is RuntimeError and not invoker.is_here():
                return await client.invoker.unary(method, args, None, timeout=method.timeout)
            conn.reset(stream, Code.CANCELLED, "the caller was cancelled")
            if cluster.waiters:
                cluster.release()
            raise
        else:
            ended = monotonic()
            stats.finished(ended, ended - now, True)
            node.breaker.succeeded(ended)
            if rescue is not None and ended >= rescue.sample_at:
                rescue.add(ended - now, ended)
            if method.tally is not None:
                method.count_answer(node.key, ended)
        if cluster.waiters:
            cluster.release()
        return decode(raw)

    return stub


def _optioned_stub(client: StubClient, method: Method, take: _Take) -> Callable[..., Any]:
    """Return the stub of a function whose calls are hedged, or have options."""

    async def stub(*args: Any, **kwargs: Any) -> Any:
        taken = take(kwargs)
        taken.setdefault("timeout", method.timeout)
        return await client.invoker.unary(method, args, kwargs, **taken)

    return stub


def _client_stream_stub(client: StubClient, method: Method, take: _Take) -> Callable[..., Any]:
    from rap.client.request_pump import client_stream  # few clients send request streams

    async def stub(*args: Any, **kwargs: Any) -> Any:
        taken = take(kwargs)
        return await client_stream(client.invoker, method, args, kwargs, **taken)[1]

    return stub


def _starter(client: StubClient, method: Method, take: _Take) -> Callable[..., Any]:
    """Return the function that starts a call and returns its call object."""

    def start(*args: Any, **kwargs: Any) -> Any:
        taken, invoker = take(kwargs), client.invoker
        if method.stream_type.server_streams:
            return iterator_call(invoker, method, args, kwargs, **taken)
        if method.stream_type is StreamType.CLIENT_STREAM:
            from rap.client.request_pump import client_stream

            return invoker.start_task(*client_stream(invoker, method, args, kwargs, **taken))
        taken.setdefault("timeout", method.timeout)
        return invoker.start(method, args, kwargs, **taken)

    return start


def _stream_stub(client: StubClient, method: Method, take: _Take) -> Callable[..., Any]:
    def stub(*args: Any, **kwargs: Any) -> ResponseStream[Any]:
        taken = take(kwargs)
        return iterator_call(client.invoker, method, args, kwargs, **taken)

    return stub


def iterator_call(
    invoker: Invoker,
    method: Method,
    args: Any,
    kwargs: Any,
    *,
    session: Session | None = None,
    header: dict[str, Any] | None = None,
    timeout: float | None = None,
    affinity: str | None = None,
    wait_for_ready: WaitForReady = None,
    priority: str | None = None,
) -> ResponseStream[Any]:
    """Return the response stream of a remote generator, or of a bidirectional call."""
    function, source, pump = method.function, None, None
    if function is not None and function.stream_parameter is not None:
        args, kwargs, source = function.split_arguments(args, kwargs)
    body = method.encode(args, kwargs)
    limit = method.timeout if timeout is None else timeout
    call, session = invoker.start_call(
        method, method.stream_type, session, header, limit, affinity, wait_for_ready, priority
    )
    decode_item: Callable[[Any], Any] = decode_any
    decode_items: Callable[[Any], list[Any]] = _decode_items
    if function is not None:
        decode_item, decode_items = function.decode_item, function.decode_items
        if function.stream_parameter is not None:
            from rap.client.request_pump import RequestPump

            pump = RequestPump(method, call, invoker.pipeline, source)
    return ResponseStream(invoker, method, call, session, body, decode_item, decode_items, pump)


def _decode_items(body: bytes | memoryview) -> list[Any]:
    items = decode_any(body)
    if not isinstance(items, list):
        raise CallError("a batch of items must be an array", code=Code.INTERNAL)
    return items


def _channel_stub(
    client: StubClient, method: Method, func: Callable[..., Any], take: _Take
) -> Callable[..., Any]:
    function = method.function
    assert function is not None
    takes_arguments = len(function.signature.parameters) > 1

    async def stub(*args: Any, **kwargs: Any) -> Any:
        taken = take(kwargs)
        if (args or kwargs) and not takes_arguments:
            raise unwanted_arguments(method)
        call: ChannelCall = ChannelCall(client, client.invoker, method, args, kwargs, **taken)
        return await call.run(func)

    return stub
