"""The marker of functions that may run twice. Declarations carry it, and both ends read it."""

from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar

__all__ = ["idempotent", "is_marked", "is_marked_in"]

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__rap_idempotent__"


def idempotent(func: F) -> F:
    """Declare that calling a function twice has the same effect as calling it once.

    It is a decorator for methods of a `Protocol` or a class, and it holds for derived classes. A
    client that binds the `Protocol` calls the function again on another server if the connection of
    a call is lost, as with ``bind(…, idempotent=True)`` for all functions. A server that registers
    the class tells so in the description of the function.

    Args:
        func: The function.

    Raises:
        TypeError: It is not a function.
    """
    given: object = func
    if not isinstance(given, FunctionType):
        raise TypeError(
            f"idempotent is for a function of a class or Protocol, got {func!r};"
            f" for all functions, write client.bind(..., idempotent=True)"
        )
    setattr(func, _MARK, True)
    return func


def is_marked(func: object) -> bool:
    """Return whether a function itself is marked as `idempotent`."""
    return getattr(func, _MARK, False) is True


def is_marked_in(owner: type, name: str) -> bool:
    """Return whether a class, or one that it is derived from, marks the function of a name."""
    found = (vars(each).get(name) for each in owner.__mro__)
    return any(is_marked(getattr(each, "__func__", each)) for each in found)
