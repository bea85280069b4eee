"""What a stub does besides a plain call, so that type checkers still know its function."""

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from rap.client.config import CallOptions, StubOptions
from rap.client.response_stream import ResponseStream
from rap.client.session import Session
from rap.client.unary_call import UnaryCall
from rap.client.waiting import WaitForReady
from rap.clock import check_call_timeout
from rap.options import checks_options

if TYPE_CHECKING:
    from rap.client.sync.call import SyncCall
    from rap.client.sync.channel import SyncIterator
    from rap.client.sync.client import SyncSession

__all__ = ["start_call", "with_options"]

F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
R = TypeVar("R")


_OF_FUNCTIONS = {
    name: f"it is an option of functions: bind the declaration with {name}=..."
    for name in StubOptions.__annotations__
}


@checks_options(CallOptions, elsewhere=_OF_FUNCTIONS)
def with_options(
    stub: F,
    *,
    session: "Session | SyncSession | None" = None,
    header: dict[str, Any] | None = None,
    timeout: float | None = None,
    affinity: str | None = None,
    wait_for_ready: WaitForReady = None,
    priority: str | None = None,
) -> F:
    """Return a stub whose calls have options: ``await with_options(calc.add, timeout=3)(1, 2)``.

    It has the type and the members of the stub, such as `start`. You may keep it and call it any
    number of times, and give it further options.

    Args:
        stub: A function of `bind`, or one declared with `register`, of a `Client` or a
            `SyncClient`, of any stream type.
        session: Session of the calls. `None` means the one that the caller is in, if any. Default
            None.
        header: Header that is sent with the calls: a dict of names to msgpack values. Default None.
        timeout: Seconds that a call may take. With 0 or less, it fails with `DeadlineExceeded` at
            once. `None` means the `timeout` of the stub, or for unary calls that of the client.
            Default None.
        affinity: Key whose calls go to the same server, with `picker="rendezvous"`. Default None.
        wait_for_ready: How long a call waits for a server if none is connected: `True`, `False` or
            a number of seconds. `None` means the `wait_for_ready` of the client. Default None.
        priority: Priority of the calls: `critical`, `default` or `sheddable`. `None` means that of
            the stub or the client, but no higher one than that of the call that is being served.
            Default None.

    Raises:
        TypeError: `stub` is not a stub, or an option does not exist or has a wrong type.
        ValueError: An option has a bad value; the message names it.
    """
    change = getattr(stub, "__rap_change__", None)
    if change is None:
        raise TypeError(
            _not_a_stub(stub, "with_options", "with_options(calc.add, timeout=3)(1, 2)")
        )
    check_call_timeout(timeout)
    if session is not None and not isinstance(session, Session):
        session = _plain(session)
    if header is not None and not isinstance(header, dict):
        raise TypeError(f"header must be a dict, got {header!r}")
    if affinity is not None and not isinstance(affinity, str):
        raise TypeError(f"affinity must be a string, got {affinity!r}")
    options = {
        "session": session,
        "header": header,
        "timeout": timeout,
        "affinity": affinity,
        "wait_for_ready": wait_for_ready,
        "priority": priority,
    }
    changed: F = change({name: value for name, value in options.items() if value is not None})
    return changed


@overload
def start_call(  # type: ignore[overload-overlap]  # the first that fits
    stub: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
) -> UnaryCall[R]: ...
@overload
def start_call(  # type: ignore[overload-overlap]  # as above
    stub: Callable[P, AsyncIterator[R]], /, *args: P.args, **kwargs: P.kwargs
) -> ResponseStream[R]: ...
@overload
def start_call(  # type: ignore[overload-overlap]  # as above
    stub: Callable[P, Iterator[R]], /, *args: P.args, **kwargs: P.kwargs
) -> "SyncIterator[R]": ...
@overload
def start_call(stub: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> "SyncCall[R]": ...
def start_call(stub: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Start a call and return an object for it, which has more than the result.

    Its members are `header` and `trailer` of the answer, `peer` (the server), `attempts`, `cancel`
    and `done`. It is ``call = start_call(calc.add, 1, 2)``, and then ``await call``, or for a
    `SyncClient` ``call.result()``. For a generator it is the iterator over the items, which has the
    same members; its call begins with the first item.

    Args:
        stub: A function of `bind`, or one declared with `register`, of a `Client` or a
            `SyncClient`; with options, it is what `with_options` returns.
        args: Positional arguments of the function.
        kwargs: Keyword arguments of the function.

    Raises:
        TypeError: `stub` is not a stub, or it is that of a channel function.
        InvalidArgument: The arguments do not fit the function.
        RuntimeError: The client is not connected.
    """
    if not hasattr(stub, "__rap_change__"):
        raise TypeError(_not_a_stub(stub, "start_call", "start_call(calc.add, 1, 2)"))
    start = getattr(stub, "start", None)
    if start is None:
        name = getattr(stub, "__name__", "shop.chat")
        raise TypeError(
            f"start_call is for functions without a Channel; open that of {name} with"
            f" `async with client.channel({name}, ...) as channel`"
        )
    return start(*args, **kwargs)


def _plain(session: object) -> Session:
    from rap.client.sync.client import SyncSession  # programs with an event loop do not need it

    if not isinstance(session, SyncSession):
        raise TypeError(f"session must be a session of the client, got {session!r}")
    return session.session


def _not_a_stub(given: object, taker: str, use: str) -> str:
    """Return the text of the error for what is not a stub.

    Args:
        given: It, which may be the call of one.
        taker: The function that it was given to.
        use: How that is used.
    """
    if inspect.iscoroutine(given):
        given.close()  # it is never awaited
    if inspect.isawaitable(given) or hasattr(given, "__anext__"):
        return f"{taker} takes the function, not its call: write {use}"
    return (
        f"{taker} takes a function of client.bind(...), or one that is declared with"
        f" @client.register, got {given!r}"
    )
