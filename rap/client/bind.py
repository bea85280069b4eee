"""A typed stub of a whole group from a class or `Protocol` that declares its methods."""

import inspect
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, TypeVar

from rap.client.hedge import check_options
from rap.client.plan import Plans
from rap.client.stub import make_stub
from rap.function import Function
from rap.message import Shape

if TYPE_CHECKING:
    from rap.client.core import Client

__all__ = ["bind_interface"]

I = TypeVar("I")  # noqa: E741


def bind_interface(
    client: "Client",
    plans: Plans,
    interface: Callable[..., I],
    group: str | None,
    timeout: float | None,
    idempotent: bool,
    hedge: bool | float | None,
) -> I:
    """Return an object whose methods are the remote twins of those that `interface` declares.

    A channel function among them has the object as its `self`; nothing else of it is run.

    Args:
        client: Makes the calls.
        plans: Makes their plans.
        interface: The declaration, a class; typed so that a `Protocol` is one for type checkers.
        group: See `Client.bind`, as for the others.
        timeout: Of all methods.
        idempotent: Of all methods.
        hedge: Of the unary ones.

    Raises:
        ValueError: One of the last three is no such value.
        RegistrationError: Hints are missing or cannot be sent.
        TypeError: It is no class, or declares no public method.
    """
    check_options(timeout, idempotent, hedge)
    if not isinstance(interface, type):
        raise TypeError(f"bind takes a class or Protocol that declares methods, got {interface!r}")
    bound: I = type(f"{interface.__name__}Stub", (), {})()
    for name in dir(interface):
        method = _method(inspect.getattr_static(interface, name), bound)
        if method is not None and not name.startswith("_"):
            function = Function.of(method, name=name)
            hedged = hedge if function.shape is Shape.UNARY else None
            home = group or interface.__name__
            plan = plans.make(name, home, function, timeout, idempotent, hedge=hedged)
            setattr(bound, name, make_stub(client, plan, method))
    if not vars(bound):
        raise TypeError(f"{interface!r} declares no public method")
    return bound


def _method(declared: Any, owner: object) -> Callable[..., Any] | None:
    """Return a declared method without its `self` or `cls`; `None` for anything else."""
    if isinstance(declared, staticmethod):
        return declared.__func__
    if isinstance(declared, classmethod):
        declared = declared.__func__
    return MethodType(declared, owner) if isinstance(declared, FunctionType) else None
