"""Put the remote twin of a function in its place in its module, and take it out again.

Code that calls the function through its module then calls a server without being changed. Who took
it by ``from module import function`` before keeps the local one.
"""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol, TypeVar

__all__ = ["get_raw_func", "inject", "recovery"]

F = TypeVar("F", bound=Callable[..., Any])

_LOCAL = "__rap_local__"  # attribute of a twin that was injected: the function it stands for


class Registers(Protocol):
    """A client of either kind."""

    @property
    def register(self) -> Callable[..., Any]:
        """What returns a decorator that makes remote twins."""
        ...


def inject(
    client: Registers,
    func: F,
    name: str = "",
    group: str | None = None,
    *,
    timeout: float | None = None,
    idempotent: bool = False,
    hedge: bool | float | None = None,
) -> F:
    """Replace a function by its remote twin in the module that defines it; return the twin.

    Args:
        client: Makes the calls.
        func: A function of a module; for `Client` an ``async def``, for `SyncClient` any.
        name: Its name on the server; by default its own.
        group: Its group on the server.
        timeout: Seconds a call may take; see `Client.register`.
        idempotent: See `Client.register`.
        hedge: See `Client.register`.

    Raises:
        ValueError: It is no function of a module, or is injected already.
        TypeError: The client takes no such function.
        RegistrationError: Its hints are missing or cannot be sent.
    """
    module = _home(func)
    if hasattr(getattr(module, func.__name__), _LOCAL):
        raise ValueError(f"{func.__module__}.{func.__name__} is injected already")
    options = {"timeout": timeout, "idempotent": idempotent, "hedge": hedge}
    twin: F = client.register(name, group, **options)(func)
    setattr(twin, _LOCAL, func)
    setattr(module, func.__name__, twin)
    return twin


def recovery(func: F) -> F:
    """Put a function back in the place of its twin, either of which is given; return it.

    Raises:
        ValueError: It is not injected.
    """
    local = get_raw_func(func)
    module = _home(local)
    if not hasattr(getattr(module, local.__name__), _LOCAL):
        raise ValueError(f"{local.__module__}.{local.__name__} is not injected")
    setattr(module, local.__name__, local)
    return local


def get_raw_func(func: F) -> F:
    """Return the local function behind a twin; any other function as it is."""
    local: F = getattr(func, _LOCAL, func)
    return local


def _home(func: Callable[..., Any]) -> ModuleType:
    """Return the module that has the function, or its twin, under its name.

    Raises:
        ValueError: There is none.
    """
    module = sys.modules.get(getattr(func, "__module__", None) or "")
    name = getattr(func, "__name__", None)
    held = getattr(module, name, None) if module is not None and name is not None else None
    if module is None or held is None or get_raw_func(held) is not get_raw_func(func):
        raise ValueError(f"{func!r} is no function of a module under its own name")
    return module
