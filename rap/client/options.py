"""Options of one call, given so that type checkers still know the function that is called."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from rap.client.config import CallOptions
from rap.client.session import Session
from rap.client.waiting import WaitForReady
from rap.clock import check_call_timeout
from rap.options import checks_options

if TYPE_CHECKING:
    from rap.client.sync.client import SyncSession

__all__ = ["with_options"]

F = TypeVar("F", bound=Callable[..., Any])


@checks_options(CallOptions)
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
        raise TypeError(_not_a_stub(stub))
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


def _plain(session: object) -> Session:
    from rap.client.sync.client import SyncSession  # programs with an event loop do not need it

    if not isinstance(session, SyncSession):
        raise TypeError(f"session must be a session of the client, got {session!r}")
    return session.session


def _not_a_stub(given: object) -> str:
    if inspect.iscoroutine(given):
        given.close()  # it is never awaited
    if inspect.isawaitable(given) or hasattr(given, "__anext__"):
        return (
            "with_options takes the function, not its call:"
            " write with_options(calc.add, timeout=3)(1, 2)"
        )
    return (
        "with_options takes a function of client.bind(...), or one that is declared with"
        f" @client.register, got {given!r}"
    )
