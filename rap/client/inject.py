"""Replace a function of a module by its stub, and restore it.

Code that calls the function through its module then calls a server, without being changed. Code
that imported it before by ``from module import function`` keeps the local one.
"""

import sys
from collections.abc import Callable, Collection
from types import ModuleType
from typing import Any, Protocol, TypeVar

from rap.client.config import StubOptions
from rap.client.waiting import WaitForReady
from rap.errors import Code
from rap.options import checks_options

__all__ = ["get_raw_func", "inject", "recovery"]

F = TypeVar("F", bound=Callable[..., Any])

_LOCAL = "__rap_local__"  # attribute of an injected stub: the function that it replaces


class Registers(Protocol):
    """A client of either kind."""

    @property
    def register(self) -> Callable[..., Any]:
        """Returns a decorator that makes stubs."""
        ...


@checks_options(StubOptions)
def inject(
    client: Registers,
    func: F,
    name: str = "",
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
) -> F:
    """Replace a function by its stub in the module that defines it; return the stub.

    Args:
        client: Makes the calls.
        func: A function of a module: for `Client` an ``async def``, for `SyncClient` any.
        name: Name of the function on the server. An empty name means the name of the declared
            function. Default ''.
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
        ValueError: It is not a function of a module, or it is injected already.
        TypeError: The client does not take such a function.
        RegistrationError: Type hints are missing, or values of a type cannot be sent.
    """
    module = _home(func)
    if hasattr(getattr(module, func.__name__), _LOCAL):
        raise ValueError(f"{func.__module__}.{func.__name__} is injected already")
    options = {
        "timeout": timeout,
        "idempotent": idempotent,
        "hedge": hedge,
        "priority": priority,
        "wait_for_ready": wait_for_ready,
        "max_attempts": max_attempts,
        "retry_codes": retry_codes,
        "retry_pause": retry_pause,
        "hedge_share": hedge_share,
        "fault_codes": fault_codes,
    }
    stub: F = client.register(name, group, **options)(func)
    setattr(stub, _LOCAL, func)
    setattr(module, func.__name__, stub)
    return stub


def recovery(func: F) -> F:
    """Restore a function that was injected; return it.

    Args:
        func: The function or its stub.

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
    """Return the local function that a stub replaces; any other function as it is."""
    local: F = getattr(func, _LOCAL, func)
    return local


def _home(func: Callable[..., Any]) -> ModuleType:
    """Return the module that has the function, or its stub, under its name.

    Raises:
        ValueError: There is no such module.
    """
    module = sys.modules.get(getattr(func, "__module__", None) or "")
    name = getattr(func, "__name__", None)
    held = getattr(module, name, None) if module is not None and name is not None else None
    if module is None or held is None or get_raw_func(held) is not get_raw_func(func):
        raise ValueError(f"{func!r} is not a function of a module under its own name")
    return module
