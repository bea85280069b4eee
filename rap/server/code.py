"""Imports functions, and runs the source of their modules again, for the group ``registry``."""

import importlib
import inspect
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import find_spec, module_from_spec
from operator import attrgetter
from types import ModuleType
from typing import Any

from rap.errors import CallError, Code, InvalidArgument, NotFound

__all__ = ["import_function", "reimport_function"]


def import_function(path: str, func_str: str) -> Callable[..., Any]:
    """Return a function of a module.

    Raises:
        CallError: The module cannot be imported, or has no such function.
    """
    try:
        module = importlib.import_module(path)
    except Exception as exc:  # running a module can raise anything
        raise _failed(path, exc) from exc
    return _pick(module, path, func_str)


def reimport_function(path: str, func_str: str) -> Callable[..., Any]:
    """Run the source of a module again and return a function of it; see `import_function`.

    The new module replaces the old one only if this succeeds. Running code keeps the globals of the
    old module, which `importlib.reload` would change.
    """
    old = sys.modules.get(path)
    try:
        importlib.invalidate_caches()
        spec = find_spec(path)
        if spec is None or spec.loader is None:
            raise ModuleNotFoundError(f"No module named {path!r}")
        module = module_from_spec(spec)
        sys.modules[path] = module
        _execute(module, spec)
        func = _pick(module, path, func_str)
    except BaseException as exc:  # running a module can raise anything; raised again
        if old is not None:
            sys.modules[path] = old
        else:
            sys.modules.pop(path, None)
        if isinstance(exc, CallError) or not isinstance(exc, Exception):
            raise
        raise _failed(path, exc) from exc
    parent, _, child = path.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], child, module)
    return func


def _execute(module: ModuleType, spec: ModuleSpec) -> None:
    """Run the code of a module, from its source if there is one.

    The bytecode cache is bypassed, because it misses an edit within one second that does not change
    the size of the source.
    """
    loader = spec.loader
    assert loader is not None
    if isinstance(loader, SourceFileLoader) and spec.origin is not None:
        code = loader.source_to_code(loader.get_data(spec.origin), spec.origin)
        exec(code, module.__dict__)
    else:
        loader.exec_module(module)


def _pick(module: ModuleType, path: str, func_str: str) -> Callable[..., Any]:
    try:
        func: Callable[..., Any] = attrgetter(func_str)(module)
    except AttributeError as exc:
        raise NotFound(f"module {path!r} has no {func_str!r}") from exc
    if not callable(func) or inspect.isclass(func):
        raise InvalidArgument(f"{func_str!r} of module {path!r} is not a function")
    return func


def _failed(path: str, exc: Exception) -> CallError:
    text = f"cannot import {path!r}: {type(exc).__name__}: {exc}"
    return CallError(text, code=Code.FAILED_PRECONDITION)
