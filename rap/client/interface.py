"""Interfaces: classes that declare the functions of a group, and the stubs made from them."""

import inspect
from collections.abc import Callable, Collection, Coroutine
from types import FunctionType, MethodType
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from rap.call import StreamType
from rap.channel import Channel
from rap.client.config import StubOptions
from rap.client.retry import check_hedge
from rap.client.stub import Binds
from rap.client.waiting import WaitForReady
from rap.errors import Code
from rap.options import checks_options
from rap.schema.function import Function
from rap.schema.markers import is_marked_in

__all__ = ["bind", "channel_method", "interface"]

C = TypeVar("C", bound=type)
I = TypeVar("I")  # noqa: E741
P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")

_GROUP = "__rap_group__"  # attribute of an interface that names its group


@checks_options(StubOptions)
def bind(
    client: Binds,
    interface: Callable[..., I],
    group: str | None = None,
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
) -> I:
    """Return an object whose methods are stubs of those of a class or `Protocol`.

    Args:
        client: Makes the calls.
        interface: Declares the methods, each with `self` and type hints.
        group: Group of the function on the server. `None` means `default`, or with `bind` the group
            that `interface` names, or else the name of the class. Default None.
        timeout: Seconds that a call may take. `None` means the client's `timeout` for unary
            functions, and no deadline for all others. Default None, more than 0.
        idempotent: Whether calling twice has the same effect as calling once. If so, a call whose
            connection is lost is retried on another server. Default False.
        hedge: Seconds without an answer after which the call is also sent to a second server; the
            first answer counts. `True` means the 95th to 99th percentile of the function's latency.
            It needs `idempotent` and a unary function; with `bind`, it applies to the unary
            functions. Default None, more than 0.
        priority: Priority of its calls: `critical`, `default` or `sheddable`. `None` means the
            `priority` of the client. Default None.
        wait_for_ready: How long its calls wait for a server if none is connected: `True`, `False`
            or a number of seconds. `None` means the `wait_for_ready` of the client. Default None.
        max_attempts: Maximum attempts of one call. `None` means the `max_attempts` of the client.
            Default None, at least 1.
        retry_codes: Error codes after which a call is made again, if the function is idempotent.
            `None` means the `retry_codes` of the client. Default None.
        retry_pause: Maximum pause before the second attempt. `None` means the `retry_pause` of the
            client. Default None, at least 0.
        hedge_share: Maximum hedged requests as a share of the calls. `None` means the `hedge_share`
            of the client. Default None, 0 to 1.
        fault_codes: Error codes that may be the fault of the server. `None` means the `fault_codes`
            of the client; with an empty list, calls of the function eject no server. Default None.

    Raises:
        RegistrationError: Type hints are missing, or values of a type cannot be sent.
        TypeError: The interface declares no public method.
    """
    own: dict[str, Any] = {
        "wait_for_ready": wait_for_ready,
        "max_attempts": max_attempts,
        "retry_codes": retry_codes,
        "retry_pause": retry_pause,
        "hedge_share": hedge_share,
        "fault_codes": fault_codes,
    }
    if not isinstance(interface, type):
        text = f"bind takes a class or Protocol that declares methods, got {interface!r}"
        raise TypeError(f"{text}; give the class: bind({type(interface).__name__})")
    repeatable = {name for name in dir(interface) if idempotent or is_marked_in(interface, name)}
    check_hedge(hedge, bool(repeatable))
    bound = cast(I, type(f"{interface.__name__}Stub", (), {})())
    home = group or getattr(interface, _GROUP, None) or interface.__name__
    for name in dir(interface):
        declared = _declared_method(inspect.getattr_static(interface, name), bound)
        if declared is not None and not name.startswith("_"):
            function = Function.of(declared, name=name)
            is_unary, is_repeatable = function.stream_type is StreamType.UNARY, name in repeatable
            hedged = hedge if is_unary and is_repeatable else None
            options = (timeout, is_repeatable, True, hedged, priority)
            method = client.methods.make(name, home, function, *options, **own)
            setattr(bound, name, client.stub_of(method, declared))
    if not vars(bound):
        raise TypeError(f"{interface!r} declares no public method")
    return bound


def _declared_method(declared: Any, owner: object) -> Callable[..., Any] | None:
    """Return a declared method without its `self` or `cls`; `None` for anything else."""
    if isinstance(declared, staticmethod):
        return declared.__func__
    if isinstance(declared, classmethod):
        declared = declared.__func__
    return MethodType(declared, owner) if isinstance(declared, FunctionType) else None


def interface(*, group: str) -> Callable[[C], C]:
    """Name the group of the functions that a class declares; it is a decorator.

    `bind` then needs no `group`. `rap stub` writes it. Derived classes have the same group.

    Args:
        group: Group of the functions on the server; `default` is that of functions which are
            registered without one.

    Raises:
        TypeError: `group` is not the name of a group, or what is decorated is not a class.
    """
    if not isinstance(group, str) or not group:
        raise TypeError(f"group must be the name of a group, such as 'default', got {group!r}")

    def decorate(declared: C) -> C:
        if not isinstance(declared, type):
            raise TypeError(f"interface is for classes, got {declared!r}")
        setattr(declared, _GROUP, group)
        return declared

    return decorate


def channel_method(
    func: Callable[Concatenate[S, Channel[Any, Any], P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Declare a channel function of an interface, whose body runs on the client.

    It is a decorator. It returns the function as it is, and tells type checkers that callers do not
    pass the channel: `bind` opens it for each call.

    Args:
        func: An ``async def`` with a `Channel` as its first parameter after `self`.
    """
    return cast(Callable[Concatenate[S, P], Coroutine[Any, Any, R]], func)
